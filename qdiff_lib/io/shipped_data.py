"""The files that come with the library; each is checked against its SHA-256 in ``data/MANIFEST.json``."""

from pathlib import Path

from ..utils.files import read_json, sha256

FIX = "get it again with `git checkout -- data`, or install qdiff_lib again"

_verified: set[tuple[Path, int, int]] = set()
"""Path, modification time (ns) and size (bytes) of each file that was checked."""


class DamagedFileError(ValueError):
    """Raised for a shipped file whose checksum is not the one in ``data/MANIFEST.json``."""


def data_folder() -> Path:
    """The folder of the shipped data: ``qdiff_lib/data`` in an installed wheel, ``data`` in a checkout.

    Raises:
        FileNotFoundError: neither folder has a ``MANIFEST.json``.
    """
    package = Path(__file__).resolve().parents[1]
    folders = (package / "data", package.parent / "data")
    for folder in folders:
        if (folder / "MANIFEST.json").is_file():
            return folder
    raise FileNotFoundError(f"no MANIFEST.json in {folders[0]} or {folders[1]}: {FIX}")


def verified(relative: str) -> Path:
    """The path of a shipped file, after a comparison of its SHA-256 with ``MANIFEST.json``.

    A file is hashed once per process, and again if its size or modification time changes.

    Args:
        relative: the path below the data folder, with forward slashes, as in ``MANIFEST.json``.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFileError: the checksum differs.
        ValueError: the manifest does not list the file.
    """
    folder = data_folder()
    path = folder / relative
    if not path.is_file():
        raise FileNotFoundError(f"{relative!r} is missing from {folder}: {FIX}")
    key = (path, path.stat().st_mtime_ns, path.stat().st_size)
    if key not in _verified:
        listed = read_json(folder / "MANIFEST.json")["files"]
        if relative not in listed:
            raise ValueError(
                f"relative={relative!r} is not in MANIFEST.json: run `python training/manifest.py`"
            )
        expected, found = listed[relative]["sha256"], sha256(path)
        if found != expected:
            raise DamagedFileError(
                f"{path} is damaged: its SHA-256 is {found[:12]}..., not {expected[:12]}...: {FIX}"
            )
        _verified.add(key)
    return path


def embedded_names() -> list[str]:
    """The names of the shipped pipelines, sorted."""
    return sorted(path.parent.name for path in (data_folder() / "models").glob("*/model_index.json"))


def embedded_folder(name: str) -> Path:
    """The folder of a shipped pipeline, after a check of its weights; raises what ``verified`` raises."""
    folder = data_folder() / "models" / name
    for path in sorted(folder.rglob("*.safetensors")):
        verified(path.relative_to(data_folder()).as_posix())
    return folder
