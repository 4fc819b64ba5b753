"""Builds the course's notebooks from ``notebooks/src``: expand, run with profile "tiny", clean, write.

python -m tools.notebooks                         all lessons and the capstone, with outputs, to notebooks/
python -m tools.notebooks --only 00_start_here    this notebook
python -m tools.notebooks --student build/student all notebooks without solutions and outputs, for learners

A notebook is not written if it has an error or a warning, is too large, or needs too much memory. If only the
source breaks a rule of ``tools.rules``, the notebook is written, but the command exits with 1.
"""

import argparse
import json
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook

from qdiff_lib.utils.files import atomic_path

from . import rules
from .dependencies import inputs
from .expansion import (
    ROOT,
    SOURCES,
    Address,
    expand,
    for_students,
    lesson_names,
    navigation,
    notebook_names,
    read_address,
    read_source,
    solution_lines,
)

NOTATION = "../docs/notation.md"  # as the lessons link it
BUILDER = 2  # to be increased when the same source gives another notebook
CELL_SECONDS = 600  # limit for a cell, for a busy machine; nbval has a limit of 120
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
FIXED = {  # the environment of the kernel: this checkout, CPU, small numbers, no network, no progress file
    "PYTHONPATH": str(ROOT),
    "QDIFF_PROFILE": "tiny",
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "MPLBACKEND": "Agg",
    "PYTHONHASHSEED": "0",
    "QDIFF_PROGRESS": "off",
}
USAGE = """
import resource, sys
used = resource.getrusage(resource.RUSAGE_SELF)
peak, files = used.ru_maxrss / 1e6, 0  # macOS counts bytes
if sys.platform == "linux":  # where ru_maxrss would remember the process that started this one
    status = open("/proc/self/status").read().split()
    peak, files = (int(status[status.index(name) + 1]) * 1024 / 1e6 for name in ("VmHWM:", "RssFile:"))
print(used.ru_utime + used.ru_stime, peak, peak - files)
"""


class BuildError(RuntimeError):
    """Raised if a notebook cannot be written; the message says which rule it breaks."""


@dataclass(frozen=True)
class Cost:
    """The time and memory of a run.

    seconds: elapsed time. cpu: processor time of all cores, in seconds. resident: peak of the resident set,
    in MB. memory: the part of it that no file backs, in MB. Pages of shared libraries do not count, because
    the system can drop them if memory is short; torch's GPU build has many.
    """

    seconds: float
    cpu: float
    resident: float
    memory: float

    def __str__(self) -> str:
        return (
            f"{self.seconds:.0f} s ({self.cpu:.0f} s of CPU), peak memory {self.memory:.0f} MB "
            f"({self.resident:.0f} MB with the files of libraries)"
        )


def make_notebook(cells: list[NotebookNode], **course) -> NotebookNode:
    """A notebook of these cells; ``course`` becomes an entry of its metadata."""
    metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}, "course": course}
    return new_notebook(cells=cells, metadata=metadata)


def run(notebook: NotebookNode, folder: Path) -> Cost:
    """Run all cells in a new kernel with the working folder ``folder``; the notebook gets the outputs.

    Raises BuildError if a cell fails.
    """
    settings = {"timeout": CELL_SECONDS, "kernel_name": KERNEL["name"], "record_timing": False}
    settings["extra_arguments"] = ["--log-level=ERROR"]
    client = NotebookClient(notebook, resources={"metadata": {"path": str(folder)}}, **settings)
    environment = {"OMP_NUM_THREADS": "2"} | os.environ | FIXED
    begun = time.monotonic()
    with client.setup_kernel(env=environment):
        try:
            for i, cell in enumerate(notebook.cells):
                client.execute_cell(cell, i)
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            raise BuildError(f"the cell {rules.first_line(cell.source)!r} failed:\n{error}") from None
        seconds = time.monotonic() - begun
        return Cost(seconds, *usage(client, notebook))


def usage(client: NotebookClient, notebook: NotebookNode) -> tuple[float, ...]:
    """``cpu, resident, memory`` of the kernel (see ``Cost``), from a cell that is removed afterwards."""
    notebook.cells.append(new_code_cell(USAGE))
    client.execute_cell(notebook.cells[-1], len(notebook.cells) - 1, store_history=False)
    answer = "".join(output.text for output in notebook.cells.pop().outputs)
    return tuple(map(float, answer.split()))


def settle(notebook: NotebookNode) -> None:
    """Remove what differs between runs or needs a running kernel: widgets, progress bars, time stamps."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            outputs = merged([out for out in cell.outputs if rules.VIEW not in out.get("data", {})])
            for output in outputs:
                if output.get("name") == "stdout":
                    output.text = settled_text(output.text)
            cell.outputs = [output for output in outputs if output.get("text") != ""]


def merged(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Join consecutive outputs of one stream, because the places where they are cut depend on timing."""
    kept: list[NotebookNode] = []
    for output in outputs:
        before = kept[-1] if kept else {}
        if output.output_type == "stream" and before.get("name") == output.name:
            before.text += output.text
        else:
            kept.append(output)
    return kept


