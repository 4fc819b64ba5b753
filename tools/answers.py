"""Judge the answers of one submitted notebook; ``grade.py`` starts this in a process of its own.

Of a notebook it runs the statement that defines an answer, and the statements that this one needs: imports,
helper functions, constants, whatever binds the names that they read, in any cell and in the notebook's order.
Nothing else runs: no drawing of pictures, no cell that prints, no ``check`` of the notebook's own.
"""

import ast
import json
import os
import re
import symtable
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import nbformat
from IPython.core.inputtransformer2 import TransformerManager

from .expansion import STUB

ERROR = "error"  # the verdict where none can be given
ALL = "*"  # what "from x import *" binds
FORBIDDEN = re.compile(
    r"socket\.(bind|connect|get(addr|host)\w*|send\w+)|subprocess\.Popen|os\.(exec|posix_spawn|system)"
)


@dataclass(frozen=True, eq=False)
class Statement:
    """A statement of a cell, the names that it reads from the notebook, and those that it binds."""

    node: ast.stmt
    reads: frozenset[str]
    binds: frozenset[str]

    @property
    def untouched(self) -> bool:
        """Whether the stub's line that raises still stands there."""
        return ast.unparse(ast.parse(STUB)) in ast.unparse(self.node)

    def run(self, namespace: dict) -> None:
        exec(compile(ast.Module([self.node], []), "notebook", "exec"), namespace)


def code_cells(path: Path) -> list[str]:
    """The code of a notebook, cell by cell."""
    cells = nbformat.read(path, as_version=4).cells
    return [cell.source for cell in cells if cell.cell_type == "code"]


def statements(cell: str) -> list[Statement]:
    """The statements of a cell; what IPython alone understands becomes a call. Raises SyntaxError."""
    nodes = ast.parse(TransformerManager().transform_cell(cell)).body
    return [Statement(node, *names(node)) for node in nodes]


def names(node: ast.stmt) -> tuple[frozenset[str], frozenset[str]]:
    """The names that a statement reads from the notebook, in its functions too, and those that it binds."""
    table = symtable.symtable(ast.unparse(node), "notebook", "exec")
    bound = {name.get_name() for name in table.get_symbols() if name.is_assigned() or name.is_imported()}
    if isinstance(node, ast.ImportFrom) and node.names[0].name == ALL:
        bound.add(ALL)
    return frozenset(reads(table)), frozenset(bound)


def reads(table: symtable.SymbolTable) -> set[str]:
    top = table.get_type() == "module"
    found = {
        name.get_name() for name in table.get_symbols() if name.is_referenced() and (top or name.is_global())
    }
    return found.union(*map(reads, table.get_children()))


def needed(answer: Statement, others: Iterable[Statement]) -> set[Statement]:
    """The answer, and the statements that bind what it reads, and what those read in turn."""
    kept, wanted, grown = {answer}, {ALL} | answer.reads, True
    others = [other for other in others if not other.binds & answer.binds]
    while grown:
        more = {other for other in others if other.binds & wanted} - kept
        kept, wanted, grown = kept | more, wanted.union(*(each.reads for each in more)), bool(more)
    return kept


def judge(cells: list[str], exercise: str) -> tuple[str, str]:
    """Verdict and message for an exercise "NN.function".

    The verdict is the check's, or "missing" where no cell defines the function, or ERROR. Of several
    definitions the last counts that is not the untouched stub.
    """
    function = exercise.partition(".")[2]
    found, broken = [], ""
    for cell in cells:
        try:
            found.extend(statements(cell))
        except (SyntaxError, ValueError) as error:
            if re.search(rf"^\s*def\s+{function}\b", cell, re.MULTILINE):
                broken = f"the cell is not Python: {error.args[0]}"
    answers = [each for each in found if function in each.binds and is_definition(each.node)]
    attempts = [each for each in answers if not each.untouched]
    if broken and not attempts:
        return "wrong", broken
    if not answers:
        return "missing", f"no cell defines {function}"
    return checked(exercise, (attempts or answers)[-1], found)


def is_definition(node: ast.stmt) -> bool:
    return isinstance(node, ast.FunctionDef | ast.Assign | ast.AnnAssign)


def checked(exercise: str, answer: Statement, found: list[Statement]) -> tuple[str, str]:
    """Run what the answer needs, in the notebook's order, then the course's check."""
    from qdiff_lib.course.checks import check

    namespace, wanted = {"__name__": "__main__"}, needed(answer, found)
    where = "its check"
    try:
        for statement in found:
            if statement in wanted:
                where = repr(ast.unparse(statement.node).partition("\n")[0][:80])
                statement.run(namespace)
        where = "its check"
        outcome = check(exercise, namespace[exercise.partition(".")[2]])
    except BaseException as error:  # also what ends Python: the other exercises are still to be judged
        return ERROR, f"{where} ended with {type(error).__name__}: {error}"
    return outcome.verdict.value, outcome.message


def stay_alone(event: str, arguments: tuple) -> None:
    """An audit hook: no network, and no other program that could use it."""
    if FORBIDDEN.fullmatch(event):
        raise PermissionError("an answer may neither use the network nor start programs")


def prepare(exercise: str) -> None:
    """Import the course and its checks, which takes seconds: not the answers' time."""
    from qdiff_lib.course.checks import find_exercise

    find_exercise(exercise)


def main(path: str, exercises: list[str]) -> None:
    """Write a line when ready, then one for each exercise, to standard output, which answers cannot reach."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1) as results:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        cells = code_cells(Path(path))
        prepare(exercises[0])
        sys.addaudithook(stay_alone)
        print("ready", file=results)
        for exercise in exercises:
            print(json.dumps(judge(cells, exercise)), file=results)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
