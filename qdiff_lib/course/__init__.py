"""What only the lessons need: checks, hints, quizzes, widgets, figures, progress, recorded results."""

from . import checks
from .checks import Outcome, Verdict
from .figures import show
from .lesson import Lesson, start
from .recorded import recorded
from .solved import progress, remembered
from .text import claim, hints, quiz
from .widgets import explore

check = remembered(checks.check)

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
