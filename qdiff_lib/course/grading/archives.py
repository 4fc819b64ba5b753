"""Notebooks in zip files, as Canvas, Moodle and learners make them. Nothing is unpacked to the disk."""

import contextlib
import io
import struct
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from .notebooks import LARGEST

END_OF_LIST = struct.Struct(
    "<4s4H2LH"
)  # the record at the end of a zip file, which says how long its list is
MOST_FILES = 20_000
LONGEST_LIST = 2**24  # bytes
MOST_BYTES = 2**32  # of all notebooks of a zip file
BOMB = 300  # times that a file of more than a megabyte may shrink
DEEPEST = 2  # zip files in zip files
IGNORED = ("__MACOSX", ".ipynb_checkpoints")


@dataclass(frozen=True)
class File:
    """A notebook. parts: its path below the folder. read: gives its bytes. time: seconds since 1970."""

    parts: tuple[str, ...]
    read: Callable[[], bytes]
    time: float


def wanted(parts: tuple[str, ...]) -> bool:
    """Whether a path is neither a backup of Jupyter nor a companion file of macOS."""
    return not any(part in IGNORED for part in parts) and not parts[-1].startswith("._")


def zip_files(archive: Path | io.BytesIO, parts: tuple[str, ...], depth: int = 1) -> Iterator[File | str]:
    """The notebooks of a zip file, and as text what is refused.

    parts: the path of the zip file, which its files get in front.
    """
    try:
        check_list(archive)
        opened = zipfile.ZipFile(archive)
    except (ValueError, OSError, zipfile.BadZipFile, NotImplementedError) as error:
        yield f"{'/'.join(parts)}: this is no usable zip file: {error}"
        return
    members = [info for info in opened.infolist() if not info.is_dir()]
    if len(members) > MOST_FILES or sum(info.file_size for info in members) > MOST_BYTES:
        yield f"{'/'.join(parts)}: more than {MOST_FILES:,} files, or {MOST_BYTES // 2**30} GB: refused"
        return
    for info in members:
        inside = PurePosixPath(name_of(info)).parts
        if name_of(info).endswith((".ipynb", ".zip")) and wanted(inside):
            yield from member(opened, info, (*parts, *inside), depth)


def member(
    opened: zipfile.ZipFile, info: zipfile.ZipInfo, parts: tuple[str, ...], depth: int
) -> Iterator[File | str]:
    """One file of a zip file, or those of a zip file in it."""
    where = "/".join(parts)
    if ".." in parts or name_of(info).startswith("/"):
        yield f"{where}: its path leaves the zip file: refused"
    elif info.file_size > LARGEST or info.file_size > 2**20 + BOMB * info.compress_size:
        yield f"{where}: unpacked it has {info.file_size:,} bytes: refused"
    elif where.endswith(".ipynb"):
        yield File(parts, lambda: content(opened, info), moment(info))
    elif depth >= DEEPEST:
        yield f"{where}: a zip file in a zip file in a zip file: refused"
    else:
        try:
            yield from zip_files(io.BytesIO(content(opened, info)), parts, depth + 1)
        except ValueError as error:
            yield f"{where}: {error}"


def check_list(archive: Path | io.BytesIO) -> None:
    """Check the length of a zip file's list before it is read into memory. Raises ValueError."""
    with archive.open("rb") if isinstance(archive, Path) else contextlib.nullcontext(archive) as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(max(0, size - 2**16 - END_OF_LIST.size))
        tail = file.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) - at < END_OF_LIST.size:
        raise ValueError("it has no list of its files")
    *_, count, length, _, _ = END_OF_LIST.unpack_from(tail, at)
    if count > MOST_FILES or length > LONGEST_LIST:
        raise ValueError(f"its list is too long, for {MOST_FILES:,} files at most")


def content(opened: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """The bytes of a file in a zip file. Raises ValueError if it is damaged, encrypted or too large."""
    try:
        with opened.open(info) as file:
            data = file.read(LARGEST + 1)
    except Exception as error:  # damaged data makes zlib, lzma and zipfile raise many kinds of errors
        raise ValueError(f"it cannot be unpacked: {error}") from None
    if len(data) > LARGEST:
        raise ValueError(f"unpacked it has more than {LARGEST // 2**20} MB")
    return data


def name_of(info: zipfile.ZipInfo) -> str:
    """The name of a file in a zip file, with "/" between folders; in UTF-8 also where no flag says so."""
    name = info.filename
    if not info.flag_bits & 0x800:
        with contextlib.suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    return name.replace("\\", "/")


def moment(info: zipfile.ZipInfo) -> float:
    """When the file was changed, in local time, as zip files have it."""
    try:
        return time.mktime((*info.date_time, 0, 0, -1))
    except (ValueError, OverflowError):
        return 0.0
