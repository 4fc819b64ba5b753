"""Writes the lessons as a course folder of nbgrader.

python -m tools.nbgrader_format build/student-nbgrader

The folder gets nbgrader_config.py and source/LESSON/LESSON.ipynb. These notebooks are the teacher's: they
have the solutions. ``nbgrader generate_assignment LESSON`` makes the learners' version, without them.
"""

import argparse
import re
import shutil
import sys
from pathlib import Path

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell

from qdiff_lib.course.grading.lessons import points

from .expansion import (
    BEGIN,
    END,
    RESTART,
    ROOT,
    SOURCES,
    Address,
    SourceError,
    is_exercise,
    notebook_names,
    numbered,
    read_address,
    read_source,
    without_imports,
)
from .notebooks import NOTATION, make_notebook, save, student_notebook, to_text

LESSON_LINK = re.compile(r"\]\((\d\d_\w+|capstone)\.ipynb\)")  # each notebook gets a folder of its own
WORTH = re.compile(r"\((\d+) points\)")  # in the heading above a text that the teacher grades
SETTINGS = Path(__file__).with_name("nbgrader_settings.py")
TEST = """\
import contextlib
import sys

from qdiff_lib.course import check

with contextlib.redirect_stderr(sys.stdout):  # nbgrader would take a warning for a failed test
    outcome = check("{name}", {function})
print(outcome)
assert outcome.right, outcome"""


def course_notebook(name: str, address: Address, sources: Path = SOURCES) -> NotebookNode:
    """The teacher's notebook: the bootstrap cell, the lesson, and for each exercise the cell of the answer
    with the solution and a locked test. Only the cells of answers can be edited. Texts with the tag
    "manual" are graded by hand, and cells with the tag "own" are free."""
    student = student_notebook(name, address, sources).cells
    answers = {
        cell.metadata["exercise"]: cell for cell in read_source(sources / f"{name}.py") if is_exercise(cell)
    }
    first = [cell for cell in student if has_tag(cell, "bootstrap")]
    cells = []
    for cell in numbered(
        name, first + [cell for cell in student if not has_tag(cell, "bootstrap", "navigation")]
    ):
        if is_exercise(cell):
            exercise = cell.metadata["exercise"]
            cells += [answer_cell(exercise, answers[exercise].source), test_cell(exercise)]
        elif has_tag(cell, "manual"):
            graded = role(cell.id, solution=True, grade=True) | {"points": worth(cells[-1].source, name)}
            cells.append(new_markdown_cell(cell.source, metadata={"tags": ["manual"], "nbgrader": graded}))
        elif has_tag(cell, "own"):  # the learner's own code, which nobody grades
            cells.append(cell)
        elif not has_tag(cell, "check"):
            cell.source = LESSON_LINK.sub(r"](../\1/\1.ipynb)", cell.source)
            cell.metadata["nbgrader"] = role(cell.id, locked=True)
            cells.append(cell)
    return make_notebook(numbered(name, cells))


def worth(text: str, name: str) -> int:
    """The points that the text above a manually graded cell states. Raises SourceError without them."""
    if not (found := WORTH.search(text)):
        raise SourceError(f"{name}.py: the text above a cell tagged manual must state '(NN points)'")
    return int(found[1])


def has_tag(cell: NotebookNode, *tags: str) -> bool:
    """Whether the cell has one of the tags."""
    return bool(set(tags) & set(cell.metadata.get("tags", [])))


def answer_cell(exercise: str, code: str) -> NotebookNode:
    """The cell of the learner's answer, with the solution between the marks that nbgrader knows."""
    marked = without_imports(code)
    for mark in (BEGIN, END):
        marked = marked.replace(mark, f"##{mark}")
    metadata = {"tags": ["exercise"], "exercise": exercise}
    metadata["nbgrader"] = role(f"{grade_id(exercise)}_answer", solution=True)
    return new_code_cell(f"{RESTART}\n{marked.rstrip()}", metadata=metadata)


def test_cell(exercise: str) -> NotebookNode:
    """The locked cell that fails where the answer is not right."""
    code = TEST.format(name=exercise, function=exercise.partition(".")[2])
    graded = role(grade_id(exercise), locked=True, grade=True) | {"points": points(exercise)}
    return new_code_cell(code, metadata={"tags": ["check"], "nbgrader": graded})


def grade_id(exercise: str) -> str:
    """ "00.file_bytes" as "00_file_bytes": nbgrader allows letters, digits, "-" and "_" only."""
    return exercise.replace(".", "_")


def role(name: str, locked: bool = False, solution: bool = False, grade: bool = False) -> dict:
    """What nbgrader is told about a cell, in its schema 3."""
    return {
        "schema_version": 3,
        "grade_id": name,
        "locked": locked,
        "solution": solution,
        "grade": grade,
        "task": False,
    }


def write_course(out: Path, sources: Path = SOURCES) -> None:
    """Write the course folder. What else is in the folder, such as nbgrader's database, stays."""
    for name in notebook_names(sources):
        folder = out / "source" / name
        save(to_text(course_notebook(name, read_address(), sources)), folder / f"{name}.ipynb")
        shutil.copyfile(ROOT / "notebooks" / NOTATION, folder / NOTATION.rpartition("/")[2])
    shutil.copyfile(SETTINGS, out / "nbgrader_config.py")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns 0."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.nbgrader_format", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("out", metavar="OUTDIR", type=Path, help="the course folder")
    write_course(parser.parse_args(arguments).out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
