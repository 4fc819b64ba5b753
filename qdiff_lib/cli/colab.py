"""On Colab, after the course itself: install what is missing, but never torch, torchvision or numpy.

python -m qdiff_lib.cli.colab
"""

import importlib.metadata
import subprocess
import sys
import tempfile
from pathlib import Path

from packaging.requirements import Requirement

KEPT = ("torch", "torchvision", "numpy")  # built for Colab's driver and for each other


def missing() -> list[str]:
    """The requirements of qdiff_lib, other than ``KEPT``, that are absent here or too old."""
    found = map(Requirement, importlib.metadata.requires("qdiff_lib") or [])
    wanted = [line for line in found if line.name not in KEPT and not line.marker]
    return [str(line) for line in wanted if not satisfied(line)]


def satisfied(requirement: Requirement) -> bool:
    """Whether a fitting version is installed."""
    try:
        return requirement.specifier.contains(importlib.metadata.version(requirement.name), prereleases=True)
    except importlib.metadata.PackageNotFoundError:
        return False


def complete() -> None:
    """Install ``missing()``, held to the versions of ``KEPT`` that are there. Raises CalledProcessError."""
    packages = missing()
    if not packages:
        return
    with tempfile.TemporaryDirectory() as folder:
        held = Path(folder) / "held.txt"
        held.write_text("".join(f"{name}=={importlib.metadata.version(name)}\n" for name in KEPT))
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", str(held)]
        subprocess.run([*pip, *packages], check=True)


if __name__ == "__main__":
    complete()
