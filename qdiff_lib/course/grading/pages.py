"""Pages of HTML: the feedback for each learner, and the report on the class."""

import hashlib
import html
import re
from collections import Counter, defaultdict
from pathlib import Path

from ...utils.files import atomic_path
from .book import Grade
from .curves import drawn
from .lessons import LESSONS
from .roster import Student
from .similar import Pair

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem }}
table {{ border-collapse: collapse }}
td, th {{ border-bottom: 1px solid #8886; padding: .3rem .8rem .3rem 0; text-align: left }}
td {{ vertical-align: top }}
td {{ overflow-wrap: anywhere; white-space: pre-line }}
</style>
</head>
<body>
<main>
<h1>{title}</h1>
{body}
</main>
</body>
</html>
"""


class Markup(str):
    """Text that is HTML already."""


def table(head: list[str], rows: list[list[object]]) -> str:
    """A table; every cell is escaped, except ``Markup``."""

    def line(cells: list[object], tag: str) -> str:
        shown = [cell if isinstance(cell, Markup) else html.escape(str(cell)) for cell in cells]
        return "<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in shown) + "</tr>"

    return "\n".join(["<table>", line(head, "th"), *(line(row, "td") for row in rows), "</table>"])


def listing(lines: list[str]) -> str:
    """A list; every line is escaped."""
    return "<ul>\n" + "\n".join(f"<li>{html.escape(line)}</li>" for line in lines) + "\n</ul>"


def page(title: str, body: str) -> str:
    """A whole page around a body that is HTML already."""
    return PAGE.format(title=html.escape(title), body=body)


def feedback(student: Student, grades: list[Grade]) -> str:
    """The page of a learner: each exercise with its verdict, points, message, and figure if there is one."""
    lessons: dict[str, list[Grade]] = defaultdict(list)
    for each in grades:
        lessons[each.lesson].append(each)
    total = f"{sum(each.earned for each in grades)} of {sum(each.points for each in grades)} points"
    parts = [f"<p>{total}</p>"]
    for lesson, own in sorted(lessons.items()):
        late = " (late)" if any(each.late for each in own) else ""
        parts.append(f"<h2>{html.escape(LESSONS[lesson] + late)}</h2>")
        rows = [
            [each.exercise.partition(".")[2], each.verdict, f"{each.earned} of {each.points}", said(each)]
            for each in own
        ]
        parts.append(table(["Exercise", "Verdict", "Points", "What the check says"], rows))
    return page(f"Feedback for {student.name}", "\n".join(parts))


def said(grade: Grade) -> Markup:
    """What the check says, and below it the figure where there is one."""
    text = html.escape(grade.message)
    return Markup(f"{text}\n{drawn(grade.curve)}" if grade.curve else text)


def report(grades: list[Grade], notes: dict[str, list[str]], alike: list[Pair]) -> str:
    """The report on the class: how each exercise went, the mistakes, and what the teacher should look at.

    notes: lists of lines by their heading.
    """
    parts = [f"<h2>Exercises</h2>\n{exercise_table(grades)}", f"<h2>Mistakes</h2>\n{mistake_table(grades)}"]
    for heading, lines in notes.items():
        if lines:
            parts.append(f"<h2>{html.escape(heading)}</h2>\n{listing(lines)}")
    if alike:
        rows = [[p.first, p.second, f"{p.share:.0%}", ", ".join(p.exercises)] for p in alike]
        parts.append(
            "<h2>Answers that look alike</h2>\n<p>A reason to compare them, no proof.</p>\n"
            + table(["Learner", "Learner", "Alike", "Exercises"], rows)
        )
    return page("Report on the class", "\n".join(parts))


def exercise_table(grades: list[Grade]) -> str:
    """How many answers of each exercise got which verdict."""
    verdicts = ["right", "wrong", "not attempted", "missing", "error", "absent"]
    counts: dict[str, Counter] = defaultdict(Counter)
    for each in grades:
        counts[each.exercise][each.verdict] += 1
    rows = [[name, *(found[verdict] for verdict in verdicts)] for name, found in sorted(counts.items())]
    return table(["Exercise", *verdicts], rows)


def mistake_table(grades: list[Grade]) -> str:
    """The mistakes of each exercise, the most frequent first; numbers in a message do not count."""
    counts: Counter = Counter()
    example: dict[tuple[str, str], str] = {}
    for each in grades:
        if each.verdict == "wrong":
            kind = each.exercise, re.sub(r"-?\d+(\.\d+)?(e-?\d+)?", "#", each.message)
            counts[kind] += 1
            example.setdefault(kind, each.message)
    rows = [[kind[0], count, example[kind]] for kind, count in counts.most_common()]
    return table(["Exercise", "Learners", "Message"], sorted(rows, key=lambda row: row[0]))


def save(path: Path, text: str) -> None:
    """Write a page, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def file_name(student: Student) -> str:
    """The name of a learner's page: letters and digits of the name, and a digest for namesakes."""
    words = re.sub(r"\W+", "-", student.name).strip("-")[:40] or "learner"
    digest = hashlib.sha256(f"{student.id}\0{student.name}".encode()).hexdigest()[:6]
    return f"{words}-{digest}.html"
