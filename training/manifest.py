"""Write ``data/MANIFEST.json``: size and SHA-256 of every file below ``data/`` that the library reads.

These are all binary files, recorded results, files of the models, and prompts. What only people read is left
out.

python training/manifest.py
"""

from pathlib import Path

from qdiff_lib.utils.files import sha256, write_json

DATA = Path(__file__).resolve().parent.parent / "data"
SUFFIXES = (".safetensors", ".gz", ".png", ".npz")
FOLDERS = ("models/**/*", "prompts/**/*", "recorded/*.json")  # every file in them, of any suffix
UNLISTED = ("README.md", "LICENSE")


def manifest(data: Path = DATA) -> dict:
    """The manifest's content: ``{"files": {relative path: {"sha256": ..., "bytes": ...}}}``, sorted."""
    binary = [path for path in data.rglob("*") if path.suffix in SUFFIXES]
    whole = [path for pattern in FOLDERS for path in data.glob(pattern) if path.is_file()]
    found = {path for path in (*binary, *whole) if path.name not in UNLISTED}
    paths = sorted(path for path in found if not path.name.startswith("."))
    names = [path.relative_to(data).as_posix() for path in paths]
    sizes = [{"sha256": sha256(path), "bytes": path.stat().st_size} for path in paths]
    return {"files": dict(zip(names, sizes, strict=True))}


if __name__ == "__main__":
    write_json(DATA / "MANIFEST.json", manifest())
    print(f"{DATA / 'MANIFEST.json'}: {len(manifest()['files'])} files")
