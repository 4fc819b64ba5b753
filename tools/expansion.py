"""Makes the cells of a lesson's notebook from the lesson's source; no cell is run.

A source is a script in percent format (see jupytext). Added are a navigation cell, the bootstrap cell, and
for each exercise a stub, its check, its hints and its folded solution. The bootstrap cell has the imports of
all exercises, so that each exercise needs this one cell alone.
"""

import ast
import os
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

import jupytext
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "notebooks" / "src"
ASSIGNMENTS = ("capstone",)  # sources without a number: work that is graded as a whole
NAMES = ("check", "claim", "explore", "hints", "progress", "quiz", "recorded", "show", "start")
BEGIN, END = "# BEGIN SOLUTION", "# END SOLUTION"
STUB = 'raise NotImplementedError("your turn")'

SOLUTION = """\
<details>
<summary>Solution (a click opens it)</summary>

```python
{code}
```

</details>"""
RESTART = "# After a restart of the kernel, run the first code cell of the notebook before this one."
PREDICT = "**Predict"  # marks a question in the text; the outputs of the code cells after it are folded
HIDE = "hide-output"  # the tag that makes sites of notebooks fold an output

BOOTSTRAP = """\
# This cell loads the course (and installs it on Colab). Run it first, also after each restart of the kernel.
import importlib.util
import sys

if "google.colab" in sys.modules and not importlib.util.find_spec("qdiff_lib"):
{install}
try:
    from qdiff_lib.course import {names}
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"{{error}}: the kernel of this notebook, {{sys.executable}}, does not have the course. Choose "
        "another kernel (menu Kernel, Change Kernel), or start JupyterLab in the course's folder: make lab"
    ) from None
{imports}
lesson = start("{name}")"""
INSTALL = """\
    import subprocess

    course = "git+https://github.com/{repository}@{tag}"  # --no-deps: Colab's torch and numpy stay
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", course], check=True)
    subprocess.run([sys.executable, "-m", "qdiff_lib.cli.colab"], check=True)"""
NO_ADDRESS = """\
    raise RuntimeError("this copy of the course has no address to install it from: set repository under "
                       "[tool.course] in pyproject.toml, and run make notebooks")"""


class SourceError(ValueError):
    """Raised if a lesson's source breaks a rule of the format; the message names lesson, cell and fix."""


@dataclass(frozen=True)
class Address:
    """Where the course is published.

    repository: "owner/name" on GitHub, or "" if it is not published. tag: a git tag. Raises ValueError for
    values of another form.
    """

    repository: str
    tag: str

    def __post_init__(self):
        if self.repository and not re.fullmatch(r"[\w.-]+/[\w.-]+", self.repository):
            raise ValueError(f"repository={self.repository!r} is not of the form 'owner/name'")
        if not re.fullmatch(r"[\w.-]+", self.tag):
            raise ValueError(f"tag={self.tag!r} is not the name of a git tag")


def read_address(project: Path = ROOT / "pyproject.toml") -> Address:
    """The address in ``[tool.course]`` of pyproject.toml.

    The environment variable COURSE_REPOSITORY, if set, replaces the repository.
    """
    course = tomllib.loads(project.read_text(encoding="utf-8"))["tool"]["course"]
    return Address(os.environ.get("COURSE_REPOSITORY") or course["repository"], course["tag"])


def lesson_names(sources: Path = SOURCES) -> list[str]:
    """The names of the lessons in order: the stems of ``NN_*.py``."""
    return sorted(path.stem for path in sources.glob("[0-9][0-9]_*.py"))


def notebook_names(sources: Path = SOURCES) -> list[str]:
    """The names of all notebooks: the lessons in order, then the assignments."""
    return lesson_names(sources) + [name for name in ASSIGNMENTS if (sources / f"{name}.py").is_file()]


def read_source(path: Path) -> list[NotebookNode]:
    """The cells of a source, unchanged."""
    return jupytext.reads(path.read_text(encoding="utf-8"), fmt="py:percent").cells


