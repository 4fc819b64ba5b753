"""A folder that one process at a time writes to: its lock ends with the process, however that ends.

The lock is a file in the folder, ``qdiff.lock``, which is also the mark of a folder that ``quantize`` made:
one with other files and without it belongs to somebody else, and is never touched. Where there are no such
locks (on Windows, on some network drives) the mark remains, but nothing keeps a second process out.
"""

import contextlib
import os
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = "qdiff.lock"
_held: set[tuple[Path, int]] = set()  # folders of this process, and the threads that hold them


@contextlib.contextmanager
def held(folder: str | Path) -> Iterator[None]:
    """Hold the folder, which is made where it is missing; a thread may hold it several times over.

    At the end the folder is removed if nothing but the lock is in it.

    Raises:
        ValueError: another process or thread holds the folder, or it is not one that ``quantize`` made.
    """
    folder = Path(folder)
    key = (folder.resolve(), threading.get_ident())
    if key in _held:
        yield
        return
    check_ours(folder)
    descriptor = _acquired(folder)
    _held.add(key)
    try:
        yield
    finally:
        _held.discard(key)
        _release(folder, descriptor)


def check_ours(folder: Path) -> None:
    """Raise ValueError for a folder with files, but without the mark; and for a file."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"work={str(folder)!r} is no folder: name a new one")
    if folder.is_dir() and not is_ours(folder) and any(folder.iterdir()):
        raise ValueError(
            f"work={str(folder)!r} holds files, and no {LOCK} as in the folders that quantize makes: "
            "name a new or empty folder"
        )


def is_ours(folder: Path) -> bool:
    """Whether the folder has the mark."""
    return (folder / LOCK).is_file()


def is_unused(folder: Path) -> bool:
    """Whether the folder is missing, or holds nothing but a lock at most."""
    return not folder.exists() or (folder.is_dir() and not set(os.listdir(folder)) - {LOCK})


def _acquired(folder: Path) -> int | None:
    """The descriptor of the lock, which is held; None where the system or the disk has no locks."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # the process that held the folder has just removed it
            continue
        try:
            if not _locked(descriptor, folder):
                os.close(descriptor)
                return None
            if _still_there(descriptor, folder):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _locked(descriptor: int, folder: Path) -> bool:
    """Lock the file. Raises ValueError where another process has; False where there are no locks."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ValueError(
            f"work={str(folder)!r} is in use by another quantize: wait until that one has ended, or name "
            "another folder"
        ) from error
    except OSError as error:
        warnings.warn(f"{folder}: no locks on this disk ({error}); start no second run there", stacklevel=5)
        return False
    return True


def _still_there(descriptor: int, folder: Path) -> bool:
    """Whether the locked file is the one in the folder: its last holder may have removed it."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(folder / LOCK))
    except FileNotFoundError:
        return False


def _release(folder: Path, descriptor: int | None) -> None:
    with contextlib.suppress(OSError):  # somebody else may have removed or filled the folder
        if is_unused(folder):
            (folder / LOCK).unlink()
            folder.rmdir()
    if descriptor is not None:
        os.close(descriptor)
