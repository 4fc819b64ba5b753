"""Kills ``quantize`` at many random moments, continues as it advises, and compares the resulting files.

    python -m tools.torture --kills 200 --seed 0

Each run is a small quantization with all stages (or with the method linear) of a tiny random network, with
cached activations in files. It is killed one to three times by SIGKILL, SIGINT (Ctrl-C), SIGTERM or SIGHUP.
Half of the kills come at a random time, half at a random file event. The result must have the same bits as
that of a run without kills. The tool prints a table. It exits with 1 if a run ended with other bits or files,
with a wrong exit status, with a traceback, or without advice. It needs Linux or macOS.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from .kills import Ended, Event, Server, save_model

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
MOST_KILLS = 3  # most kills of one run
LINEAR = 0.15  # share of runs with the method linear
STAGES = ("start", "recording", "units", "whole network", "bias correction", "saving", "tidying", "end")


@dataclass(frozen=True)
class Reference:
    """A run without kills.

    argv: its arguments without --out. files: the files that it wrote (see ``files_of``). seconds, events: its
    duration, and its number of file events of each kind.
    """

    argv: list[str]
    files: dict
    seconds: float
    events: dict[str, int]


@dataclass
class Found:
    """The counts so far.

    kills: number of kills by (signal, stage). missed: kills that came after the end of a run. runs: number of
    runs. wrong: descriptions of what went wrong.
    """

    kills: Counter = field(default_factory=Counter)
    missed: int = 0
    runs: int = 0
    wrong: list[str] = field(default_factory=list)


def files_of(out: Path) -> dict:
    """The bytes of each file below a folder, by path; report.json is parsed and its times are set to 0."""
    found = {str(p.relative_to(out)): p.read_bytes() if p.is_file() else None for p in out.rglob("*")}
    if found.get("report.json"):
        report = json.loads(found["report.json"])
        units = [{**unit, "seconds": 0} for unit in report["units"]]
        found["report.json"] = {**report, "seconds": 0, "units": units}
    return found


def stage_of(text: str, out: Path) -> str:
    """The stage in which a run was killed, from its output ``text`` and its files."""
    if not text:
        return "start"
    if "\nwrote " in text:
        return "end"
    if (out / "report.json").exists():
        return "tidying"
    if (out / "model_index.json").exists() or any(out.glob(".qdiff-*")):
        return "saving"
    before, network, after = text.partition("whole network:")
    if network:
        return "bias correction" if " images:" in after else "whole network"
    if "reconstructing" in text:
        return "units"
    return "recording" if "calibration set:" in text else "start"


def reference(server: Server, argv: list[str], folder: Path) -> Reference:
    """Run a command without kills. Raises RuntimeError, with the output, if the command fails."""
    start, out = time.monotonic(), folder / "out"
    ended = server.run([*argv, "--out", str(out)], folder / "log", count=folder / "count")
    if ended.status:
        raise RuntimeError(ended.text)
    seconds = time.monotonic() - start
    made = Reference(argv, files_of(out), seconds, json.loads((folder / "count").read_text()))
    shutil.rmtree(out)
    return made


def killed(server: Server, argv: list[str], log: Path, number: int, expected: Reference, chance) -> Ended:
    """A run that gets the signal ``number`` at a random moment, which may be after the end of the run.

    chance: the random generator.
    """
    if chance.random() < 0.5:
        kind = chance.choice(sorted(expected.events))  # each kind equally often: most file events are "open"
        nth = chance.randrange(1, expected.events[kind] + 1)
        return server.run(argv, log, Event(number, kind, nth=nth))
    delay = chance.uniform(0, expected.seconds)

    def kill(child: int) -> None:
        time.sleep(delay)
        try:
            os.kill(child, number)
        except ProcessLookupError:
            return

    return server.run(argv, log, watch=kill)


def torture(server: Server, expected: Reference, folder: Path, kills: int, chance, found: Found) -> None:
    """One run with ``kills`` kills, which then continues to its end; the results are added to ``found``."""
    out, log = folder / "out", folder / "log"
    first = argv = [*expected.argv, "--out", str(out)]
    told = []
    for _ in range(kills):
        number = chance.choice(SIGNALS)
        ended = killed(server, argv, log, number, expected, chance)
        stage = stage_of(ended.text, out)
        told.append(f"{signal.Signals(number).name} in {stage}: exit {ended.status}")
        if "Traceback" in ended.text or ended.status not in (0, -number, 128 + number):
            found.wrong.append(f"{'; '.join(told)}: {ended.text[-2000:]}")
        if ended.status == 0:
            found.missed += 1
            break
        found.kills[number, stage] += 1
        advised = ended.advised()
        if ended.status > 0 and advised is None:
            found.wrong.append(f"{'; '.join(told)}: no advice: {ended.text[-500:]}")
        if number != signal.SIGKILL and ended.status < 0 and ended.text and stage != "end":
            found.wrong.append(f"{'; '.join(told)}: died without a word: {ended.text[-500:]}")
        argv = advised or [*first, "--resume"]
    ended = server.run(argv, log) if ended.status else ended
    found.runs += 1
    found.wrong += [f"{'; '.join(told)}: {problem}" for problem in problems(ended, out, expected)]
    shutil.rmtree(out, ignore_errors=True)


def problems(ended: Ended, out: Path, expected: Reference) -> list[str]:
    """The differences of a run that has ended from the run without kills, as texts."""
    if ended.status or "Traceback" in ended.text:
        return [f"exit {ended.status}: {ended.text[-2000:]}"]
    there = files_of(out)
    changed = [
        name for name in there.keys() | expected.files.keys() if there.get(name) != expected.files.get(name)
    ]
    return [f"other files: {', '.join(sorted(changed))}"] if there != expected.files else []


def table(found: Found) -> str:
    """A table of the number of kills by signal and stage, as text."""
    numbers = sorted({number for number, _ in found.kills})
    lines = ["".join(f"{text:>16}" for text in ("killed by", *STAGES))]
    for number in numbers:
        counts = [found.kills[number, stage] for stage in STAGES]
        lines.append("".join(f"{text:>16}" for text in (signal.Signals(number).name, *counts)))
    total = sum(found.kills.values())
    lines.append(
        f"{total} kills in {found.runs} runs, {found.missed} came too late; {len(found.wrong)} wrong"
    )
    return "\n".join(lines)


def main() -> int:
    """Run the command; returns 1 if anything went wrong, else 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="how many; default: 200")
    parser.add_argument("--seed", type=int, default=0, help="of the moments; default: 0")
    args = parser.parse_args()
    chance, found = random.Random(args.seed), Found()
    with Server() as server, tempfile.TemporaryDirectory(prefix="torture-") as temporary:
        folder = Path(temporary)
        shared = ["quantize", "--model", str(save_model(folder / "model")), "--memory-gb", "0.00001"]
        methods = {name: [*shared, "--method", name] for name in ("qdiffusion", "linear")}
        reference(server, methods["qdiffusion"], folder)  # the first run is slower
        known = {name: reference(server, argv, folder) for name, argv in methods.items()}
        while (done := sum(found.kills.values())) < args.kills:
            method = "linear" if chance.random() < LINEAR else "qdiffusion"
            kills = min(chance.randrange(1, MOST_KILLS + 1), args.kills - done)
            torture(server, known[method], folder, kills, chance, found)
            if sys.stderr.isatty():
                print(f"\r{done} kills", end="", file=sys.stderr)
    print("\n".join([*found.wrong, table(found)]))
    return 1 if found.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
