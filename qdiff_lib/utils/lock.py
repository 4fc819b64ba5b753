"""A lock on a folder, so that one process at a time writes to it. The lock ends with the process.

The lock is the file ``qdiff.lock`` in the folder. The file also marks a folder that ``quantize`` made. A
folder with other files and without the mark belongs to somebody else, and is never changed. On systems
without such locks (Windows, some network drives) the mark works, but a second process is not kept out.

``new_folder`` locks the folder that it fills, without a file in it.
"""

import contextlib
import glob
import os
import shutil
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

from .files import TEMPORARY, made_folder, remove, sync_all, sync_folder, temporary_beside

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = "qdiff.lock"
_held: set[tuple[Path, int]] = set()  # the folders that this process holds, and by which thread


@contextlib.contextmanager
def held(folder: str | Path) -> Iterator[None]:
    """Hold the lock of a folder within the block. A missing folder is created.

    A thread can hold the same folder several times. If the folder holds only the lock when the block ends,
    the folder is removed. After an error, so are the empty folders that were created for it.

    Raises:
        ValueError: another process or thread holds the folder, ``folder`` is a file, or ``quantize`` did not
            make the folder.
    """
    folder = Path(folder)
    key = (folder.resolve(), threading.get_ident())
    if key in _held:
        yield
        return
    check_ours(folder)
    with made_folder(folder):
        descriptor = _acquired(folder)
        _held.add(key)
        try:
            yield
        finally:
            _held.discard(key)
            _release(folder, descriptor)


def check_ours(folder: Path) -> None:
    """Raise ValueError for a file, and for a folder that has files but not the mark."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"work={str(folder)!r} is no folder: name a new one")
    if folder.is_dir() and not is_ours(folder) and any(folder.iterdir()):
        raise ValueError(
            f"work={str(folder)!r} holds files, and no {LOCK} as in the folders that quantize makes: "
            "name a new or empty folder"
        )


def is_ours(folder: Path) -> bool:
    """Return whether the folder has the mark."""
    return (folder / LOCK).is_file()


def is_unused(folder: Path) -> bool:
    """Return whether the folder is missing, empty, or holds only the lock."""
    return not folder.exists() or (folder.is_dir() and not set(os.listdir(folder)) - {LOCK})


def _acquired(folder: Path) -> int | None:
    """Return the descriptor of the locked file. Return None where the system or the disk has no locks."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # the last process has just removed the folder
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
    """Lock the file. Return False where there are no locks.

    Raises:
        ValueError: another process holds the lock.
    """
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
    """Return whether the locked file is still the one in the folder. Its last holder may have removed it."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(folder / LOCK))
    except FileNotFoundError:
        return False


def _release(folder: Path, descriptor: int | None) -> None:
    with contextlib.suppress(OSError):  # another process may have removed or filled the folder
        if is_unused(folder):
            (folder / LOCK).unlink()
            folder.rmdir()
    if descriptor is not None:
        os.close(descriptor)


@contextlib.contextmanager
def new_folder(folder: str | Path) -> Iterator[Path]:
    """Give a temporary folder next to ``folder`` to fill, and rename it to ``folder`` when the block ends.

    So ``folder`` is complete or absent, even after a kill. What a killed process left is removed first. If
    the block raises an error, nothing stays. Missing parent folders are created, and removed after an error.

    Raises:
        FileExistsError: ``folder`` is a file, is not empty, or is being filled by another process or thread.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is not empty; name a new folder")
    for left in folder.parent.glob(f"{TEMPORARY}????????-{glob.escape(folder.name)}"):
        with _filled(left, folder):
            remove(left)
    temporary = temporary_beside(folder)
    with made_folder(folder.parent):
        try:
            temporary.mkdir()
            with _filled(temporary, folder):
                yield temporary
                sync_all(temporary)
                if folder.is_dir():
                    folder.rmdir()
                os.replace(temporary, folder)
                sync_folder(folder.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _filled(temporary: Path, folder: Path) -> Iterator[None]:
    """Lock a temporary folder within the block. It will be renamed to ``folder``.

    Raises:
        FileExistsError: another process or thread has locked it.
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(temporary, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FileExistsError(
                f"{folder} is being written by another process; name a new folder"
            ) from error
        except OSError:  # no locks on this disk
            pass
        yield
    finally:
        os.close(descriptor)
