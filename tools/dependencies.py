"""Hashes of all files on which the outputs of a lesson's notebook depend.

If one of the hashes changes, the notebook is out of date.
"""

import ast
import hashlib
import json
import re
from importlib.util import resolve_name
from pathlib import Path

from .expansion import ROOT, SOURCES

COURSE = "qdiff_lib.course"  # what the bootstrap cell imports
STYLE = "qdiff_lib/course/figures/course.mplstyle"


def inputs(name: str, sources: Path = SOURCES) -> dict[str, str]:
    """The SHA-256 of each file that the lesson depends on, by path.

    These are the source, modules of the course, weights and recorded results. Other modules of the library
    are left out: the library's tests check them.
    """
    source = (sources / f"{name}.py").read_text(encoding="utf-8")
    recorded = [f"data/recorded/{result}.json" for result in re.findall(r"recorded\(\"([\w/-]+)\"\)", source)]
    hashes = {f"notebooks/src/{name}.py": text_sha256(sources / f"{name}.py")}
    files = [*modules(name, source), STYLE, *(file for file in recorded if (ROOT / file).is_file())]
    hashes |= {file: text_sha256(ROOT / file) for file in files}
    listed = json.loads((ROOT / "data/MANIFEST.json").read_text(encoding="utf-8"))["files"]
    models = [file for file in listed if file.startswith("models/") and file.endswith(".safetensors")]
    return hashes | {f"data/{file}": listed[file]["sha256"] for file in models}


def text_sha256(path: Path) -> str:
    """The SHA-256 of a text file; it does not depend on the system's line ends."""
    return hashlib.sha256(path.read_text(encoding="utf-8").encode()).hexdigest()


def modules(name: str, source: str) -> list[str]:
    """The files below qdiff_lib/course that the lesson imports, directly or through other files.

    The lesson's checks and figures are among them, and the files that the bootstrap cell imports.
    """
    waiting = {COURSE, *(f"{COURSE}.{kind}.lesson_{name[:2]}" for kind in ("exercises", "figures"))}
    waiting |= imported(source, package="")
    found: set[Path] = set()
    while waiting:
        path = module_file(waiting.pop())
        if path and path not in found:
            found.add(path)
            package = path.parent.relative_to(ROOT).as_posix().replace("/", ".")
            waiting |= imported(path.read_text(encoding="utf-8"), package)
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


def imported(code: str, package: str) -> set[str]:
    """The full names that the code imports; for ``from a import b`` both a and a.b, which may be a module."""
    names = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return names


def module_file(name: str) -> Path | None:
    """The file of a module of the course; None if the name is not one."""
    path = ROOT / name.replace(".", "/")
    files = [path.with_suffix(".py"), path / "__init__.py"]
    found = [file for file in files if name.split(".")[:2] == COURSE.split(".") and file.is_file()]
    return found[0] if found else None
