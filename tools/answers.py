"""Judges the answers in one submitted notebook; ``tools.grade`` runs this module in a separate process.

For each answer it runs the statement that defines the answer, and the statements that the answer needs: those
that bind the names that the answer reads, such as imports, helper functions and constants. They may be in any
cell, and run in the order of the notebook. No other statement runs: none that draws, prints, or calls
``check``.
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

ERROR = "error"  # the verdict for an answer that cannot be judged
ALL = "*"  # the name that "from x import *" binds here
FORBIDDEN = re.compile(
    r"socket\.(bind|connect|get(addr|host)\w*|send\w+)|subprocess\.Popen|os\.(exec|posix_spawn|system)"
)


@dataclass(frozen=True, eq=False)
class Statement:
    """A statement of a cell. reads: names that it reads from the notebook. binds: names that it binds."""

    node: ast.stmt
    reads: frozenset[str]
    binds: frozenset[str]

    @property
    def untouched(self) -> bool:
        """Whether the statement still has the stub's line that raises NotImplementedError."""
        return ast.unparse(ast.parse(STUB)) in ast.unparse(self.node)

    def run(self, namespace: dict) -> None:
        """Run the statement in ``namespace``; raises what the statement raises."""
        exec(compile(ast.Module([self.node], []), "notebook", "exec"), namespace)


def code_cells(path: Path) -> list[str]:
    """The source of each code cell of a notebook."""
    cells = nbformat.read(path, as_version=4).cells
    return [cell.source for cell in cells if cell.cell_type == "code"]


def statements(cell: str) -> list[Statement]:
    """The statements of a cell; syntax of IPython is converted to Python. Raises SyntaxError."""
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
    """The global names that a symbol table and its children read."""
    top = table.get_type() == "module"
    found = {
        name.get_name() for name in table.get_symbols() if name.is_referenced() and (top or name.is_global())
    }
    return found.union(*map(reads, table.get_children()))


def needed(answer: Statement, others: Iterable[Statement]) -> set[Statement]:
    """The answer and all statements that it needs, directly or through other statements."""
    kept, wanted, grown = {answer}, {ALL} | answer.reads, True
    others = [other for other in others if not other.binds & answer.binds]
    while grown:
        more = {other for other in others if other.binds & wanted} - kept
        kept, wanted, grown = kept | more, wanted.union(*(each.reads for each in more)), bool(more)
    return kept


def judge(cells: list[str], exercise: str) -> tuple[str, str]:
    """Verdict and message for an exercise "NN.function".

    cells: the code cells. The verdict is that of the check, or "missing" if no cell defines the function, or
    ERROR. If there are several definitions, the last one that is not the unchanged stub counts.
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
    """Whether the statement defines a function or assigns a name."""
    return isinstance(node, ast.FunctionDef | ast.Assign | ast.AnnAssign)


def checked(exercise: str, answer: Statement, found: list[Statement]) -> tuple[str, str]:
    """Run the statements that the answer needs, in the notebook's order, then the course's check.

    found: all statements of the notebook. Returns verdict and message.
    """
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
    except BaseException as error:  # SystemExit too: other exercises are still to be judged
        return ERROR, f"{where} ended with {type(error).__name__}: {error}"
    return outcome.verdict.value, outcome.message


def stay_alone(event: str, arguments: tuple) -> None:
    """An audit hook that raises PermissionError for sockets, and for starting other programs."""
    if FORBIDDEN.fullmatch(event):
        raise PermissionError("an answer may neither use the network nor start programs")


def prepare(exercise: str) -> None:
    """Import the course and its checks. This takes seconds, which must not count as time of an answer."""
    from qdiff_lib.course.checks import find_exercise

    find_exercise(exercise)


def main(path: str, exercises: list[str]) -> None:
    """Judge the exercises of the notebook ``path``; write "ready", then a line of JSON for each exercise.

    The lines go to the original standard output, which the answers cannot write to.
    """
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
