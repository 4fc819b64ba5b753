"""Grades submitted notebooks by the course's checks; outputs in the notebooks do not count.

python -m tools.grade submitted                       every .ipynb below this folder, to grades.csv
python -m tools.grade submitted --out week1.csv --timeout 60

The folder has one folder for each student, or all files side by side. A verdict is that of ``check`` (right,
wrong, not attempted), or "missing" if no cell defines the function, or "error" if the answer cannot be
judged. With an "error" the command names the file and exits with 1. ``tools.answers`` describes which
statements of a notebook run.
"""

import argparse
import csv
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from queue import Empty, Queue
from threading import Thread

from qdiff_lib.utils.files import atomic_path

from .answers import ERROR, code_cells
from .expansion import SOURCES, is_exercise, lesson_names, read_source
from .notebooks import FIXED

START_SECONDS = 600  # limit for the imports of a process on a busy machine


@dataclass(frozen=True)
class Grade:
    """A row of the table.

    student: the name of the student's folder, or of the file if it is in no student's folder. exercise:
    "NN.function". verdict, message: from ``verdicts``.
    """

    student: str
    file: str
    lesson: str
    exercise: str
    verdict: str
    message: str

    @property
    def brief(self) -> str:
        """The message in one line."""
        return " ".join(self.message.split())

    def __str__(self) -> str:
        """A line for the terminal."""
        return f"{self.file:36}  {self.exercise:26}  {self.verdict:13}  {self.brief[:80]}"


def lesson_of(path: Path, cells: list[str]) -> str:
    """The lesson whose ``start`` the cells call, or else the lesson in the file's name.

    Raises ValueError if neither gives a lesson.
    """
    started = re.findall(r"""\bstart\(["'](\w+)["']\)""", "\n".join(cells))
    for place in (started, path.stem):
        for name in lesson_names():
            if name in place:
                return name
    raise ValueError(f"neither its cells nor its name say which of {', '.join(lesson_names())} it is")


def exercises(lesson: str) -> list[str]:
    """The exercises "NN.function" of a lesson, in order."""
    return [cell.metadata["exercise"] for cell in read_source(SOURCES / f"{lesson}.py") if is_exercise(cell)]


def grades(path: Path, folder: Path, seconds: float) -> Iterator[Grade]:
    """One grade for each exercise of the notebook's lesson, or one "error" for a file that cannot be read.

    path: the notebook, below ``folder``. seconds: time limit for each answer.
    """
    file = path.relative_to(folder)
    student = file.parts[0] if len(file.parts) > 1 else file.stem
    try:
        lesson = lesson_of(path, code_cells(path))
    except Exception as error:  # a submitted file may hold anything
        message = f"this file cannot be read as a lesson: {error}"
        yield Grade(student, file.as_posix(), "", "", ERROR, message)
        return
    waiting = exercises(lesson)
    while waiting:  # if a process ends early, that answer is an error, and a new process judges the rest
        for verdict, message in verdicts(path, list(waiting), seconds):
            yield Grade(student, file.as_posix(), lesson, waiting.pop(0), verdict, message)


def verdicts(path: Path, names: list[str], seconds: float) -> Iterator[tuple[str, str]]:
    """Verdict and message of each exercise, judged in one process.

    seconds: time limit for each answer. If the process ends or an answer takes too long, that exercise gets
    ERROR, and the exercises after it get nothing.
    """
    command = [sys.executable, "-m", "tools.answers", str(path.resolve()), *names]
    pipes = dict(
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8"
    )
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as empty:
        process = subprocess.Popen(command, cwd=empty, env=os.environ | FIXED, **pipes)
        lines: Queue[str] = Queue()
        Thread(target=read, args=(process.stdout, lines), daemon=True).start()
        limit = START_SECONDS
        try:
            for name in ["", *names]:
                line = lines.get(timeout=limit)
                if name and line:
                    yield tuple(json.loads(line))
                elif not line:
                    yield ERROR, "its process ended without an answer"
                    return
                limit = seconds
        except Empty:
            yield ERROR, f"no answer within {limit:g} s"
        finally:
            process.kill()
            process.wait()


def read(pipe: Iterable[str], lines: Queue) -> None:
    """Put each line of ``pipe`` into the queue, and an empty line at the end."""
    for line in pipe:
        lines.put(line)
    lines.put("")


def save(rows: list[Grade], path: Path) -> None:
    """Write the table as CSV, atomically."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Grade)])
        writer.writeheader()
        writer.writerows(map(asdict, rows))


def grade(folder: Path, out: Path, seconds: float) -> list[Grade]:
    """Grade all notebooks below ``folder`` and print each grade; returns all grades.

    out: the table, saved after each notebook. seconds: time limit for each answer. Raises ValueError if there
    is no such folder, or no notebook in it.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    found = sorted(path for path in folder.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)
    if not found:
        raise ValueError(f"{folder} has no notebooks (.ipynb), nor has any folder below it")
    rows: list[Grade] = []
    for path in found:
        for row in grades(path, folder, seconds):
            print(row, flush=True)
            rows.append(row)
        save(rows, out)
    return rows


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns 0, 1 if a verdict is "error", or 2 for wrong input."""
    parser = argparse.ArgumentParser(prog="python -m tools.grade", description=__doc__.partition("\n")[0])
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="with the submitted notebooks")
    parser.add_argument("--out", metavar="FILE", type=Path, default="grades.csv", help="default: %(default)s")
    parser.add_argument(
        "--timeout", metavar="S", type=float, default=600, help="seconds for one answer (%(default)s)"
    )
    options = parser.parse_args(arguments)
    try:
        rows = grade(options.folder, options.out, options.timeout)
    except (ValueError, OSError) as error:
        print(f"grade: {error}", file=sys.stderr)
        return 2
    counts = Counter(row.verdict for row in rows)
    listed = ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())
    print(f"{len(rows)} lines in {options.out}: {listed}")
    for row in rows:
        if row.verdict == ERROR:
            print(f"{row.file}: {row.exercise or 'not graded'}: {row.brief}", file=sys.stderr)
    return int(counts[ERROR] > 0)


if __name__ == "__main__":
    sys.exit(main())