def expand(path: Path, names: list[str], address: Address) -> list[NotebookNode]:
    """All cells of the notebook of the lesson in ``path``.

    names: all notebooks, for the navigation. Raises SourceError for a source that breaks a rule of the
    format.
    """
    source = read_source(path)
    if not source or not source[0].source.startswith("# "):
        raise SourceError(f"{path.name}: the first cell must be markdown and start with '# Title'")
    at = bootstrap_place(source)
    begin = bootstrap(path.stem, address, exercise_imports(source))
    cells = [navigation(path.stem, names, address), *source[:at], begin]
    for cell in source[at:]:
        cells.extend(expand_exercise(cell, path.name) if is_exercise(cell) else [cell])
    return numbered(path.stem, fold_answers([plain(cell) for cell in cells]))


def fold_answers(cells: list[NotebookNode]) -> list[NotebookNode]:
    """Fold the outputs below a question that starts with ``PREDICT``, in place.

    These are the outputs of the code cells between this text and the next one. JupyterLab opens an output
    again when its cell runs.
    """
    asked = False
    for cell in cells:
        if cell.cell_type == "markdown":
            asked = PREDICT in cell.source
        elif asked:
            cell.metadata["tags"] = [*cell.metadata.get("tags", []), HIDE]
            cell.metadata["jupyter"] = {"outputs_hidden": True}
    return cells


def bootstrap_place(source: list[NotebookNode]) -> int:
    """The position of the bootstrap cell, after title and card.

    It is that of the first code cell, or of the first cell with a ``## `` heading.
    """
    for i, cell in enumerate(source):
        if cell.cell_type == "code" or cell.source.startswith("## "):
            return i
    return len(source)


def plain(cell: NotebookNode) -> NotebookNode:
    """A copy of the cell with only its text, tags, exercise, and whether its code is folded."""
    kept = {key: cell.metadata[key] for key in ("tags", "exercise", "jupyter") if key in cell.metadata}
    make = new_code_cell if cell.cell_type == "code" else new_markdown_cell
    return make(cell.source, metadata=kept)


def numbered(name: str, cells: list[NotebookNode]) -> list[NotebookNode]:
    """Give each cell the id "name-NN", in place. Ids do not change between builds, so diffs stay small."""
    for i, cell in enumerate(cells):
        cell.id = f"{name}-{i:02d}"[-64:]
    return cells


def short_title(name: str) -> str:
    """ "01_error_accumulation" as "1 error accumulation"; the name of an assignment as it is."""
    number, _, words = name.partition("_")
    if not words:
        return name
    return f"{int(number)} {words.replace('_', ' ')}"


def navigation(name: str, names: list[str], address: Address) -> NotebookNode:
    """A cell with links to the previous lesson, the contents and the next lesson.

    It has badges if the course has a repository. name: this lesson. names: all notebooks.
    """
    i = names.index(name)
    links = ["[Contents](README.md)"]
    if i > 0:
        links.insert(0, f"[← {short_title(names[i - 1])}]({names[i - 1]}.ipynb)")
    if i + 1 < len(names):
        links.append(f"[{short_title(names[i + 1])} →]({names[i + 1]}.ipynb)")
    text = " · ".join(links)
    if address.repository:
        text += "\n\n" + badges(f"notebooks/{name}.ipynb", address)
    return new_markdown_cell(text, metadata={"tags": ["navigation"]})


def badges(path: str, address: Address) -> str:
    """The Markdown of two badges, which open the tagged version of ``path`` on Colab and on Binder."""
    colab = f"https://colab.research.google.com/github/{address.repository}/blob/{address.tag}/{path}"
    binder = f"https://mybinder.org/v2/gh/{address.repository}/{address.tag}?urlpath=lab/tree/{path}"
    return (
        f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({colab}) "
        f"[![Open in Binder](https://mybinder.org/badge_logo.svg)]({binder})"
    )


def bootstrap(name: str, address: Address, imports: list[str]) -> NotebookNode:
    """The first code cell of every lesson; on Colab it installs the tagged version of the course.

    imports: the import statements that the lesson's exercises need.
    """
    install = INSTALL.format(repository=address.repository, tag=address.tag)
    code = BOOTSTRAP.format(
        install=install if address.repository else NO_ADDRESS,
        names=", ".join(NAMES),
        imports="\n".join(imports),
        name=name,
    )
    return new_code_cell(code.replace("\n\n\n", "\n\n"), metadata={"tags": ["bootstrap"]})


