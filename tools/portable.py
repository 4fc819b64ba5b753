"""Runs all tests with other instruction sets and other numbers of threads, in place of other processors.

python -m tools.portable                                # nine settings
python -m tools.portable --only SSE41 -- -m "not slow"  # some of them; after --, pytest's arguments

Other vector instructions and more threads add numbers in another order, so sums are rounded differently. This
finds tests that depend on the rounding of one processor, before they fail on another. The output of pytest is
in build/portable.
"""

import argparse
import os
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from itertools import product
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NATIVE = "native"  # the variable is not set: the instruction set of this processor
VALUES = {
    "ATEN_CPU_CAPABILITY": ("default", "avx2", NATIVE),
    "ONEDNN_MAX_CPU_ISA": ("SSE41", "AVX2", NATIVE),
    "OMP_NUM_THREADS": ("1", "2", "4"),
}
"""Instruction set of PyTorch's kernels, instruction set of oneDNN (convolutions), and threads of both."""


@dataclass(frozen=True)
class Result:
    """The result of one run of pytest. failed: names of tests. passed, skipped: numbers of tests."""

    passed: int
    failed: list[str]
    skipped: int
    seconds: float


def settings(everything: bool) -> list[tuple[str, ...]]:
    """The settings, each with one value for each variable in ``VALUES``.

    everything: all 27 settings; otherwise nine, in which each pair of values of two variables occurs once.
    """
    combinations = product(*(enumerate(values) for values in VALUES.values()))
    return [
        tuple(value for _, value in chosen)
        for chosen in combinations
        if everything or chosen[2][0] == (chosen[0][0] + chosen[1][0]) % 3
    ]


def environment(setting: tuple[str, ...]) -> dict[str, str]:
    """The environment variables of this process, changed to the setting."""
    kept = {name: value for name, value in os.environ.items() if name not in VALUES}
    pairs = zip(VALUES, setting, strict=True)
    return kept | {name: value for name, value in pairs if value != NATIVE}


def run(setting: tuple[str, ...], arguments: list[str], folder: Path) -> Result:
    """Run pytest with ``arguments`` under the setting; its output goes to ``folder``."""
    stem, start = folder / "-".join(setting), time.monotonic()
    report = stem.with_suffix(".xml")
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--junitxml={report}", *arguments]
    with stem.with_suffix(".txt").open("w") as log:
        code = subprocess.run(command, cwd=ROOT, env=environment(setting), stdout=log, stderr=log).returncode
    return read(report, code, time.monotonic() - start)


def read(report: Path, code: int, seconds: float) -> Result:
    """The result in a JUnit file; ``code``: pytest's exit status.

    If pytest failed but no test did, the result has one failure that names the exit status.
    """
    cases = list(ElementTree.parse(report).iter("testcase")) if report.exists() else []
    bad = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    failed = list(dict.fromkeys(f"{case.get('classname')}::{case.get('name')}" for case in bad))
    if code and not failed:
        failed = [f"pytest itself, exit {code}"]
    skipped = sum(case.find("skipped") is not None for case in cases)
    return Result(len(cases) - len(bad) - skipped, failed, skipped, seconds)


def row(setting: tuple[str, ...], result: Result) -> str:
    """A row of the table, in Markdown."""
    counts = f"{result.passed} | {len(result.failed)} | {result.skipped} | {result.seconds:.0f}"
    return f"| {' | '.join(setting)} | {counts} | {', '.join(result.failed)} |"


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns 1 if a test failed, else 0."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    mark = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--all", action="store_true", help="all 27 settings, not nine")
    parser.add_argument("--only", default="", metavar="REGEX", help="of settings as 'default SSE41 1'")
    parser.add_argument("--folder", type=Path, default=ROOT / "build/portable", help="for pytest's output")
    args = parser.parse_args(arguments[:mark])
    chosen = [s for s in settings(args.all) if re.search(args.only, " ".join(s))]
    if not chosen:
        parser.error(f"--only {args.only!r} matches no setting; they are: {settings(args.all)}")
    args.folder.mkdir(parents=True, exist_ok=True)
    results = []
    for setting in chosen:
        print(*setting, flush=True, file=sys.stderr)
        results.append(run(setting, arguments[mark + 1 :], args.folder))
    print(f"| {' | '.join(VALUES)} | passed | failed | skipped | seconds | failed tests |")
    print("|" + "---|" * (len(VALUES) + 5))
    print(*map(row, chosen, results), sep="\n")
    return int(any(result.failed for result in results))


if __name__ == "__main__":
    raise SystemExit(main())
