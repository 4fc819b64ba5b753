"""The rules that every lesson keeps. The functions ``*_problems`` return a list of broken rules."""

import ast
import re

from nbformat import NotebookNode

from .expansion import ROOT, is_exercise

CELLS = range(18, 34)  # cells of a source: 20 to 30, with some tolerance
LINES = 15  # most lines of code in a cell
CLAIMS, CHECKED = 5, 3  # fewest claims, and fewest cells with checked output
SIZE = 400_000  # most bytes of a notebook, so that GitHub renders it quickly
MEMORY = 900  # most MB of a kernel: Binder guarantees 1 GB for kernel and server
BAR = re.compile(r"^.*\d+%\|.*\|.*$", re.MULTILINE)  # a progress bar of tqdm
VIEW = "application/vnd.jupyter.widget-view+json"


def has_tag(cell: NotebookNode, tag: str) -> bool:
    """Whether the cell has the tag."""
    return tag in cell.metadata.get("tags", [])


def source_problems(cells: list[NotebookNode]) -> list[str]:
    """Broken rules of a lesson's source: numbers of cells, claims, checked outputs; ``cell_problems``."""
    problems = []
    if len(cells) not in CELLS:
        problems.append(f"{len(cells)} cells, not {CELLS.start} to {CELLS.stop - 1}")
    code = [cell for cell in cells if cell.cell_type == "code"]
    claims = sum(len(re.findall(r"^\s*claim\(", cell.source, re.MULTILINE)) for cell in code)
    if claims < CLAIMS:
        problems.append(f"{claims} claims, fewer than {CLAIMS}")
    checked = sum(has_tag(cell, "nbval-check-output") for cell in code)
    if checked < CHECKED:
        problems.append(f"{checked} cells tagged nbval-check-output, fewer than {CHECKED}")
    for previous, cell in zip(cells, cells[1:], strict=False):
        if is_exercise(cell) and not previous.source.startswith("### Exercise"):
            problems.append(f"no '### Exercise' heading before: {first_line(cell.source)}")
    return problems + cell_problems(cells)


def cell_problems(cells: list[NotebookNode]) -> list[str]:
    """Broken rules of the source of any notebook, also of an assignment: lines of cells, headings."""
    problems = []
    for cell in cells:
        if cell.cell_type == "code" and (count := code_lines(cell.source)) > LINES:
            problems.append(f"{count} lines of code, more than {LINES}, in: {first_line(cell.source)}")
    return problems + heading_problems(cells)


def code_lines(code: str) -> int:
    """The number of lines of code, without blank lines, comments and docstrings."""
    documented = {
        number
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None
        for number in range(node.body[0].lineno, node.body[0].end_lineno + 1)
    }
    lines = [line.strip() for i, line in enumerate(code.splitlines(), start=1) if i not in documented]
    return sum(bool(line) and not line.startswith("#") for line in lines)


def first_line(code: str) -> str:
    """The first line of the code, at most 80 characters."""
    return code.strip().partition("\n")[0][:80]


def heading_problems(cells: list[NotebookNode]) -> list[str]:
    """Broken rules of headings: there is one title, it comes first, and no heading skips a level."""
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    levels = [len(marks) for marks in re.findall(r"^(#+) ", text, re.MULTILINE)]
    problems = []
    if levels.count(1) != 1 or levels[0] != 1:
        problems.append("there must be one '# Title', and it must be the first heading")
    if any(below > above + 1 for above, below in zip(levels, levels[1:], strict=False)):
        problems.append(f"a heading skips a level: {levels}")
    return problems


def notebook_problems(notebook: NotebookNode, size: int) -> list[str]:
    """Broken rules of a built notebook: run once from top to bottom, small, with clean outputs.

    size: of its file, in bytes.
    """
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    problems = []
    counts = [cell.execution_count for cell in code]
    if counts != list(range(1, len(code) + 1)):
        problems.append(f"not run from top to bottom: the execution counts are {counts}")
    if "widgets" in notebook.metadata:
        problems.append("it holds the state of widgets")
    if size > SIZE:
        problems.append(f"{size} bytes, more than {SIZE}")
    ids = [cell.id for cell in notebook.cells]
    if len(set(ids)) < len(ids):
        problems.append("two cells have the same id")
    for cell in notebook.cells:
        problems.extend(f"{problem}: {first_line(cell.source)}" for problem in path_problems(cell))
    for cell in code:
        problems.extend(f"{problem}, of: {first_line(cell.source)}" for problem in output_problems(cell))
    return problems


def path_problems(cell: NotebookNode) -> list[str]:
    """Paths and memory addresses in a cell that come from the machine where the notebook was built."""
    text = cell.source + "".join(texts(cell))
    problems = [f"the path {word!r}" for word in (str(ROOT), "/tmp/", "/home/", "/root/") if word in text]
    if re.search(r"\bat 0x[0-9a-f]{6,}", text):
        problems.append("an object's address in memory")
    return problems


def texts(cell: NotebookNode) -> list[str]:
    """All text in the outputs of a cell."""
    found = []
    for output in cell.get("outputs", []):
        found.append(output.get("text", ""))
        found.extend(value for mime, value in output.get("data", {}).items() if mime.startswith("text/"))
    return found


def output_problems(cell: NotebookNode) -> list[str]:
    """Broken rules of outputs: no errors, warnings, progress bars, widgets, or pictures without alt text."""
    problems = []
    for output in cell.outputs:
        if output.output_type == "error":
            problems.append(f"the error {output.ename}: {output.evalue}")
        if output.get("name") == "stderr":
            problems.append(f"a warning in its output: {output.text[:300]!r}")
        if BAR.search(output.get("text", "")):
            problems.append("a progress bar")
        data = output.get("data", {})
        if VIEW in data:
            problems.append("a widget's view")
        if "image/png" in data and not output.metadata.get("image/png", {}).get("alt"):
            problems.append("a picture without alt text: use show() or explore()")
        if "image/svg+xml" in data:
            problems.append("an SVG picture, which is never twice the same")
    return problems
