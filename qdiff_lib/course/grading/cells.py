"""From the code cells of a notebook to statements of Python. Runs in the sandbox: cells may hold anything."""

import ast
import re
import symtable
from collections.abc import Iterator
from dataclasses import dataclass

ALL = "*"  # the name that "from x import *" binds here
STUB = "raise NotImplementedError('your turn')"
RUNS_PYTHON = ("time", "timeit", "capture", "prun", "memit", "mprun", "debug", "python", "python3", "py")
NOT_PYTHON = re.compile(r"\s*([%!?]|\w+(\s*,\s*\w+)*\s*=\s*[%!]|[^#'\"]*\?\s*$)")
CONTINUES = re.compile(r"[ \t)\]}#]|(else|elif|except|finally)\b|$")
CHANGES = frozenset(
    "add append appendleft clear discard extend insert pop popitem popleft remove reverse setdefault sort "
    "update".split()
)
COMPOUND = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.Match)


@dataclass(frozen=True, eq=False)
class Statement:
    """A statement at the top of a cell. cell: its number in the notebook.

    now: names that it reads when it runs. reads: these, and those that its functions read later. binds: names
    that it binds. defines: those that it binds by a definition or an assignment. changes: names whose values
    it may change in place. arguments: names that it passes to functions that it calls by name, for effect.
    """

    cell: int
    node: ast.stmt
    now: frozenset[str]
    reads: frozenset[str]
    binds: frozenset[str]
    defines: frozenset[str]
    changes: frozenset[str]
    arguments: tuple[tuple[str, frozenset[str]], ...]

    @property
    def untouched(self) -> bool:
        """Whether the statement still has the stub's line."""
        return STUB in ast.unparse(self.node)

    @property
    def line(self) -> str:
        """The first line of its code, shortened."""
        return ast.unparse(self.node).partition("\n")[0][:80]


def read_cells(cells: list[str]) -> tuple[list[Statement], dict[int, str]]:
    """All statements in order, and for each cell that is not Python its error.

    Of such a cell the parts that are Python count.
    """
    found: list[Statement] = []
    broken: dict[int, str] = {}
    for number, cell in enumerate(cells):
        nodes, error = parse(cell)
        if error:
            broken[number] = error
        for node in nodes:
            try:
                found.append(describe(number, node))
            except (RecursionError, SyntaxError, ValueError) as failed:  # nested without measure
                broken[number] = f"{type(failed).__name__}: {failed}"
    return found, broken


def parse(cell: str) -> tuple[list[ast.stmt], str]:
    """The statements of a cell and, if a part is not Python, the error; lines of IPython become ``pass``."""
    code = without_cell_magics(cell.replace("\r\n", "\n"))
    error = ""
    while True:
        try:
            return ast.parse(code).body, error
        except SyntaxError as found:
            error = f"{found.msg} (line {found.lineno})"
            lines, at = code.split("\n"), (found.lineno or 0) - 1
            if 0 <= at < len(lines) and NOT_PYTHON.match(lines[at]):
                stripped = lines[at].lstrip()
                lines[at] = lines[at][: len(lines[at]) - len(stripped)] + "pass"
                code, error = "\n".join(lines), ""
                continue
        except (ValueError, RecursionError, MemoryError) as found:
            error = f"{type(found).__name__}: {found}"
        return salvage(code), error


def without_cell_magics(cell: str) -> str:
    """The cell without lines such as ``%%time`` at its start; nothing if they say that it is not Python."""
    lines = cell.lstrip("\n ").split("\n")
    while lines and lines[0].startswith("%%"):
        if lines[0][2:].split(" ")[0] not in RUNS_PYTHON:
            return ""
        lines = "\n".join(lines[1:]).lstrip("\n").split("\n")
    return "\n".join(lines)


def salvage(code: str) -> list[ast.stmt]:
    """The statements of a cell with an error somewhere: it is cut where a line starts at the margin."""
    parts: list[list[str]] = [[]]
    for line in code.split("\n"):
        if not CONTINUES.match(line) and not (parts[-1] and parts[-1][-1].startswith("@")):
            parts.append([])
        parts[-1].append(line)
    nodes: list[ast.stmt] = []
    for part in parts:
        try:
            nodes.extend(ast.parse("\n".join(part)).body)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
    return nodes


def describe(cell: int, node: ast.stmt) -> Statement:
    """The statement with the names that it uses."""
    table = symtable.symtable(ast.unparse(node), "notebook", "exec")
    symbols = table.get_symbols()
    binds = {each.get_name() for each in symbols if each.is_assigned() or each.is_imported()}
    if isinstance(node, ast.ImportFrom) and node.names[0].name == ALL:
        binds.add(ALL)
    now = {each.get_name() for each in symbols if each.is_referenced()}
    reads = now.union(*map(later_reads, table.get_children()))
    parts = list(at_the_top(node))
    arguments = tuple(call for part in parts for call in calls(part))
    changes = frozenset(name for part in parts for name in changed(part))
    defines = frozenset(name for part in parts for name in defined(part))
    return Statement(
        cell, node, frozenset(now), frozenset(reads), frozenset(binds), defines, changes, arguments
    )


def later_reads(table: symtable.SymbolTable) -> set[str]:
    """The global names that a function or class and what is inside it read."""
    found = {each.get_name() for each in table.get_symbols() if each.is_referenced() and each.is_global()}
    return found.union(*map(later_reads, table.get_children()))


def at_the_top(node: ast.stmt) -> Iterator[ast.stmt]:
    """The statement, and those in its blocks, but none in a function or class."""
    yield node
    if isinstance(node, COMPOUND):
        for child in ast.walk(node):
            if isinstance(child, ast.ExceptHandler | ast.match_case):
                for inner in child.body:
                    yield from at_the_top(inner)
        for name in ("body", "orelse", "finalbody"):
            for inner in getattr(node, name, []):
                yield from at_the_top(inner)


def defined(node: ast.stmt) -> set[str]:
    """The names that a definition or an assignment binds."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        named = [part for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)]
        return {part.id for part in named if isinstance(part.ctx, ast.Store)}
    return set()


def changed(node: ast.stmt) -> set[str]:
    """The names whose values a simple statement may change: ``t[0] = 1``, ``del t[0]``, ``t.append(1)``."""
    if isinstance(node, (*COMPOUND, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return set()
    found = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Subscript | ast.Attribute) and not isinstance(part.ctx, ast.Load):
            found.add(base(part))
        if isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute):
            name = part.func.attr
            in_place = name in CHANGES or (name.endswith("_") and not name.endswith("__"))
            if in_place or (isinstance(node, ast.Expr) and part is node.value):
                found.add(base(part.func))
    return found - {""}


def calls(node: ast.stmt) -> list[tuple[str, frozenset[str]]]:
    """``fill(table)`` as ("fill", {"table"}), for a call that is a statement."""
    if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Call):
        return []
    call = node.value
    if not isinstance(call.func, ast.Name):
        return []
    given = [*call.args, *(keyword.value for keyword in call.keywords)]
    return [(call.func.id, frozenset(base(each) for each in given) - {""})]


def base(node: ast.expr) -> str:
    """The name at the start of ``name.a[b].c``, or an empty text."""
    while isinstance(node, ast.Subscript | ast.Attribute | ast.Starred):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""
