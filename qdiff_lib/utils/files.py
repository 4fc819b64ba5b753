"""Files that are either complete or absent: atomic writes, JSON, checksums."""

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TEMPORARY = ".qdiff-"  # the start of the name of every file that is not complete yet
LARGEST_JSON = 2**26  # bytes of a JSON file; the largest vocabularies of tokenizers have some 20 MB
DEEPEST_JSON = 60  # levels of a JSON file; copying and comparing recurse, and Python has about 300 levels
PROBE = 4096  # bytes that a folder must have room for, or nothing can be written there


def temporary_beside(path: Path) -> Path:
    """Return the path of a new temporary file or folder next to ``path``. It has the suffix of ``path``."""
    return path.with_name(f"{TEMPORARY}{secrets.token_hex(4)}-{path.name}")


@contextmanager
def made_folder(folder: Path) -> Iterator[None]:
    """Create a folder and its missing parents. If the block raises an error, remove those that are empty."""
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for each in made:
            with contextlib.suppress(OSError):  # not empty, or removed already
                each.rmdir()
        raise


def check_writable(path: str | Path) -> None:
    """Check that a file or folder ``path`` can be written, before the work whose result it will hold.

    A small file is written to the folder ``path``, or to the nearest folder above it, and removed again.

    Raises:
        OSError: the folder is read-only or full, a name is too long, or a parent of ``path`` is a file. The
            error names the path.
    """
    path = Path(path)
    inside = path / "file" if path.is_dir() else path
    place = inside.parent
    while not place.exists() and place != place.parent:
        place = place.parent
    for name in inside.relative_to(place).parts[:-1]:
        place.joinpath(name).exists()  # raises OSError for a name that is too long
    probe = place / temporary_beside(inside).name
    try:
        probe.write_bytes(bytes(PROBE))
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path next to ``path`` to write to, and rename it to ``path`` when the block ends.

    A reader sees the old file or the complete new file, even after a power cut: the bytes are on the disk
    before the file gets its name. If the block raises an error, the temporary file is removed and ``path``
    does not change. Missing parent folders are created, and removed again after an error. The temporary path
    has the suffix of ``path``.

    Raises:
        FileNotFoundError: the block wrote nothing to the temporary path.
    """
    path = Path(path)
    temporary = temporary_beside(path)
    with made_folder(path.parent):
        try:
            yield temporary
            sync(temporary)
            os.replace(temporary, path)
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file's bytes are on the disk."""
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk. Do nothing where the system cannot (Windows)."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network drives cannot do this either
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_all(folder: Path) -> None:
    """Wait until all files below a folder, and their names, are on the disk."""
    for parent, _, files in os.walk(folder):
        for name in files:
            sync(Path(parent, name))
        sync_folder(Path(parent))


def remove_temporaries(folder: Path) -> None:
    """Remove the unfinished files and folders that killed processes left below a folder."""
    for path in sorted(Path(folder).rglob(f"{TEMPORARY}????????-*")):
        remove(path)


def remove(path: Path) -> None:
    """Remove a file or a whole folder, if it is there. Of a symbolic link, only the link is removed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_json(path: str | Path, value: object) -> None:
    """Write ``value`` to ``path`` as JSON, atomically: an indent of 2 and a newline at the end.

    Raises:
        TypeError: JSON cannot express a part of ``value``. ``path`` does not change.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: str | Path, cure: str = "copy or write it again") -> dict:
    """Read the JSON object in a file.

    Args:
        cure: how to repair a damaged file. The error message ends with it.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file holds no JSON object, is no ordinary file, has more than ``LARGEST_JSON`` bytes,
            or is nested deeper than ``DEEPEST_JSON``. The message names the file.
    """
    path = Path(path)
    size = path.stat().st_size
    if not path.is_file():
        raise ValueError(f"{path} is no ordinary file: {cure}")
    if size > LARGEST_JSON:
        raise ValueError(f"{path} is damaged, it has {size} bytes, more than {LARGEST_JSON}: {cure}")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged, it is no JSON ({error}): {cure}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} is damaged, it holds no JSON object: {cure}")
    if not is_shallow(value):
        raise ValueError(f"{path} is damaged, it is nested deeper than {DEEPEST_JSON} levels: {cure}")
    return value


def is_shallow(value: object) -> bool:
    """Return whether a JSON value has at most ``DEEPEST_JSON`` levels of lists and objects."""
    level = [value]
    for _ in range(DEEPEST_JSON):
        below = (each.values() if isinstance(each, dict) else each for each in level)
        level = [each for part in below for each in part if isinstance(each, dict | list)]
        if not level:
            return True
    return False


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits. Large files do not fill the memory.

    Raises:
        FileNotFoundError: the file does not exist.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def replacing_folder(folder: str | Path) -> Iterator[Path]:
    """Give a temporary folder inside ``folder`` to fill. When the block ends, move its files to ``folder``.

    New files replace files of the same name. All other files stay. If the block raises an error, ``folder``
    does not change and the temporary folder is removed.
    """
    folder = Path(folder)
    temporary = temporary_beside(folder / "folder")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        sync_all(temporary)
        for path in sorted(path for path in temporary.rglob("*") if path.is_file()):
            target = folder / path.relative_to(temporary)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        with contextlib.suppress(OSError):  # the folder existed before, or it holds the new files
            folder.rmdir()
