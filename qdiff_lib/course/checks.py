"""Checks of exercises: right, wrong with a message aimed at the mistake, or not attempted.

An exercise is a function decorated with ``exercise`` in ``exercises/lesson_NN.py``. It receives the learner's
answer, raises ``Wrong`` where that is wrong, and returns what to say where it is right.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    """What a check may find."""

    RIGHT = "right"
    WRONG = "wrong"
    NOT_ATTEMPTED = "not attempted"


@dataclass(frozen=True)
class Outcome:
    """What a check found, and what it tells the learner."""

    verdict: Verdict
    message: str

    @property
    def right(self) -> bool:
        return self.verdict is Verdict.RIGHT

    def __repr__(self) -> str:
        sign = {Verdict.RIGHT: "✓", Verdict.WRONG: "✗", Verdict.NOT_ATTEMPTED: "–"}[self.verdict]
        return f"{sign} {self.verdict.value}: {self.message}"


class Wrong(Exception):
    """The answer is wrong; the message says in which way, and where to look."""


@dataclass(frozen=True)
class Exercise:
    """test: from the learner's answer to a message, or ``Wrong``. hints: in stages, the last nearly tells."""

    name: str
    test: Callable[[Callable], str]
    hints: tuple[str, ...]


EXERCISES: dict[str, Exercise] = {}


def exercise(name: str, hints: tuple[str, ...]) -> Callable:
    """Register the decorated check as the exercise ``"NN.function_name"``."""

    def register(test: Callable[[Callable], str]) -> Callable[[Callable], str]:
        EXERCISES[name] = Exercise(name, test, hints)
        return test

    return register


def find_exercise(name: str) -> Exercise:
    """The exercise of that name. Raises ValueError for one that does not exist."""
    lesson = name.partition(".")[0]
    try:
        importlib.import_module(f".exercises.lesson_{lesson}", __package__)
    except ModuleNotFoundError:
        raise ValueError(f"name={name!r}: there is no lesson {lesson!r}") from None
    if name not in EXERCISES:
        known = tuple(other for other in EXERCISES if other.startswith(f"{lesson}."))
        raise ValueError(f"name={name!r} is no exercise of this lesson; use one of {known}")
    return EXERCISES[name]


def check(name: str, answer: Callable) -> Outcome:
    """Test the learner's function. Whatever it raises becomes part of the outcome, never an error."""
    test = find_exercise(name).test
    try:
        return Outcome(Verdict.RIGHT, test(answer))
    except Wrong as mistake:
        return Outcome(Verdict.WRONG, str(mistake))
    except NotImplementedError:
        return Outcome(Verdict.NOT_ATTEMPTED, "write the function above, run its cell, then this one again.")
    except Exception as error:  # the learner's own code may raise anything
        return Outcome(Verdict.WRONG, f"your function raised {type(error).__name__}: {error}")
