"""Make or resume the recorded results and the packed models of the lessons.

python experiments/run.py                     all of it, into data/; what is finished is not made again
python experiments/run.py --only ladder       some of it
python experiments/run.py --profile tiny      the whole path in minutes, into build/tables-tiny
torchrun --standalone --nproc_per_node 4 experiments/run.py       by 4 processes, on the CPU
"""

import argparse
import contextlib
import re
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import activation_ranges
import between_steps
import calibration_sampling
import error_per_step
import integer_scores
import ladder
import latent
import layer_divergence
import sensitivity
import ship_quantized
import shortcut_split
import sweeps
import table1
from lab import SEED, Lab
from paths import ROOT, manifest
from settings import PROFILES

from qdiff_lib.cli.failures import say_why
from qdiff_lib.cli.stopping import ended_in_words, say_stopped
from qdiff_lib.utils.cache import Cache
from qdiff_lib.utils.files import atomic_path, write_json
from qdiff_lib.utils.processes import Lost, launched, started
from qdiff_lib.utils.provenance import provenance

TABLES = {
    "ladder": ladder.run,
    "error_per_step": error_per_step.run,
    "activation_ranges": activation_ranges.run,
    "calibration_sampling": calibration_sampling.run,
    "shortcut_split": shortcut_split.run,
    "table1": table1.run,
    "sensitivity": sensitivity.run,
    "between_steps": between_steps.run,
    "layer_divergence": layer_divergence.run,
    "integer_scores": integer_scores.run,
    **sweeps.TABLES,
}
"""Each makes its table; one that takes long yields it after each row, with the rows that are there."""

NAMES = ("ship_quantized", *TABLES, "latent")
AGAIN = "repeat the command, with any number of processes"


def main() -> int:
    """Run the experiments; returns the exit status. Of several processes, one says why they have ended."""
    args = parse()
    if not launched():
        return make(args)

    def why(error: Exception) -> int:
        if not isinstance(error, Lost):
            raise error
        return say_why("experiments/run.py", f"{error}; then {AGAIN}")

    return ended_in_words(lambda: make(args), lambda number: say_stopped(AGAIN, number), why)


def make(args: argparse.Namespace) -> int:
    """Make the tables and models of these arguments; returns 0. Only the main process prints and writes."""
    processes, tiny = started(cpu=True), args.profile == "tiny"
    work = args.work or ROOT / "build" / ("tables-tiny" if tiny else "tables")
    out = work if tiny else ROOT / "data"
    lab = Lab(PROFILES[args.profile], Cache(work / "cache", processes))
    with contextlib.redirect_stdout(sys.stdout if processes.is_main else None):
        for i, name in enumerate(args.only, 1):
            print(f"[{i}/{len(args.only)}] {name}", flush=True)
            start = time.monotonic()
            make_one(lab, name, out, command_of(name, args.profile, processes.count))
            print(f"  {time.monotonic() - start:.0f} s", flush=True)
    return 0


def make_one(lab: Lab, name: str, out: Path, command: str) -> None:
    """Make the table or the models of this name, below ``out``."""
    if name == "ship_quantized":
        ship_quantized.run(lab, out / "models", command)
    else:
        for data in table(lab, name, out / "recorded"):
            made = provenance(command) | {"seeds": seeds(lab)}
            if lab.processes.is_main:
                write_table(out / "recorded" / f"{name}.json", {"data": data, "provenance": made})
                write_json(out / "MANIFEST.json", manifest(out))
    if lab.processes.is_main:
        write_json(out / "MANIFEST.json", manifest(out))


def table(lab: Lab, name: str, recorded: Path) -> Iterator[dict]:
    """The table as it grows; that of the latent models writes pictures beside it."""
    return latent.run(lab, recorded / name) if name == "latent" else TABLES[name](lab)


def seeds(lab: Lab) -> dict:
    """The seed of the noise that is sampled from, and the seed of the recipes."""
    return {"noise": SEED, "recipe": lab.settings.qdiffusion(4, 8).seed}


def write_table(path: Path, content: dict) -> None:
    """Write JSON with every list of numbers on one line."""
    with atomic_path(path) as temporary:
        write_json(temporary, content)
        text = re.sub(r"\[[^][{}\"]+\]", lambda found: re.sub(r"\s+", "", found[0]), temporary.read_text())
        temporary.write_text(text, encoding="utf-8")


def command_of(name: str, profile: str, count: int) -> str:
    """What a reader would type; count: of processes."""
    launcher = ["python"] if count == 1 else ["torchrun", "--standalone", "--nproc_per_node", str(count)]
    options = [] if profile == "laptop" else ["--profile", profile]
    return shlex.join([*launcher, "experiments/run.py", *options, "--only", name])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--profile", choices=PROFILES, default="laptop", help="default: laptop")
    parser.add_argument(
        "--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=f"of {', '.join(NAMES)}"
    )
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="default: build/tables")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
