"""Run the fast tests of loading and quantizing with the oldest versions that ``pyproject.toml`` accepts.

    python -m tools.oldest             # tests/io and tests/ptq
    python -m tools.oldest tests/io    # other tests

The versions go into a virtual environment of their own, ``build/oldest``: some minutes and about 6 GB the
first time. It is made again when a lower bound has changed.
"""

import argparse
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "oldest"
TESTS = ("tests/io", "tests/ptq")
EXTRAS = ("hub", "test")


def oldest(requirement: str) -> str:
    """Return the requirement pinned to its lower bound: ``"a>=1.2,<2"`` becomes ``"a==1.2"``.

    A requirement without a lower bound stays: pip then takes what fits the others.

    Raises:
        ValueError: there are several lower bounds, or one of another form than ``>=``.
    """
    parsed = Requirement(requirement)
    bounds = [each for each in parsed.specifier if each.operator not in ("<", "<=", "!=")]
    if not bounds:
        return requirement
    if len(bounds) > 1 or bounds[0].operator != ">=":
        raise ValueError(f"requirement={requirement!r} has no single lower bound: write it as name>=version")
    return f"{parsed.name}=={bounds[0].version}"


def pins(pyproject: Path = ROOT / "pyproject.toml") -> list[str]:
    """Return the oldest versions of what the library, its text encoders and its tests need."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    extras = [each for name in EXTRAS for each in project["optional-dependencies"][name]]
    return [oldest(each) for each in [*project["dependencies"], *extras]]


def environment(folder: Path = FOLDER) -> Path:
    """Make the virtual environment, unless it has these versions already, and return its interpreter."""
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    stamp, wanted = folder / "installed.txt", "\n".join(pins())
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *pins()], check=True)
        stamp.write_text(wanted, encoding="utf-8")
    return python


def main(arguments: list[str] | None = None) -> int:
    """Run the tests, and return pytest's exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tests", nargs="*", default=TESTS, help="files or folders; default: %(default)s")
    tests = parser.parse_args(arguments).tests
    command = [environment(), "-m", "pytest", "-q", "-m", "not slow", *tests]
    return subprocess.run(command, cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
