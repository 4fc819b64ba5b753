"""Write ``data/MANIFEST.json``: size and SHA-256 of every binary file and recorded result below ``data/``.

python training/manifest.py
"""

from pathlib import Path

from qdiff_lib.utils.files import sha256, write_json

DATA = Path(__file__).resolve().parent.parent / "data"
SUFFIXES = (".safetensors", ".gz", ".png", ".npz")


def manifest(data: Path = DATA) -> dict:
    """The manifest's content: ``{"files": {relative path: {"sha256": ..., "bytes": ...}}}``, sorted."""
    binary = [path for path in data.rglob("*") if path.suffix in SUFFIXES]
    found = [*binary, *data.glob("recorded/*.json")]
    paths = sorted(path for path in found if not path.name.startswith("."))
    names = [path.relative_to(data).as_posix() for path in paths]
    sizes = [{"sha256": sha256(path), "bytes": path.stat().st_size} for path in paths]
    return {"files": dict(zip(names, sizes, strict=True))}


if __name__ == "__main__":
    write_json(DATA / "MANIFEST.json", manifest())
    print(f"{DATA / 'MANIFEST.json'}: {len(manifest()['files'])} files")
