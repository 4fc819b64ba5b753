"""What only the lessons need: checks, hints, quizzes, widgets, figures, recorded results."""

from .checks import Outcome, Verdict, check
from .figures import show
from .lesson import Lesson, start
from .recorded import recorded
from .text import claim, hints, quiz
from .widgets import explore

__all__ = [
    "Lesson",
    "Outcome",
    "Verdict",
    "check",
    "claim",
    "explore",
    "hints",
    "quiz",
    "recorded",
    "show",
    "start",
]
