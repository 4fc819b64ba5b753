"""The text that cells show: asserted claims, hints in stages, quizzes. All can be read without a kernel."""

import html
import importlib
from dataclasses import dataclass

from IPython.display import HTML, display

from .checks import find_exercise


def claim(holds: bool, sentence: str) -> None:
    """Print a sentence if the lesson's own numbers agree with it. Raises AssertionError if they do not."""
    if not holds:
        raise AssertionError(f"this does not hold: {sentence}")
    print(f"✓ {sentence}")


def folded(summary: str, body: str) -> str:
    """HTML that opens on a click, in JupyterLab, on GitHub and in a static page."""
    return f"<details><summary>{html.escape(summary)}</summary>{html.escape(body)}</details>"


def hints(name: str) -> None:
    """Show the hints of an exercise, each folded."""
    stages = enumerate(find_exercise(name).hints, start=1)
    display(HTML("".join(folded(f"Hint {number}", hint) for number, hint in stages)))


@dataclass(frozen=True)
class Question:
    """text: the question. answers: each with its feedback. right: the index of the right one."""

    text: str
    answers: tuple[tuple[str, str], ...]
    right: int

    def to_html(self) -> str:
        """The question with its answers, each of which opens its feedback."""
        parts = []
        for number, (answer, feedback) in enumerate(self.answers):
            verdict = "Right." if number == self.right else "No."
            parts.append(folded(f"{'ABCD'[number]}. {answer}", f"{verdict} {feedback}"))
        return f"<br><p><b>{html.escape(self.text)}</b></p>" + "".join(parts)


def quiz(lesson: str) -> None:
    """Show a lesson's questions, ``QUIZ`` of its module: a click on an answer opens its feedback."""
    module = importlib.import_module(f".exercises.lesson_{lesson}", __package__)
    display(HTML("".join(question.to_html() for question in module.QUIZ)))
