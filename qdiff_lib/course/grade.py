"""Grades the submitted notebooks of a class; outputs in the notebooks do not count.

python -m qdiff_lib.course.grade submitted                      all notebooks below this folder
python -m qdiff_lib.course.grade submitted --students class.csv --due 2026-03-01 --seed 4711

The answers run in a sandbox of this machine, which gets inputs and returns outputs. Outside of it, the checks
of the course compare the outputs with the right ones. A verdict is right, wrong, not attempted, missing (no
cell defines the function), error (look at this answer yourself), or absent (nothing was handed in).
"""

import argparse
import datetime
import os
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ..utils.files import check_writable
from ..utils.sandbox import HELP, SYSTEM, Sandbox, find_sandbox, is_below, python_folders, survey
from .grading import pages, tables
from .grading.book import Due, Grade, grade_all, grades_of, latest
from .grading.lessons import LESSONS, exercises, points
from .grading.remote import PACKAGE
from .grading.roster import Roster, Student, read_roster
from .grading.similar import definition, pairs
from .grading.submissions import Work, collect
from .grading.verdicts import ERROR, Rules


@dataclass(frozen=True)
class Options:
    """What the command line says; see ``parser``."""

    folder: Path
    out: Path
    roster: Roster
    due: Due
    rules: Rules
    workers: int
    sandbox: Sandbox


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m qdiff_lib.course.grade", description=__doc__.partition("\n")[0]
    )
    add = made.add_argument
    add("folder", metavar="FOLDER", type=Path, help="with the notebooks, or a zip file of Canvas or Moodle")
    add("--out", metavar="FOLDER", type=Path, default="grades", help="for the results (%(default)s)")
    add("--students", metavar="FILE", type=Path, help="the list of the class: CSV with id, name, email")
    add(
        "--due",
        metavar="[NN=]DATE",
        action="append",
        default=[],
        help="later work is marked, as in 2026-03-01 or 02=2026-03-08T18:00; may be given for each lesson",
    )
    add(
        "--seed",
        metavar="N",
        type=int,
        default=0,
        help="other numbers in the checks; keep it secret (%(default)s)",
    )
    add("--jobs", metavar="N", type=int, default=cores(), help="notebooks at a time (%(default)s)")
    add("--timeout", metavar="S", type=float, default=60, help="seconds for one answer (%(default)s)")
    add(
        "--unsafe",
        action="store_true",
        help="run answers without a sandbox: they can then do all that you can",
    )
    return made


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_due(texts: list[str]) -> Due:
    """The dates of ``--due``; a date without a time means the end of that day. Raises ValueError."""
    each, every = {}, None
    for text in texts:
        lesson, _, date = text.rpartition("=")
        if lesson and lesson not in LESSONS:
            raise ValueError(
                f"--due {text!r}: there is no lesson {lesson!r}; use one of {', '.join(LESSONS)}"
            )
        try:
            moment = datetime.datetime.fromisoformat(date)
        except ValueError:
            raise ValueError(f"--due {text!r} is no date as in 2026-03-01 or 2026-03-01T18:00") from None
        if "T" not in date and " " not in date:
            moment += datetime.timedelta(days=1)
        if lesson:
            each[lesson] = moment.timestamp()
        else:
            every = moment.timestamp()
    return Due(each, every)


def choose_sandbox(unsafe: bool) -> Sandbox:
    """The sandbox of this machine. Raises ValueError if there is none, unless ``unsafe``."""
    if unsafe:
        return Sandbox("none")
    found = find_sandbox()
    if found is None:
        why = "; ".join(f"{name}: {reason}" for name, reason in survey().items())
        raise ValueError(
            f"this machine has no sandbox ({why}): {HELP}, or add --unsafe if you trust all answers"
        )
    return found


def read_options(arguments: list[str] | None) -> Options:
    """Check the command line. Raises ValueError."""
    given = parser().parse_args(arguments)
    if given.jobs < 1 or given.timeout <= 0:
        raise ValueError(f"--jobs {given.jobs} and --timeout {given.timeout:g} must be above 0")
    sandbox = choose_sandbox(given.unsafe)
    for place in (*SYSTEM, *python_folders(), str(PACKAGE)):
        if sandbox.safe and is_below(given.folder.resolve(), os.path.realpath(place)):
            raise ValueError(f"{given.folder} is in {place}, which answers can read: move it elsewhere")
    check_writable(given.out)
    rules = Rules(given.seed, given.timeout)
    due, roster = read_due(given.due), read_roster(given.students)
    return Options(given.folder, given.out, roster, due, rules, given.jobs, sandbox)


