"""Whose error an error is: of this library, whose messages name the value and the fix, or of another one."""

import sysconfig
from pathlib import Path

OWN = __name__.partition(".")[0]
INSTALLED = tuple(Path(sysconfig.get_path(kind)).resolve() for kind in ("purelib", "platlib"))


def is_of_a_dependency(error: BaseException) -> bool:
    """Return whether an installed package other than this one raised the error."""
    trace = error.__traceback__
    if trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    frame = trace.tb_frame
    if frame.f_globals.get("__name__", "").partition(".")[0] == OWN:
        return False
    path = Path(frame.f_code.co_filename).resolve()
    return any(path.is_relative_to(folder) for folder in INSTALLED)


def is_import_failure(error: BaseException | None) -> bool:
    """Return whether an error, or one of its causes, is that a package could not be imported."""
    while error is not None and not isinstance(error, ImportError):
        error = error.__cause__
    return error is not None
