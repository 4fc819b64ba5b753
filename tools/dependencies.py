"""What the outputs of a lesson's notebook depend on, as hashes: one that changes makes the notebook stale."""

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
    """SHA-256 of each file: source, the course's modules, weights, recorded results.

    The library's own modules are not among them: its tests say what they promise.
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
    """The same on systems that end lines differently."""
    return hashlib.sha256(path.read_text(encoding="utf-8").encode()).hexdigest()


def modules(name: str, source: str) -> list[str]:
    """Files below qdiff_lib/course that the lesson imports, and those that they import in turn.

    The lesson's checks and figures are among them, and what the bootstrap imports: every notebook shows it.
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
    """Full names of all that the code imports; for ``from a import b`` a and a.b, which may be a module."""
    names = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return names


def module_file(name: str) -> Path | None:
    """The file of a module of the course; None for any other name."""
    path = ROOT / name.replace(".", "/")
    files = [path.with_suffix(".py"), path / "__init__.py"]
    found = [file for file in files if name.split(".")[:2] == COURSE.split(".") and file.is_file()]
    return found[0] if found else None
