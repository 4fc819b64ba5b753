"""The grades as CSV files: every answer, points, and what Canvas and Moodle import."""

import csv
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from ...utils.files import atomic_path
from .book import Grade
from .lessons import LESSONS, exercises, points
from .roster import Student


def save(path: Path, rows: Iterable[Iterable[object]]) -> None:
    """Write a CSV file, atomically."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([harmless(cell) for cell in row] for row in rows)


def harmless(cell: object) -> object:
    """A text that no program for tables takes for a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


def answers(grades: list[Grade]) -> list[list[object]]:
    """A row for each answer."""
    head = ["id", "student", "lesson", "exercise", "verdict", "points", "of", "late", "message", "file"]
    rows = [
        [
            *(each.student.id, each.student.name, LESSONS[each.lesson], each.exercise, each.verdict),
            *(
                each.earned,
                each.points,
                "late" if each.late else "",
                " ".join(each.message.split()),
                each.file,
            ),
        ]
        for each in grades
    ]
    return [head, *rows]


def totals(grades: list[Grade]) -> dict[Student, dict[str, int]]:
    """Points of each learner by lesson."""
    found: dict[Student, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for each in grades:
        found[each.student][each.lesson] += each.earned
    return found


def possible(lesson: str) -> int:
    """All points of a lesson."""
    return sum(map(points, exercises(lesson)))


def canvas(grades: list[Grade], lessons: list[str]) -> list[list[object]]:
    """What Canvas' gradebook imports; the second row says how many points there are."""
    head = ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", *(LESSONS[each] for each in lessons)]
    top = ["    Points Possible", "", "", "", "", *map(possible, lessons)]
    rows = [
        [student.name, student.id, "", student.email, "", *(found.get(each, 0) for each in lessons)]
        for student, found in totals(grades).items()
    ]
    return [head, top, *rows]


def moodle(grades: list[Grade], lessons: list[str]) -> list[list[object]]:
    """What Moodle's gradebook imports: it finds learners by number or e-mail."""
    head = ["ID number", "Full name", "Email address", *(LESSONS[each] for each in lessons), "Total"]
    rows = [
        [
            student.id,
            student.name,
            student.email,
            *(found.get(each, 0) for each in lessons),
            sum(found.values()),
        ]
        for student, found in totals(grades).items()
    ]
    return [head, *rows]
