"""Installs missing requirements on Colab, but never torch, torchvision or numpy; run it after the course.

python -m qdiff_lib.cli.colab
"""

import importlib.metadata
import subprocess
import sys
import tempfile
from pathlib import Path

from packaging.requirements import Requirement

KEPT = ("torch", "torchvision", "numpy")  # Colab's builds fit its driver and each other


def missing() -> list[str]:
    """The requirements of qdiff_lib that are not installed here or are too old, except ``KEPT``."""
    found = map(Requirement, importlib.metadata.requires("qdiff_lib") or [])
    wanted = [line for line in found if line.name not in KEPT and not line.marker]
    return [str(line) for line in wanted if not satisfied(line)]


def satisfied(requirement: Requirement) -> bool:
    """Whether a version that meets the requirement is installed."""
    try:
        return requirement.specifier.contains(importlib.metadata.version(requirement.name), prereleases=True)
    except importlib.metadata.PackageNotFoundError:
        return False


def complete() -> None:
    """Install ``missing()``; the installed versions of ``KEPT`` stay.

    Raises CalledProcessError if pip fails.
    """
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