def settled_text(text: str) -> str:
    """The text that a terminal would show at the end, without progress bars."""
    lines = [line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")]
    return "\n".join(line for line in lines if not rules.BAR.match(line))


def build(name: str, address: Address, out: Path, sources: Path = SOURCES) -> Cost:
    """Build the lesson ``name`` and write ``out/NAME.ipynb``; returns its cost.

    Raises BuildError or SourceError; then the file is not changed.
    """
    cells = expand(sources / f"{name}.py", notebook_names(sources), address)
    notebook = make_notebook(cells, builder=BUILDER, inputs=inputs(name, sources))
    out.mkdir(parents=True, exist_ok=True)
    cost = run(notebook, out)
    settle(notebook)
    if cost.memory > rules.MEMORY:
        raise BuildError(f"not written: its kernel took {cost.memory:.0f} MB, more than {rules.MEMORY}")
    write(notebook, out / f"{name}.ipynb")
    return cost


def to_text(notebook: NotebookNode) -> str:
    """The text of the notebook's file."""
    return nbformat.writes(notebook, version=4) + "\n"


def write(notebook: NotebookNode, path: Path) -> None:
    """Write the notebook. Raises BuildError, and writes nothing, if it breaks a rule."""
    nbformat.validate(notebook)
    text = to_text(notebook)
    if problems := rules.notebook_problems(notebook, len(text.encode())):
        raise BuildError(f"not written: {'; '.join(problems)}")
    save(text, path)


def save(text: str, path: Path) -> None:
    """Write a text file, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def staleness(path: Path, address: Address, sources: Path = SOURCES) -> list[str]:
    """The reasons why a built notebook is out of date; an empty list if it is up to date."""
    name = path.stem
    notebook = nbformat.read(path, as_version=4)
    course = notebook.metadata.get("course", {})
    problems = []
    if course.get("builder") != BUILDER:
        problems.append("another builder made it")
    before, now = course.get("inputs", {}), inputs(name, sources)
    problems.extend(
        f"{file} has changed" for file in sorted(before.keys() | now) if before.get(file) != now.get(file)
    )
    cells = expand(sources / f"{name}.py", notebook_names(sources), address)
    if [core(cell) for cell in notebook.cells] != [core(cell) for cell in cells]:
        problems.append("its cells are not those of its source")
    return [f"{name}: {problem}: run make notebooks" for problem in problems]


def core(cell: NotebookNode) -> tuple:
    """The content of a cell without what running it adds."""
    return cell.id, cell.cell_type, cell.source, dict(cell.metadata)


def student_notebook(name: str, address: Address, sources: Path = SOURCES) -> NotebookNode:
    """The notebook of a lesson without solutions, outputs and badges; badges would open the full version.

    Its link to the page of notation leads to the copy beside it.
    """
    path, names = sources / f"{name}.py", notebook_names(sources)
    without_badges = navigation(name, names, Address("", address.tag))
    cells = for_students([without_badges, *expand(path, names, address)[1:]], name)
    for cell in cells:
        cell.source = cell.source.replace(NOTATION, NOTATION.rpartition("/")[2])
    return make_notebook(cells)


def all_solution_lines(sources: Path = SOURCES) -> set[str]:
    """The lines of the solutions of all lessons, as in ``solution_lines``."""
    names = notebook_names(sources)
    return set().union(*(solution_lines(read_source(sources / f"{name}.py"), name) for name in names))


def leaks(text: str, secrets: set[str]) -> list[str]:
    """The solution lines ``secrets`` that occur in the text of a student notebook, sorted."""
    return sorted(line for line in secrets if json.dumps(line, ensure_ascii=False)[1:-1] in text)


def write_students(out: Path, sources: Path = SOURCES) -> None:
    """Write all student notebooks, the contents page and the page of notation.

    Raises BuildError if a line of a solution is in a student notebook.
    """
    secrets = all_solution_lines(sources)
    for name in notebook_names(sources):
        text = to_text(student_notebook(name, read_address(), sources))
        if found := leaks(text, secrets):
            raise BuildError(f"{name}: a line of a solution stands elsewhere in the lesson: {found}")
        save(text, out / f"{name}.ipynb")
    contents = (ROOT / "notebooks" / "README.md").read_text(encoding="utf-8")
    save(contents.replace(NOTATION, NOTATION.rpartition("/")[2]), out / "README.md")
    shutil.copyfile(ROOT / "notebooks" / NOTATION, out / NOTATION.rpartition("/")[2])


def build_all(names: list[str]) -> int:
    """Build the lessons ``names``; returns the number of lessons with a problem."""
    address, failed = read_address(), 0
    for name in names:
        try:
            cost = build(name, address, ROOT / "notebooks")
            size = (ROOT / "notebooks" / f"{name}.ipynb").stat().st_size
            print(
                f"{name}: {cost.seconds:.1f} s, peak {cost.memory:.0f} MB, {size / 1000:.0f} kB", flush=True
            )
            check = rules.source_problems if name in lesson_names() else rules.cell_problems
            problems = check(read_source(SOURCES / f"{name}.py"))
        except (BuildError, ValueError) as error:
            problems = [str(error)]
        for problem in problems:
            print(f"{name}: {problem}", file=sys.stderr)
        failed += bool(problems)
    return failed


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns 1 if a lesson has a problem, else 0."""
    parser = argparse.ArgumentParser(prog="python -m tools.notebooks", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", metavar="NAME", choices=notebook_names(), help="build this notebook alone")
    parser.add_argument("--student", metavar="OUTDIR", type=Path, help="write the student versions there")
    options = parser.parse_args(arguments)
    if options.student:
        write_students(options.student)
        return 0
    return int(build_all([options.only] if options.only else notebook_names()) > 0)


if __name__ == "__main__":
    sys.exit(main())
