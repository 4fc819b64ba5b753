"""Which statements of a notebook an answer needs. Runs in the sandbox.

An answer sees what stands before it, up to the cell that checks it, and nothing after.
"""

import __future__

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass

from .cells import ALL, Statement, read_cells

END = 10**9  # a cell after the last


@dataclass(frozen=True)
class Candidate:
    """A definition of an answer, and all statements that it needs, in the order of the notebook."""

    answer: Statement
    needed: list[Statement]


@dataclass(frozen=True)
class Found:
    """What a notebook has for an exercise.

    candidates: the definition that counts and, if the notebook's last one is another, that one. broken: the
    error of a cell that seems to define the answer and is not Python.
    """

    candidates: list[Candidate]
    broken: str

    @property
    def missing(self) -> bool:
        return not self.candidates and not self.broken


def find_answers(cells: list[str], exercise: str) -> Found:
    """The definitions of an exercise "NN.function" in the code cells that may count.

    The definition that the last check of the exercise sees counts: the last one above the cell that calls
    ``check("NN.function", ...)``. Stubs count only where there is nothing else.
    """
    function = exercise.partition(".")[2]
    statements, errors = read_cells(cells)
    checks = [number for number, cell in enumerate(cells) if calls_check(cell, exercise)]
    definitions = [each for each in statements if function in each.defines]
    attempts = [each for each in definitions if not each.untouched]
    broken = [error for number, error in errors.items() if seems_to_define(cells[number], function)]
    if broken and not attempts:
        return Found([], broken[-1])
    chosen = choose(attempts or definitions, max(checks, default=END))
    return Found([Candidate(each, needed(each, statements, function, checks)) for each in chosen], "")


def choose(definitions: list[Statement], check: int) -> list[Statement]:
    """The last definition above the cell ``check``, then the last of all, if it is another."""
    above = [each for each in definitions if each.cell <= check]
    return list(dict.fromkeys([*above[-1:], *definitions[-1:]]))


def calls_check(cell: str, exercise: str) -> bool:
    """Whether a cell calls the check of the exercise."""
    return re.search(rf"""\bcheck\(\s*["']{re.escape(exercise)}["']""", cell) is not None


def seems_to_define(cell: str, function: str) -> bool:
    """Whether a cell that may be no Python has a definition of the function."""
    return (
        re.search(rf"^\s*(async\s+)?(def|class)\s+{function}\b|^{function}\s*=", cell, re.MULTILINE)
        is not None
    )


def needed(
    answer: Statement, statements: list[Statement], function: str, checks: list[int]
) -> list[Statement]:
    """The answer and all statements that it needs, directly or through other statements, in order.

    Those of its cell and of the cells below count up to its next check: the check is what they come before.
    """
    limit = min((cell for cell in checks if cell >= answer.cell), default=answer.cell)
    at = statements.index(answer)
    visible = [each for i, each in enumerate(statements) if i <= at or each.cell <= limit]
    others = [each for each in visible if each is not answer and function not in each.defines]
    if function in answer.now:  # as in ``answer = cached(answer)``
        others = [each for each in statements[:at] if each is not answer] + others
    kept, wanted, grown = {answer}, {ALL} | answer.reads | {function}, True
    own = {name for each in visible for name in each.defines}
    while grown:
        more = {each for each in others if each not in kept and serves(each, wanted, own)}
        kept, wanted, grown = kept | more, wanted.union(*(each.reads for each in more)), bool(more)
    return [each for each in visible if each in kept]


def serves(statement: Statement, wanted: set[str], own: set[str]) -> bool:
    """Whether the statement binds a wanted name or may change its value.

    own: the names that the notebook defines: a call of such a function may change its arguments.
    """
    if statement.binds & wanted or statement.changes & wanted:
        return True
    return any(name in own and given & wanted for name, given in statement.arguments)


def run(statements: Iterable[Statement], answer: Statement, namespace: dict) -> list[str]:
    """Run the statements in the namespace. A failed one is skipped, as in a notebook.

    Returns what failed. Raises what the statement ``answer`` raises.
    """
    flags = __future__.annotations.compiler_flag  # a type in a signature needs no import then
    failed = []
    for statement in statements:
        module = ast.Module([statement.node], [])
        try:
            exec(compile(module, "notebook", "exec", flags, dont_inherit=True), namespace)
        except (Exception, SystemExit) as error:
            if statement is answer:
                raise
            failed.append(f"{statement.line!r} ended with {type(error).__name__}: {str(error)[:200]}")
    return failed
