"""No hint of an exercise is the answer: neither as code that runs, nor by the amount of code in it."""

import ast
import re

import pytest
from solutions import CELLS, defined

from qdiff_lib.course.checks import check, find_exercise
from tools.expansion import split_solution

MOST = 0.25  # of a solution's operations, calls and assignments in all hints' longest one
STEPS = ast.BinOp | ast.UnaryOp | ast.Compare | ast.Call | ast.Subscript | ast.Assign | ast.AugAssign
OLD = {  # hints that told everything
    "05.decide_codes": "codes = (torch.floor(w / s) + (h >= 0.5) + z).clamp(0, 2**bits - 1)",
    "03.stream_number": "Leave 20 bits of room: role * 2**31 + seed * 2**20 + image.",
    "03.draw_trajectories": "torch.randperm(trajectories, generator=generator)[:count], anew for every step.",
    "03.uniform_counts": "chosen = range(0, steps, interval); each, rest = divmod(samples, len(chosen)); the "
    "first `rest` of the chosen steps get each + 1, the others each, and all other steps 0.",
    "04.shortcut_output": "One half: `x = h.x_codes.int() - h.x_zero.int()`, `w = h.w_codes.int() - "
    "h.w_zero.int()[:, None]`, `h.x_scale * h.w_scale * (x @ w.T)`. Add the two halves at the end.",
    "01.accumulated_variance": "In each step: variance = F**2 * variance + B**2 * noise_variance.",
    "02.range_utilisation": "(highest - lowest + 1) / 2**bits.",
}
each_exercise = pytest.mark.parametrize("name", CELLS)


def pieces(hint: str) -> list[ast.Module]:
    """The parts of a hint that are Python, each a list of statements."""
    found, waiting = [], re.split(r"`|;|:(?= )|\.(?=\s|$)", hint)
    while waiting:
        part = waiting.pop().strip()
        try:
            found.append(ast.parse(part))
        except SyntaxError:
            waiting += re.split(r", (?![^(\[]*[)\]])", part) if ", " in part else []
            waiting = [other for other in waiting if other.strip() != part]
    return found


def steps(*trees: ast.AST) -> int:
    """The number of operations, calls and assignments."""
    return sum(isinstance(node, STEPS) for tree in trees for node in ast.walk(tree))


def told(name: str, hint: str) -> float:
    """The share of the solution that the hint's code has."""
    before, solution = split_solution(CELLS[name][1].source, name)
    tree = ast.parse(f"{before}\n{solution}")
    body = next(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)).body
    return steps(*pieces(hint)) / steps(*body)


def answers(name: str, hint: str) -> list[str]:
    """The cell of the exercise with the hint's code as the solution: its last value is returned."""
    before, solution = split_solution(CELLS[name][1].source, name)
    indent = solution[: len(solution) - len(solution.lstrip())]
    found = []
    for piece in pieces(hint):
        if piece.body and isinstance(piece.body[-1], ast.Expr | ast.Assign):
            found.append(f"{before}\n{indent}return {ast.unparse(piece.body[-1].value)}")
    return found


@each_exercise
def test_hints_have_little_code(name):
    for hint in find_exercise(name).hints:
        assert told(name, hint) <= MOST, hint


@each_exercise
def test_no_code_in_a_hint_is_right(name):
    for hint in find_exercise(name).hints:
        for code in answers(name, hint):
            assert not check(name, defined(name, code)).right, hint


@pytest.mark.parametrize("name", OLD)
def test_hints_that_tell_everything_are_noticed(name):
    hint = OLD[name]
    assert told(name, hint) > MOST or any(
        check(name, defined(name, code)).right for code in answers(name, hint)
    )
