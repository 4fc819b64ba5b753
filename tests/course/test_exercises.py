"""Every exercise of every lesson: its solution and other right answers pass, its stub and wrong ones do not.

``answers_NN.py`` holds the answers for lesson NN.
"""

import importlib
from decimal import Decimal

import numpy as np
import pytest
import torch
from solutions import CELLS, RIGHT, WRONG, defined, solution

from qdiff_lib.course.checks import EXERCISES, Verdict, check, find_exercise
from qdiff_lib.course.text import Question
from tools.expansion import expand_exercise, lesson_names, solution_lines

each_exercise = pytest.mark.parametrize("name", CELLS)
each_lesson = pytest.mark.parametrize("lesson", lesson_names())
# A check that takes seconds, and how many of its right answers are in ``make test``.
LONG = {"03.stream_number": 3}


@each_exercise
def test_solution_passes(name):
    outcome = check(name, solution(name))
    assert outcome.right and outcome.message, outcome


@each_exercise
def test_stub_is_not_attempted_and_keeps_the_docstring(name):
    lesson, cell = CELLS[name]
    stub = defined(name, expand_exercise(cell, lesson)[0].source)
    assert check(name, stub).verdict is Verdict.NOT_ATTEMPTED
    assert stub.__doc__ and set(stub.__annotations__) > {"return"}


def test_every_exercise_has_right_and_wrong_answers():
    assert set(RIGHT) == set(WRONG) == set(CELLS)
    assert min(map(len, RIGHT.values())) >= 4 and min(map(len, WRONG.values())) >= 10


def right_answers():
    """Each right answer; those beyond the first ones of a long check are left out of ``make test``."""
    for name, answers in RIGHT.items():
        for answer in answers:
            many = name in LONG and answer not in answers[: LONG[name]]
            yield pytest.param(name, answer, marks=[pytest.mark.exhaustive] if many else [])


@pytest.mark.parametrize("name, answer", right_answers())
def test_right_answers_pass(name, answer):
    outcome = check(name, answer)
    assert outcome.right, outcome


@pytest.mark.parametrize(
    "name, answer, words", [(name, *each) for name, answers in WRONG.items() for each in answers]
)
def test_wrong_answers_get_the_message_for_their_mistake(name, answer, words):
    outcome = check(name, answer)
    assert outcome.verdict is Verdict.WRONG and words in outcome.message, outcome


@each_exercise
def test_what_the_answer_raises_is_told(name):
    assert "raised TypeError" in check(name, lambda: None).message


STRANGE = [
    None,
    "seven",
    b"\x01\x02",
    object(),
    float("nan"),
    float("inf"),
    10**400,
    1j,
    [],
    [None],
    [[1], [1, 2]],
    ["a", "b"],
    {"a": 1},
    {1, 2},
    torch.tensor([1.0, 2.0]),
    torch.tensor(1j),
    torch.empty(0),
    torch.empty(3, device="meta"),
    torch.eye(2).to_sparse(),
    np.array(["a"]),
    np.array(None),
    np.datetime64("2026-01-01"),
    Decimal("NaN"),
    range(3),
    lambda: 1,
]


@each_exercise
@pytest.mark.parametrize("value", STRANGE, ids=range(len(STRANGE)))
def test_strange_values_are_wrong_and_no_fault_of_the_check(name, value):
    outcome = check(name, lambda *arguments: value)
    assert outcome.verdict is Verdict.WRONG and outcome.message, outcome


@each_exercise
def test_hints_come_in_stages_and_hold_no_line_of_the_solution(name):
    lesson, cell = CELLS[name]
    hints = find_exercise(name).hints
    assert len(hints) >= 2
    assert not [line for line in solution_lines([cell], lesson) if any(line in hint for hint in hints)]


@each_lesson
def test_every_check_of_a_lesson_is_used_there(lesson):
    number = lesson[:2]
    importlib.import_module(f"qdiff_lib.course.exercises.lesson_{number}")
    used, known = ({name for name in names if name.startswith(f"{number}.")} for names in (CELLS, EXERCISES))
    assert used == known and len(used) >= 2


@each_lesson
def test_quiz_has_three_questions_with_feedback(lesson):
    module = importlib.import_module(f"qdiff_lib.course.exercises.lesson_{lesson[:2]}")
    assert len(module.QUIZ) == 3
    for question in module.QUIZ:
        assert isinstance(question, Question) and 0 <= question.right < len(question.answers)
        assert len({answer for answer, _ in question.answers}) == len(question.answers) >= 3
        assert all(feedback for _, feedback in question.answers)
