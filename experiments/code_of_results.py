"""The code that makes a result, as a hash: a cached result of other code is made again."""

import ast
import hashlib
from functools import cache
from pathlib import Path

from paths import ROOT

LIBRARY = ROOT / "qdiff_lib"
ELSEWHERE = ("cli", "course")  # packages that compute no result


@cache
def code_hash(*files: str) -> str:
    """A hash of the library's code, and of these files; comments, layout and docstrings do not count."""
    library = (path for path in LIBRARY.rglob("*.py") if path.relative_to(LIBRARY).parts[0] not in ELSEWHERE)
    trees = [bare(path) for path in (*sorted(library), *sorted(map(Path, files)))]
    return hashlib.sha256("\n".join(trees).encode()).hexdigest()[:16]


def bare(path: Path) -> str:
    """The syntax tree of a file without the texts that stand alone, which are docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [each for each in body if not is_text(each)]
    return ast.dump(tree)


def is_text(node: ast.AST) -> bool:
    """Whether a statement is a text alone."""
    return (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and type(node.value.value) is str
    )
