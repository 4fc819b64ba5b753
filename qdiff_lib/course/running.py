"""What the notebook ran before: whether the cell of a function failed, so that an older one is judged."""

import re

from IPython import get_ipython


def failed_cell(function: str) -> str:
    """A warning if the last cell defines ``function`` and failed; else an empty text.

    A cell with a syntax error runs not at all, and one that fails before the definition does not reach it.
    The function of that name is then an older one.
    """
    shell = get_ipython()
    last = getattr(shell, "last_execution_result", None)
    error = last and (last.error_before_exec or last.error_in_exec)
    cell = getattr(getattr(last, "info", None), "raw_cell", None) or ""
    if not error or not re.search(rf"\b{re.escape(function)}\b\s*(\(|=)", cell):
        return ""
    line = f" in line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
    return (
        f"The cell that ran last defines {function}, but it failed: {type(error).__name__}{line}. "
        "So an older function is judged here:"
    )
