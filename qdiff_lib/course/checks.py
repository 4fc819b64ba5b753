"""Checks of exercises: right, wrong with a message aimed at the mistake, or not attempted.

An exercise is a function decorated with ``exercise`` in ``exercises/lesson_NN.py``. It receives the
learner's function and a seed, from which it draws its inputs. It raises ``Wrong`` where the answer is wrong,
and returns what to say where it is right. Only plain data goes in and comes out (``plain.plain``), so that
the function may live in another process.
"""

import importlib
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum

from torch import Tensor

from .limits import LIMIT, TooLong, stopped_after
from .plain import plain
from .running import failed_cell

STUB = "your turn"  # what the stub of an exercise raises


class Verdict(Enum):
    """What a check may find. ERROR: the check itself failed, which says nothing about the answer."""

    RIGHT = "right"
    WRONG = "wrong"
    NOT_ATTEMPTED = "not attempted"
    ERROR = "error"


@dataclass(frozen=True)
class Curve:
    """A row of numbers that an answer gave, and the right one.

    axis: what an entry is, as in "step". found: None where the answer has no finite number.
    """

    axis: str
    found: tuple[float | None, ...]
    expected: tuple[float, ...]


@dataclass(frozen=True)
class Outcome:
    """What a check found, and what it tells the learner.

    curve: of a wrong answer that is a row of numbers.
    """

    verdict: Verdict
    message: str
    curve: Curve | None = None

    @property
    def right(self) -> bool:
        return self.verdict is Verdict.RIGHT

    def __repr__(self) -> str:
        sign = {Verdict.RIGHT: "✓", Verdict.WRONG: "✗"}.get(self.verdict, "–")
        return f"{sign} {self.verdict.value}: {self.message}"


class Wrong(Exception):
    """The answer is wrong; the message says in which way, and where to look. curve: of a row of numbers."""

    curve: Curve | None = None


class Raised(Exception):
    """The learner's function raised an exception. kind: its class. text: its message. line: of the code."""

    def __init__(self, kind: str, text: str, line: str = ""):
        super().__init__(kind, text, line)
        self.kind, self.text, self.line = kind, text, line

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}" + (f" (at `{self.line}`)" if self.line else "")

    @property
    def is_stub(self) -> bool:
        return self.kind == "NotImplementedError" and self.text == STUB


class Answer:
    """The learner's function as a check calls it.

    A call passes copies of the arguments and returns plain data. Raises ``Raised`` for what the function
    raises, and for nothing else. changed: whether a call has changed one of its arguments in place.

    function: may itself raise ``Raised`` for an exception in another process. Where it has a method ``many``,
    this gets all argument tuples of ``each`` at once, and returns a list of results.
    """

    def __init__(self, function: Callable):
        self.function, self.changed = function, False

    def __call__(self, *arguments: object) -> object:
        given = copied(arguments)
        with raised(self.function):
            value = plain(self.function(*given))
        self.changed |= not alike(arguments, given)
        return value

    def each(self, cases: list[tuple[int, ...]]) -> list:
        """The results for many tuples of numbers, in order."""
        with raised(self.function):
            if hasattr(self.function, "many"):
                return list(map(plain, self.function.many(cases)))
            return [plain(self.function(*case)) for case in cases]


@contextmanager
def raised(function: Callable) -> Iterator[None]:
    """Turn whatever the learner's function raises into ``Raised``."""
    try:
        yield
    except Raised:
        raise
    except (Exception, SystemExit) as error:
        raise Raised(type(error).__name__, str(error), line_of(error, function)) from error


def line_of(error: BaseException, function: Callable) -> str:
    """The line of the learner's code at which the error was raised; empty where it is not known."""
    file = getattr(getattr(function, "__code__", None), "co_filename", None)
    lines = [frame.line for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return (lines[-1] or "").strip() if lines else ""


def copied(value: object) -> object:
    """Nested lists and tuples with copies of their tensors."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, list | tuple):
        items = list(map(copied, value))
        return items if isinstance(value, list) else getattr(value, "_make", tuple)(items)
    return value


def alike(first: object, second: object) -> bool:
    """Whether the tensors in two nested lists and tuples are equal."""
    if isinstance(first, Tensor):
        if first.shape != second.shape:
            return False
        return bool(((first == second) | (first != first) & (second != second)).all())  # NaN is like NaN
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(alike, first, second))
    return True


@dataclass(frozen=True)
class Exercise:
    """test: from the learner's answer and a seed to a message, or ``Wrong``. hints: in stages."""

    name: str
    test: Callable[[Answer, int], str]
    hints: tuple[str, ...]


EXERCISES: dict[str, Exercise] = {}


def exercise(name: str, hints: tuple[str, ...]) -> Callable:
    """Register the decorated check as the exercise ``"NN.function_name"``."""

    def register(test: Callable[[Answer, int], str]) -> Callable[[Answer, int], str]:
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


def check(name: str, answer: Callable, seed: int = 0, seconds: float | None = LIMIT) -> Outcome:
    """Test the learner's function. Whatever it raises becomes part of the outcome, never an error.

    seed: of the inputs that the check draws; 0 is the one that learners use. seconds: the function is stopped
    after this time, on the main thread of a POSIX system; None: never.
    """
    found = find_exercise(name)
    if not callable(answer):
        return Outcome(Verdict.WRONG, f"hand over your function itself; this is a {type(answer).__name__}.")
    outcome = judged(found.test, Answer(answer), seed, seconds)
    warning = failed_cell(name.partition(".")[2])
    return replace(outcome, message=f"{warning} {outcome.message}") if warning else outcome


def judged(test: Callable, answer: Answer, seed: int, seconds: float | None) -> Outcome:
    """The outcome of one test. A failure of the test itself is an ERROR."""
    try:
        return Outcome(Verdict.RIGHT, stopped_after(seconds, lambda: test(answer, seed)))
    except Wrong as mistake:
        return Outcome(Verdict.WRONG, str(mistake), mistake.curve)
    except Raised as error:
        if error.is_stub:
            return Outcome(
                Verdict.NOT_ATTEMPTED, "write the function above, run its cell, then this one again."
            )
        return Outcome(Verdict.WRONG, f"your function raised {error}")
    except TooLong:
        return Outcome(
            Verdict.WRONG,
            f"your function had not ended after {seconds:g} seconds, and was stopped. Does a loop never end?",
        )
    except Exception as error:
        return Outcome(
            Verdict.ERROR,
            f"the check itself failed ({type(error).__name__}: {error}). This is not your mistake, and says "
            "nothing about your answer: please report it.",
        )
