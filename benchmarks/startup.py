"""How long the command line takes to answer ``python -m qdiff_lib --help``."""

import statistics
import subprocess
import sys
import time

import common

ARGUMENTS = ["-m", "qdiff_lib", "--help"]


def measure(quick: bool = False) -> dict:
    """Seconds of fresh interpreters, one after the other, and their median."""
    runs = [seconds() for _ in range(2 if quick else 5)]
    return {"arguments": ARGUMENTS, "median_seconds": statistics.median(runs), "runs": runs}


def seconds() -> float:
    """One run, from start to exit. Raises CalledProcessError if it fails."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *ARGUMENTS], cwd=common.ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start
