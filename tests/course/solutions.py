"""The solutions of all exercises, as the lessons have them, and other right and wrong answers."""

import ast
import importlib
from collections.abc import Callable

from tools.expansion import SOURCES, is_exercise, lesson_names, read_source

CELLS = {
    cell.metadata["exercise"]: (name, cell)
    for name in lesson_names()
    for cell in read_source(SOURCES / f"{name}.py")
    if is_exercise(cell)
}
ANSWERS = [importlib.import_module(f"answers_{name[:2]}") for name in lesson_names()]
RIGHT = {name: answers for module in ANSWERS for name, answers in module.RIGHT.items()}
WRONG = {name: answers for module in ANSWERS for name, answers in module.WRONG.items()}


def imports(lesson: str) -> str:
    """All import statements of a lesson's source: what its exercises may use."""
    cells = [cell.source for cell in read_source(SOURCES / f"{lesson}.py") if cell.cell_type == "code"]
    found = [node for code in cells for node in ast.walk(ast.parse(code))]
    return "\n".join(ast.unparse(node) for node in found if isinstance(node, ast.Import | ast.ImportFrom))


def defined(name: str, code: str) -> Callable:
    """The function of the exercise, as this code of its cell defines it."""
    names = {}
    exec(f"{imports(CELLS[name][0])}\n{code}", names)
    return names[name.partition(".")[2]]


def solution(name: str) -> Callable:
    """The solution of the exercise."""
    return defined(name, CELLS[name][1].source)
