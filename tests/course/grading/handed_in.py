"""Notebooks as learners hand them in: the student version of a lesson, with other code in some cells."""

import functools

import nbformat

from tools.expansion import SOURCES, Address, is_exercise, read_source
from tools.notebooks import student_notebook


@functools.cache
def solutions(name: str) -> dict[str, str]:
    """The cell with the solution of each exercise of a lesson."""
    cells = [cell for cell in read_source(SOURCES / f"{name}.py") if is_exercise(cell)]
    return {cell.metadata["exercise"]: cell.source for cell in cells}


def make_notebook(name: str, answers: dict[str, str] | None = None, **more: list[str]):
    """The student notebook of a lesson with answers by exercise.

    more: further code cells, "above" and "below" all others. None removes the cells of an exercise.
    """
    notebook = student_notebook(name, Address("", "v1"))
    kept = []
    for cell in notebook.cells:
        exercise = cell.metadata.get("exercise")
        if exercise in (answers or {}):
            cell.source = answers[exercise]
        if not (exercise and cell.source is None):
            kept.append(cell)
    gone = [exercise for exercise, code in (answers or {}).items() if code is None]
    kept = [cell for cell in kept if not any(f'"{exercise}"' in cell.source for exercise in gone)]
    above, below = (
        [nbformat.v4.new_code_cell(code) for code in more.get(at, [])] for at in ("above", "below")
    )
    notebook.cells = [*above, *kept, *below]
    return notebook


def codes(notebook) -> tuple[str, ...]:
    """The code cells of a notebook."""
    return tuple(cell.source for cell in notebook.cells if cell.cell_type == "code")