def exercise_imports(source: list[NotebookNode]) -> list[str]:
    """The import statements at the top of all exercise cells, sorted, each once."""
    found = {ast.unparse(node) for cell in source if is_exercise(cell) for node in import_nodes(cell.source)}
    return sorted(found)


def import_nodes(code: str) -> list[ast.stmt]:
    """The import statements of some code, outside of functions."""
    return [node for node in ast.parse(code).body if isinstance(node, ast.Import | ast.ImportFrom)]


def without_imports(code: str) -> str:
    """The code without its import statements and without blank lines at its start."""
    lines = code.splitlines()
    gone = {i for node in import_nodes(code) for i in range(node.lineno - 1, node.end_lineno)}
    return "\n".join(line for i, line in enumerate(lines) if i not in gone).lstrip("\n")


def is_exercise(cell: NotebookNode) -> bool:
    """Whether the cell is tagged as an exercise."""
    return "exercise" in cell.metadata.get("tags", [])


def expand_exercise(cell: NotebookNode, file: str) -> list[NotebookNode]:
    """The cells of an exercise: stub, check, hints, and the solution as folded text.

    The solution is no code cell, so that ``check`` judges the learner's function, also after "Run All". The
    tests run it. file: the source's name in errors. Raises SourceError for a wrong exercise name, or as
    ``split_solution``.
    """
    name = cell.metadata.get("exercise", "")
    function = name.partition(".")[2]
    before, solution = split_solution(without_imports(cell.source), f"{file}: exercise {name!r}")
    stub = f"{RESTART}\n{before}\n{indent_of(solution)}{STUB}"
    defined = [node.name for node in ast.parse(stub).body if isinstance(node, ast.FunctionDef)]
    if function not in defined:
        raise SourceError(f"{file}: exercise={name!r} must be 'NN.function', with the function in its cell")
    return [
        new_code_cell(stub, metadata={"tags": ["exercise"], "exercise": name}),
        new_code_cell(f'check("{name}", {function})', metadata={"tags": ["check"]}),
        new_code_cell(f'hints("{name}")', metadata={"tags": ["hints"]}),
        new_markdown_cell(SOLUTION.format(code=f"{before}\n{solution}"), metadata={"tags": ["solution"]}),
    ]


def split_solution(code: str, where: str) -> tuple[str, str]:
    """The code before the solution, and the solution, which must be at the end of the cell.

    where: names the cell in errors. Raises SourceError if the two marks of the solution are not as required.
    """
    lines = code.rstrip().splitlines()
    marks = [i for i, line in enumerate(lines) if line.strip() in (BEGIN, END)]
    found = [lines[i].strip() for i in marks]
    if found != [BEGIN, END] or marks[1] != len(lines) - 1 or marks[1] == marks[0] + 1:
        raise SourceError(
            f"{where}: needs one line '{BEGIN}', the solution, and the cell's last line '{END}'"
        )
    return "\n".join(lines[: marks[0]]), "\n".join(lines[marks[0] + 1 : marks[1]])


def indent_of(code: str) -> str:
    """The white space at the start of the first line."""
    return code[: len(code) - len(code.lstrip())]


def for_students(cells: list[NotebookNode], name: str) -> list[NotebookNode]:
    """The cells of the lesson ``name`` without solutions and outputs."""
    kept = [plain(cell) for cell in cells if "solution" not in cell.metadata.get("tags", [])]
    for cell in kept:
        cell.metadata.pop("jupyter", None)  # there is no output to fold
    return numbered(name, kept)


def solution_lines(cells: list[NotebookNode], file: str) -> set[str]:
    """The lines of all solutions of a source that are longer than 12 characters, without comments."""
    lines = set()
    for cell in cells:
        if is_exercise(cell):
            _, solution = split_solution(cell.source, file)
            lines.update(line.partition("  #")[0].strip() for line in solution.splitlines())
    return {line for line in lines if len(line) > 12 and not line.startswith("#")}
