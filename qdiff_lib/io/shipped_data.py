"""The files that come with the library; each is checked against its SHA-256 in ``data/MANIFEST.json``."""

from pathlib import Path

from ..utils.files import read_json, sha256

MANIFEST = "MANIFEST.json"
UNLISTED = ("README.md", "LICENSE", ".DS_Store")  # files of a model's folder that no code reads
FIX = "get it again with `git checkout -- data`, or install qdiff_lib again"

_verified: set[tuple[Path, int, int]] = set()
"""Path, modification time (ns) and size (bytes) of each file that was checked."""


class DamagedFileError(ValueError):
    """Raised for a shipped file whose checksum is not the one in ``data/MANIFEST.json``."""


def data_folder() -> Path:
    """The folder of the shipped data: ``qdiff_lib/data`` in an installed wheel, ``data`` in a checkout.

    Raises:
        FileNotFoundError: neither folder has a ``MANIFEST.json`` or a folder ``models``.
    """
    package = Path(__file__).resolve().parents[1]
    folders = (package / "data", package.parent / "data")
    for folder in folders:
        if (folder / MANIFEST).is_file() or (folder / "models").is_dir():
            return folder
    raise FileNotFoundError(f"no {MANIFEST} in {folders[0]} or {folders[1]}: {FIX}")


def manifest() -> dict[str, dict]:
    """The entries of ``MANIFEST.json``, by path below the data folder.

    Raises:
        FileNotFoundError: there is no manifest.
        DamagedFileError: it is no JSON, or has another form.
    """
    path = data_folder() / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: {FIX}")
    try:
        files = read_json(path, FIX).get("files")
    except ValueError as error:
        raise DamagedFileError(str(error)) from error
    entries = files.values() if isinstance(files, dict) else [None]
    if not all(isinstance(each, dict) and isinstance(each.get("sha256"), str) for each in entries):
        raise DamagedFileError(f"{path} is damaged, it does not list files with their sha256: {FIX}")
    return files


def verified(relative: str) -> Path:
    """The path of a shipped file, after a comparison of its SHA-256 with ``MANIFEST.json``.

    A file is hashed once per process, and again if its size or modification time changes.

    Args:
        relative: the path below the data folder, with forward slashes, as in ``MANIFEST.json``.

    Raises:
        FileNotFoundError: there is no such file, or no manifest.
        DamagedFileError: the checksum differs, or the manifest is damaged.
        ValueError: the manifest does not list the file.
    """
    folder = data_folder()
    path = folder / relative
    if not path.is_file():
        raise FileNotFoundError(f"{relative!r} is missing from {folder}: {FIX}")
    key = (path, path.stat().st_mtime_ns, path.stat().st_size)
    if key not in _verified:
        listed = manifest()
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
    """The names of the shipped pipelines, sorted; none where the shipped data is missing."""
    try:
        folder = data_folder()
    except FileNotFoundError:
        return []
    return sorted(path.parent.name for path in (folder / "models").glob("*/model_index.json"))


def is_embedded(folder: Path) -> bool:
    """Whether a path is the folder of a shipped pipeline."""
    name = folder.resolve().name
    return name in embedded_names() and (data_folder() / "models" / name).resolve() == folder.resolve()


def embedded_folder(name: str) -> Path:
    """The folder of a shipped pipeline, after a check of all its files.

    Raises what ``verified`` raises, for each file that is listed and each file that is there. The text for
    readers, ``README.md`` and ``LICENSE``, need not be listed.
    """
    folder, data = data_folder() / "models" / name, data_folder()
    listed = {path for path in manifest() if path.startswith(f"models/{name}/")}
    there = {path for path in folder.rglob("*") if path.is_file() and path.name not in UNLISTED}
    for path in sorted(listed | {path.relative_to(data).as_posix() for path in there}):
        verified(path)
    return folder
