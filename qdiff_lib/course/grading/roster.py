"""The list of a class, and which learner a file belongs to."""

import csv
import itertools
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from .submissions import Owner

COLUMNS = {  # names of columns, in Canvas, Moodle and plain lists
    "id": ("id", "sis user id", "id number", "number", "student id", "username"),
    "name": ("name", "student", "full name"),
    "email": ("email", "e-mail", "mail", "email address", "sis login id"),
}


@dataclass(frozen=True)
class Student:
    """A learner. id, email: empty if not known."""

    id: str
    name: str
    email: str = ""

    @property
    def keys(self) -> set[str]:
        """The words that may stand for the learner in the name of a file."""
        words = self.name.replace(",", " ").split()
        orders = itertools.permutations(words) if len(words) <= 4 else [words]
        known = {plain("".join(order)) for order in orders}
        return (known | {plain(self.id), plain(self.email), plain(self.email.partition("@")[0])}) - {""}


@dataclass
class Roster:
    """The learners of a class. given: whether a list was given; else everybody who hands in is added."""

    students: list[Student] = field(default_factory=list)
    given: bool = False

    def __post_init__(self):
        counts = Counter(key for student in self.students for key in student.keys)
        self.by_key = {key: student for student in self.students for key in student.keys if counts[key] == 1}

    def find(self, owner: Owner) -> Student:
        """The learner of a file; one who is not in the list gets the name that the file has."""
        for key in (plain(owner.id), plain(owner.name)):
            if key and key in self.by_key:
                return self.by_key[key]
        return Student(owner.id, owner.name)


def plain(text: str) -> str:
    """Letters and digits only, in lower case and without accents, so that ways of writing do not matter."""
    letters = unicodedata.normalize("NFKD", text).casefold()
    return "".join(char for char in letters if char.isalnum())


def read_roster(path: Path | None) -> Roster:
    """The list of the class in a CSV file with columns for number, name and e-mail, in any order.

    Raises ValueError for a file without a column of names, or without learners.
    """
    if path is None:
        return Roster()
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.reader(file))
    heads = [head.strip().casefold() for head in rows[0]] if rows else []
    at = {
        key: next((heads.index(name) for name in names if name in heads), None)
        for key, names in COLUMNS.items()
    }
    if at["name"] is None:
        raise ValueError(
            f"{path} needs a first line that names its columns, as in 'id,name,email'; it has {heads}"
        )

    def cell(row: list[str], key: str) -> str:
        place = at[key]
        return row[place].strip() if place is not None and place < len(row) else ""

    found = [Student(cell(row, "id"), cell(row, "name"), cell(row, "email")) for row in rows[1:]]
    students = [student for student in found if student.name and student.name != "Points Possible"]
    if not students:
        raise ValueError(f"{path} lists no learner")
    return Roster(list(dict.fromkeys(students)), given=True)
