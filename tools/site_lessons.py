"""Makes pages of the site from the lessons' notebooks: folded plumbing, launch links, a list of exercises."""

import ast
import re
from pathlib import Path

from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

from .expansion import Address, badges

FOLDED = {"bootstrap", "hints"}  # tags of cells whose code is plumbing
SHOWING = {"show", "explore", "quiz", "hints", "progress", "print"}
FACTS = re.compile(r"Difficulty (\d) of 5, importance (\d) of 5, (?:time: about )?(\d+) minutes")


def prepare(notebook: NotebookNode, page: Path, address: Address) -> NotebookNode:
    """The notebook as a page: without its navigation, with launch links, and with plumbing folded.

    page: the path of the notebook in the repository. Nothing is run, and outputs stay as they are.
    """
    kept = [cell for cell in notebook.cells if "navigation" not in cell.metadata.get("tags", [])]
    for cell in kept:
        tags = set(cell.metadata.get("tags", []))
        hidden = cell.metadata.get("jupyter", {})
        if cell.cell_type == "code" and (
            tags & FOLDED or hidden.get("source_hidden") or is_plumbing(cell.source)
        ):
            tags.add("hide-input")
        if hidden.get("outputs_hidden"):
            tags.add("hide-output")
        cell.metadata["tags"] = sorted(tags)
    if address.repository:
        kept.insert(1, new_markdown_cell(launch_links(page.as_posix(), address)))
    notebook.cells = kept
    return notebook


def launch_links(path: str, address: Address) -> str:
    """The badges of a lesson as links in words, because the site loads no pictures from elsewhere."""
    return re.sub(r"!\[(.*?)\]\(.*?\)", r"\1", badges(path, address)).replace(") [", ") · [")


def is_plumbing(code: str) -> bool:
    """Whether the code only imports, reads recorded results, and shows what other code made."""
    body = ast.parse(code).body
    return (
        bool(body)
        and all(
            isinstance(node, ast.Import | ast.ImportFrom)
            or (isinstance(node, ast.Expr) and called(node.value) in SHOWING)
            or (isinstance(node, ast.Assign) and called(node.value) == "recorded")
            for node in body
        )
        and any(isinstance(node, ast.Expr) for node in body)
    )


def called(node: ast.expr) -> str | None:
    """The name of the function that the expression calls, or None if it is no such call."""
    return node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else None


def lesson_title(path: Path, notebook: NotebookNode) -> str:
    """The title of a notebook, for a lesson with its number: "Lesson 0: What does quantization buy?"."""
    title = next(cell.source for cell in notebook.cells if cell.source.startswith("# ")).partition("\n")[0]
    return f"Lesson {int(path.name[:2])}: {title[2:]}" if path.name[:2].isdigit() else title[2:]


def exercise_page(lessons: dict[Path, NotebookNode]) -> str:
    """A page in Markdown with all exercises: a table for each lesson, with links. lessons: by path."""
    lines = ["# Exercises", "", "Difficulty and importance go from 1 to 5.", ""]
    for path, notebook in lessons.items():
        rows = exercise_rows(path, notebook)
        if rows:
            head = ["| exercise | you write | difficulty | importance | minutes |", "|---|---|---|---|---|"]
            lines += [f"## {lesson_title(path, notebook)}", "", *head, *rows, ""]
    return "\n".join(lines)


def exercise_rows(path: Path, notebook: NotebookNode) -> list[str]:
    """A row of the table for each exercise of a lesson."""
    rows, heading, facts = [], "", None
    for cell in notebook.cells:
        if cell.source.startswith("### "):
            heading = cell.source.partition("\n")[0][4:]
        facts = FACTS.search(cell.source) or facts
        if "exercise" in cell.metadata.get("tags", []):
            anchor = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
            name = cell.metadata["exercise"].partition(".")[2]
            words = heading.removeprefix("Exercise: ")
            numbers = " | ".join(facts.groups())
            rows.append(f"| [{words}](/{path.as_posix()}#{anchor}) | `{name}` | {numbers} |")
    return rows
