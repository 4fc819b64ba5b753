"""Lessons work for learners who run cells again, out of order, after a restart, or in a read-only folder."""

import ast
import inspect
import os
import subprocess
import sys

import pytest

from qdiff_lib.course.checks import Verdict, check
from qdiff_lib.course.exercises.lesson_04 import shortcut_product
from qdiff_lib.course.gaussian import accumulated_variance
from qdiff_lib.evaluation.trajectory_errors import trajectory_snr
from tools.expansion import (
    SOURCES,
    Address,
    expand,
    import_nodes,
    is_exercise,
    lesson_names,
    read_source,
    split_solution,
    without_imports,
)
from tools.notebooks import student_notebook

NOWHERE = Address("", "v1")
CELLS = {name: expand(SOURCES / f"{name}.py", lesson_names(), NOWHERE) for name in lesson_names()}
EXERCISES = {
    cell.metadata["exercise"]: (name, cell)
    for name in lesson_names()
    for cell in read_source(SOURCES / f"{name}.py")
    if is_exercise(cell)
}
SHORT = ("07",)  # the cells of the others are of the same kinds
each_lesson = pytest.mark.parametrize("name", lesson_names())
RUN = """
import matplotlib, sys
matplotlib.use("Agg")
cells = {cells!r}
names = dict(__name__="__main__")
for i in [*range(len(cells)), *reversed(range(len(cells)))]:
    try:
        exec(compile(cells[i], f"cell {{i}}", "exec"), names)
    except BaseException as error:
        sys.exit(f"cell {{i}} failed, {{type(error).__name__}}: {{error}}\\n{{cells[i]}}")
"""


def code_of(name: str) -> list[str]:
    return [cell.source for cell in CELLS[name] if cell.cell_type == "code"]


def run_twice(cells: list[str], folder) -> str:
    """Run the cells from top to bottom, then each once more from bottom to top; returns the error, if any.

    The second time, each cell finds what all other cells have left. The last cell runs twice in a row.
    """
    done = subprocess.run(
        [sys.executable, "-c", RUN.format(cells=cells)], cwd=folder, capture_output=True, text=True
    )
    return done.stderr.strip().rpartition("cell ")[2] if done.returncode else ""


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        name if name[:2] in SHORT else pytest.param(name, marks=pytest.mark.exhaustive)
        for name in lesson_names()
    ],
)
def test_every_cell_runs_again_and_out_of_order_and_writes_nothing(name, tmp_path):
    assert run_twice(code_of(name), tmp_path) == ""
    assert list(tmp_path.iterdir()) == [], "a lesson wrote a file beside the notebook"


@pytest.mark.parametrize(
    "cells",
    [["runs = {'a': 1}", "x = runs.pop('a')"], ["x = [1]", "x[0] += 1\nassert x == [2]", "pass"]],
    ids=["a name that is gone", "a value that has changed"],
)
def test_cells_that_cannot_run_again_are_found(cells, tmp_path):
    assert "failed" in run_twice(cells, tmp_path)
    assert run_twice(["x = 1", "y = x + 1"], tmp_path) == ""


@pytest.mark.parametrize("exercise", EXERCISES)
def test_an_exercise_needs_the_first_code_cell_alone(exercise):
    name, cell = EXERCISES[exercise]
    function, names = exercise.partition(".")[2], {}
    exec(code_of(name)[0], names)
    stub = next(each for each in CELLS[name] if each.metadata.get("exercise") == exercise)
    exec(stub.source, names)
    assert names["check"](exercise, names[function]).verdict is Verdict.NOT_ATTEMPTED
    exec("\n".join(split_solution(without_imports(cell.source), name)), names)
    assert names["check"](exercise, names[function]).right


@each_lesson
def test_the_first_words_of_an_exercise_say_what_to_run_after_a_restart(name):
    stubs = [cell.source for cell in CELLS[name] if is_exercise(cell)]
    assert stubs and all("restart" in stub.partition("\n")[0] for stub in stubs)


@pytest.mark.parametrize("missing", ["qdiff_lib", "torch"])
def test_another_kernel_is_told_what_to_do(missing, tmp_path):
    """A Python without the course, or without one of its packages."""
    block = f"import sys\nsys.modules[{missing!r}] = None\n"
    command = [sys.executable, "-c", block + code_of(lesson_names()[0])[0]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=os.environ)
    message = done.stderr.strip().rpartition("\n")[2]
    assert done.returncode == 1 and message.startswith("ModuleNotFoundError")
    assert sys.executable in message and "Change Kernel" in message and "make lab" in message


def library_functions(lesson: str) -> dict:
    """What the student notebook of a lesson imports from the library, and the functions of such modules."""
    cells = [cell for cell in student_notebook(lesson, NOWHERE).cells if cell.cell_type == "code"]
    nodes = [node for cell in cells for node in import_nodes(cell.source)]
    names: dict = {}
    exec("\n".join(ast.unparse(node) for node in nodes if "qdiff_lib" in ast.unparse(node)), names)
    modules = {f"{name}.{key}": value for name, found in names.items() if inspect.ismodule(found)
               for key, value in vars(found).items()}  # fmt: skip
    return {name: found for name, found in (names | modules).items() if inspect.isfunction(found)}


@pytest.mark.parametrize("exercise", EXERCISES)
def test_no_name_of_the_student_notebook_is_the_answer(exercise):
    lesson, cell = EXERCISES[exercise]
    stub = next(node for node in ast.parse(cell.source).body if isinstance(node, ast.FunctionDef))
    count = len(stub.args.args)
    for name, function in library_functions(lesson).items():
        needed = [p for p in inspect.signature(function).parameters.values() if p.default is p.empty]
        if len(needed) <= count <= len(inspect.signature(function).parameters):
            assert not check(exercise, function, seconds=3).right, f"{name} is an answer of {exercise}"


def test_names_that_would_be_answers_are_seen_as_such():
    """Names that a lesson must not import: with them, the test above would fail."""
    assert check("01.snr_per_step", trajectory_snr).right
    assert check("01.accumulated_variance", accumulated_variance).right
    assert check("04.shortcut_output", shortcut_product).right
