"""What only the lessons need: checks, hints, quizzes, widgets, figures, progress, results, grading."""

import importlib
from typing import TYPE_CHECKING

from .recorded import recorded  # now: the module of this name would hide the function, if it came first

if TYPE_CHECKING:  # for readers and tools; ``__getattr__`` does the same when a name is used
    from .checks import Outcome, Verdict
    from .figures import show
    from .lesson import Lesson, start
    from .solved import check, progress
    from .text import claim, hints, quiz
    from .widgets import explore

_HOMES = {
    "Lesson": "lesson",
    "Outcome": "checks",
    "Verdict": "checks",
    "check": "solved",
    "claim": "text",
    "explore": "widgets",
    "hints": "text",
    "progress": "solved",
    "quiz": "text",
    "show": "figures",
    "start": "lesson",
}
__all__ = [
    "Lesson",
    "Outcome",
    "Verdict",
    "check",
    "claim",
    "explore",
    "hints",
    "progress",
    "quiz",
    "recorded",
    "show",
    "start",
]


def __getattr__(name: str):
    """Import each public name when it is first used: an answer that is graded needs few of them.

    Raises AttributeError for any other name.
    """
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
