"""The checkout, and what the experiments use of it besides the library."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def manifest(data: Path) -> dict:
    """The manifest of a data folder, as ``training/manifest.py`` makes it."""
    spec = importlib.util.spec_from_file_location("manifest", ROOT / "training" / "manifest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.manifest(data)
