"""Why a command failed, in one line: what it did, what was wrong or lacking, and how to go on."""

import argparse
import contextlib
import errno
import io
import os
import re
import sys
from collections.abc import Iterator

from ..utils.errors import is_of_a_dependency
from ..utils.processes import Lost, is_first_to_tell

LONGEST = 500  # characters of an error message; what is longer is cut in the middle
DOING = "while "  # the start of the note that says what was being done

FREE_DISK = "free some room, or name an --out on another disk"
LACKING = {
    errno.ENOSPC: ("the disk is full", FREE_DISK),
    errno.EDQUOT: ("your share of the disk is used up", FREE_DISK),
    errno.EFBIG: ("a file is larger than this system allows", "raise the limit, as with ulimit -f unlimited"),
    errno.EROFS: ("the disk is read-only", "name an --out on another disk"),
    errno.EACCES: ("no permission", "change the permissions, or name another path"),
    errno.EPERM: ("no permission", "change the permissions, or name another path"),
    errno.EMFILE: ("too many files are open", "raise the limit, as with ulimit -n 4096"),
    errno.ENAMETOOLONG: ("the name is too long", "name a shorter one"),
    errno.ENOMEM: ("not enough memory", "close other programs, or "),
    errno.EPIPE: ("the output cannot be printed, as its reader has ended", "print to a file"),
}
"""What is lacking, and how to get it, by the number of the system's error."""
OUT_OF_MEMORY = re.compile(
    r"can.t allocate memory|cannot allocate memory|not enough memory|out of memory|bad.alloc|ALLOC_FAILED|"
    r"failed to map segment",
    re.IGNORECASE,
)
SYSTEM_ERROR = re.compile(r"\(os error (\d+)\)")  # as in the messages of safetensors
SAVE_MEMORY = {
    "quantize": "use a smaller --memory-gb or --batch-size",
    "sample": "use a smaller --batch-size or --n",
    "evaluate": "use a smaller --batch-size or --n",
}


@contextlib.contextmanager
def during(doing: str) -> Iterator[None]:
    """Add to every error of the block a note that says what was being done, such as "loading a model"."""
    try:
        yield
    except Exception as error:
        error.add_note(DOING + doing)
        raise


def explained(error: Exception, args: argparse.Namespace) -> str:
    """Say in one line why the command with the arguments ``args`` failed, and how to go on."""
    notes = [note for note in getattr(error, "__notes__", ()) if note.startswith(DOING)]
    doing = f"{notes[0]}: " if notes else ""
    again = "repeat the command with --resume" if hasattr(args, "resume") else "repeat the command"
    if isinstance(error, Lost):
        return one_line(f"{doing}{error}; then {again}, with any number of processes")
    number, path = lacking(error)
    if number is not None:
        what, cure = LACKING[number]
        if number == errno.ENOMEM:
            cure += SAVE_MEMORY.get(args.command, "use a machine with more")
        detail = f" ({path})" if path else ""
        return one_line(f"{doing}{what}{detail}: {cure}; then {again}")
    known = isinstance(error, OSError) or not is_of_a_dependency(error)
    if isinstance(error, ValueError | TypeError | OSError) and known and str(error):
        return one_line(error)
    return one_line(f"{doing}{type(error).__name__}: {error}; add --traceback to see where")


def lacking(error: BaseException | None) -> tuple[int | None, str]:
    """What the system lacked, or (None, "").

    Returns a key of ``LACKING``, and the path or the amount, if it is known. The causes of the error count.
    """
    while error is not None:
        text = str(error)
        found = SYSTEM_ERROR.search(text)
        number = int(found[1]) if found else getattr(error, "errno", None)
        if isinstance(error, OSError) and number in LACKING:
            return number, str(error.filename or "")
        if found and number in LACKING:
            return number, ""
        of_a_library = isinstance(error, RuntimeError | ImportError) and OUT_OF_MEMORY.search(text)
        if isinstance(error, MemoryError) or of_a_library:
            amount = re.search(r"allocate ([\d.]+ ?\w+)", text)
            return errno.ENOMEM, amount[1] if amount else ""
        error = error.__cause__
    return None, ""


def one_line(message: object) -> str:
    """The message with each sequence of white space replaced by one space, cut to ``LONGEST`` characters.

    Characters that cannot be printed, such as halves of pairs (surrogates), are written as escapes.
    """
    text = str(message)
    if len(text) > 4 * LONGEST:
        text = text[: 2 * LONGEST] + text[-2 * LONGEST :]
    text = " ".join(text.split())
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    if len(text) <= LONGEST:
        return text
    return f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"


def occupy_closed_streams() -> None:
    """Open the null device in place of each of standard input, output and error that is closed.

    Otherwise the next file that is opened gets the number of that stream, and what a library prints goes into
    the file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one


def escape_what_cannot_be_printed() -> None:
    """Print characters that the console does not have as escapes; otherwise they would be errors."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def flushed(status: int) -> int:
    """Print all that was written so far, while an error can still be told; returns ``status``."""
    if sys.stdout is not None:
        with during("printing"):
            sys.stdout.flush()
    return status


def silence(stream) -> None:
    """Print what is left. If that is impossible, drop it, so that Python does not fail at the exit."""
    try:
        if stream is not None:
            stream.flush()
    except (OSError, ValueError):  # no reader, no room; or the stream is closed
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def say_why(command: str, reason: str) -> int:
    """Print why the command failed, once for all processes of a run; returns the exit status."""
    with contextlib.suppress(OSError):  # the terminal may be gone
        if is_first_to_tell():
            print(f"{command}: error: {reason}", file=sys.stderr, flush=True)
    silence(sys.stdout)
    silence(sys.stderr)
    return 2