def grade(options: Options) -> tuple[list[Grade], list[str]]:
    """Grade the class, write all results, print a line for each notebook; returns grades and problems."""
    collection = collect(options.folder)
    chosen, replaced = latest(collection, options.roster)
    options.out.mkdir(parents=True, exist_ok=True)
    grades: list[Grade] = []
    results = grade_all(chosen, options.rules, options.sandbox, options.workers, options.out / "records")
    for place, work, judged in results:
        own = grades_of(place, work, judged, options.due)
        grades += own
        right = sum(each.verdict == "right" for each in own)
        print(f"{place[0].name:30} {LESSONS[place[1]]:24} {right} of {len(own)} right", flush=True)
    lessons = sorted({each.lesson for each in grades})
    grades += absent(options.roster, grades, lessons)
    grades.sort(key=lambda each: (each.student.name, each.student.id, each.lesson))
    unknown = sorted({each.student.name for each in grades} - {each.name for each in options.roster.students})
    notes = {
        "Absent": sorted({f"{g.student.name}: {LESSONS[g.lesson]}" for g in grades if g.verdict == "absent"}),
        "Late": sorted({f"{g.student.name}: {LESSONS[g.lesson]}" for g in grades if g.late}),
        "Not in the list of the class": unknown if options.roster.given else [],
        "Files that could not be read": collection.problems,
        "Answers to look at": [error_line(each) for each in grades if each.verdict == ERROR],
        "Replaced by later work": replaced,
    }
    write(options.out, grades, lessons, notes, codes_of(chosen))
    return grades, notes["Files that could not be read"] + notes["Answers to look at"]


def absent(roster: Roster, grades: list[Grade], lessons: list[str]) -> list[Grade]:
    """Grades for what learners of the list did not hand in."""
    there = {(each.student, each.lesson) for each in grades}
    return [
        Grade(student, lesson, name, "absent", "nothing was handed in", points(name), "", False)
        for student in roster.students
        for lesson in lessons
        if (student, lesson) not in there
        for name in exercises(lesson)
    ]


def error_line(each: Grade) -> str:
    """A line about an answer that could not be judged."""
    return f"{each.file}: {each.exercise}: {' '.join(each.message.split())}"


def codes_of(chosen: dict[tuple[Student, str], Work]) -> dict[str, dict[str, str]]:
    """The code of all answers, by learner and exercise."""
    found: dict[str, dict[str, str]] = {}
    for (student, lesson), work in chosen.items():
        for name in exercises(lesson):
            code = definition(work.notebook.cells, name.partition(".")[2])
            found.setdefault(f"{student.name} {student.id}".strip(), {})[name] = code
    return found


def write(
    out: Path, grades: list[Grade], lessons: list[str], notes: dict[str, list[str]], codes: dict
) -> None:
    """Write the tables, the pages of learners and the report on the class."""
    tables.save(out / "grades.csv", tables.answers(grades))
    tables.save(out / "canvas.csv", tables.canvas(grades, lessons))
    tables.save(out / "moodle.csv", tables.moodle(grades, lessons))
    pages.save(out / "class.html", pages.report(grades, notes, pairs(codes)))
    (out / "feedback").mkdir(exist_ok=True)
    for student in dict.fromkeys(each.student for each in grades):
        own = [each for each in grades if each.student == student]
        pages.save(out / "feedback" / pages.file_name(student), pages.feedback(student, own))


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns 0, 1 if a file or an answer could not be judged, or 2 for wrong input."""
    try:
        options = read_options(arguments)
        print(f"sandbox: {options.sandbox.name}")
        grades, problems = grade(options)
    except (ValueError, OSError) as error:
        print(f"grade: {error}", file=sys.stderr)
        return 2
    counts = Counter(each.verdict for each in grades)
    listed = ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())
    print(f"{len(grades)} answers: {listed or 'none'}. Results: {options.out}")
    for line in problems:
        print(line, file=sys.stderr)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
