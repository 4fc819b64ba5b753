"""Every exercise of every lesson: its solution and other right answers pass, its stub and wrong ones do not.

``answers_NN.py`` holds the answers for lesson NN.
"""

import ast
import importlib

import pytest

from qdiff_lib.course.checks import EXERCISES, Verdict, check, find_exercise
from qdiff_lib.course.text import Question
from tools.expansion import (
    SOURCES,
    expand_exercise,
    is_exercise,
    lesson_names,
    read_source,
    solution_lines,
)

CELLS = {
    cell.metadata["exercise"]: (name, cell)
    for name in lesson_names()
    for cell in read_source(SOURCES / f"{name}.py")
    if is_exercise(cell)
}
ANSWERS = [importlib.import_module(f"answers_{name[:2]}") for name in lesson_names()]
RIGHT = {name: answers for module in ANSWERS for name, answers in module.RIGHT.items()}
WRONG = {name: answers for module in ANSWERS for name, answers in module.WRONG.items()}
each_exercise = pytest.mark.parametrize("name", CELLS)
each_lesson = pytest.mark.parametrize("lesson", lesson_names())


def imports(lesson: str) -> str:
    """All import statements of a lesson's source: what its exercises may use."""
    cells = [cell.source for cell in read_source(SOURCES / f"{lesson}.py") if cell.cell_type == "code"]
    found = [node for code in cells for node in ast.walk(ast.parse(code))]
    return "\n".join(ast.unparse(node) for node in found if isinstance(node, ast.Import | ast.ImportFrom))


def defined(name: str, code: str):
    """The function of the exercise, as this code of its cell defines it."""
    names = {}
    exec(f"{imports(CELLS[name][0])}\n{code}", names)
    return names[name.partition(".")[2]]


@each_exercise
def test_solution_passes(name):
    _, cell = CELLS[name]
    outcome = check(name, defined(name, cell.source))
    assert outcome.right and outcome.message, outcome


@each_exercise
def test_stub_is_not_attempted_and_keeps_the_docstring(name):
    lesson, cell = CELLS[name]
    stub = defined(name, expand_exercise(cell, lesson)[0].source)
    assert check(name, stub).verdict is Verdict.NOT_ATTEMPTED
    assert stub.__doc__ and set(stub.__annotations__) > {"return"}


def test_every_exercise_has_right_and_wrong_answers():
    assert set(RIGHT) == set(WRONG) == set(CELLS)
    assert min(map(len, RIGHT.values())) >= 2 and min(map(len, WRONG.values())) >= 4


@pytest.mark.parametrize(
    "name, answer", [(name, answer) for name, answers in RIGHT.items() for answer in answers]
)
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


@each_exercise
@pytest.mark.parametrize("value", [None, "seven", object()], ids=["None", "words", "object"])
def test_no_number_at_all_is_wrong(name, value):
    outcome = check(name, lambda *arguments: value)
    assert outcome.verdict is Verdict.WRONG and outcome.message


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
