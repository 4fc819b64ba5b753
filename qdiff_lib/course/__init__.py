"""What only the lessons need: checks, hints, quizzes, widgets, figures, recorded results, grading."""

import importlib

from .recorded import (
    recorded as recorded,
)  # the module of this name would hide the function, if it came first

_HOMES = {
    "Lesson": "lesson",
    "Outcome": "checks",
    "Verdict": "checks",
    "check": "checks",
    "claim": "text",
    "explore": "widgets",
    "hints": "text",
    "quiz": "text",
    "show": "figures",
    "start": "lesson",
}
__all__ = sorted([*_HOMES, "recorded"])


def __getattr__(name: str):
    """Import each public name when it is first used: an answer that is graded needs few of them.

    Raises AttributeError for any other name.
    """
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
