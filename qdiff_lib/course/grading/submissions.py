"""Finds the notebooks of a class, whose each is, and which one counts."""

import hashlib
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from .archives import File, wanted, zip_files
from .lessons import LESSONS
from .notebooks import LARGEST, Notebook, lesson_in, read_notebook

CANVAS = re.compile(r"^(?P<who>[^_]+)_(?P<late>LATE_)?(?P<id>\d+)_(?P<file>\d+)_.+$")
MOODLE = re.compile(r"^(?P<who>.+)_(?P<id>\d+)_assignsubmission_(file|onlinetext)_?$")


@dataclass(frozen=True)
class Owner:
    """Who handed a file in, as its path says.

    id: of the learner in Canvas, or "". number: of the work in Moodle, for one assignment, or "".
    """

    name: str
    id: str = ""
    number: str = ""
    late: bool = False


@dataclass(frozen=True)
class Work:
    """A notebook that was handed in. digest: SHA-256 of its bytes. copy: the number behind its name."""

    owner: Owner
    file: str
    notebook: Notebook
    digest: str
    time: float
    copy: int

    @property
    def order(self) -> tuple[int, float, str]:
        """Later work is larger."""
        return self.copy, self.time, self.file


@dataclass(frozen=True)
class Collection:
    """works: all notebooks that can be read. problems: a line for each file that cannot."""

    works: list[Work]
    problems: list[str]


def collect(folder: Path) -> Collection:
    """All notebooks below a folder, in its zip files too, or in one zip file, but for those of the capstone.

    Raises ValueError if there is no such folder, or no notebook in it.
    """
    if not folder.exists():
        raise ValueError(f"{shown(str(folder))} does not exist")
    works, problems = [], []
    for file in files(folder):
        if isinstance(file, str):
            problems.append(shown(file))
            continue
        name = shown("/".join(file.parts))
        if is_capstone(file.parts[-1]):
            continue
        try:
            data = file.read()
            notebook = read_notebook(data, file.parts[-1])
        except (ValueError, OSError) as error:
            problems.append(f"{name}: {shown(str(error))}")
            continue
        digest = hashlib.sha256(data).hexdigest()
        owner = owner_of(file.parts, folder.name)
        works.append(Work(owner, name, notebook, digest, file.time, copy_number(file.parts[-1])))
    if not works and not problems:
        raise ValueError(f"{shown(str(folder))} has no notebooks (.ipynb), nor has any folder below it")
    return Collection(works, sorted(problems))


def files(folder: Path) -> list[File | str]:
    """All notebooks in order, and as text what is refused."""
    if folder.is_file():
        return list(zip_files(folder, ()))
    found: list[File | str] = []
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(place, name)
            parts = path.relative_to(folder).parts
            if not name.lower().endswith((".ipynb", ".zip")) or not wanted(parts):
                continue
            status = path.lstat()
            if not stat.S_ISREG(status.st_mode):
                found.append(f"{'/'.join(parts)}: this is no file but a link or a device: refused")
            elif name.lower().endswith(".zip"):
                found.extend(zip_files(path, (*parts[:-1], path.stem)))
            else:
                found.append(File(parts, lambda path=path: read_file(path), status.st_mtime))
    return found


def is_capstone(name: str) -> bool:
    """Whether this is the name of a notebook of the capstone, which is graded by hand."""
    return "capstone" in name.lower() and not lesson_in(name)


def read_file(path: Path) -> bytes:
    """The bytes of a notebook. Raises ValueError if there are too many."""
    with path.open("rb") as file:
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise ValueError(f"the file has more than {LARGEST // 2**20} MB")
    return data


def owner_of(parts: tuple[str, ...], root: str) -> Owner:
    """Whose file this is: by the names of Canvas or Moodle, or by its first folder, or by its own name.

    parts: the file's path. root: the name of the folder of all work, for files named after a lesson.
    """
    for part in parts:
        if found := MOODLE.match(part):
            return Owner(shown(found["who"]), number=found["id"])
        if found := CANVAS.match(part):
            return Owner(shown(found["who"]), found["id"], late=bool(found["late"]))
    names = [without_lesson(part) for part in (*parts[:-1], parts[-1].rpartition(".")[0])]
    return Owner(shown(next(filter(None, names), root)))


def without_lesson(name: str) -> str:
    """A name without that of a lesson and the number of a copy: "amy 00_start_here (1)" as "amy"."""
    lesson = LESSONS.get(lesson_in(name), "")
    rest = re.sub(rf"{re.escape(lesson)}([-_ ]*(Copy)?\(?\d+\)?)?", "", name) if lesson else name
    return rest.strip(" _-")


def copy_number(name: str) -> int:
    """2 for "00_start_here (2).ipynb", 0 without a number."""
    lesson = LESSONS.get(lesson_in(name), "")
    found = re.search(rf"{re.escape(lesson)}[-_ ]*(?:Copy)?\(?(\d{{1,4}})\)?\.", name) if lesson else None
    return int(found[1]) if found else 0


def shown(name: str) -> str:
    """A name from a file system or a zip file as one line of text that can be written."""
    try:
        data = name.encode("utf-8", "surrogateescape")  # the bytes, where a file system had no UTF-8
    except UnicodeEncodeError:
        data = name.encode("utf-8", "replace")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:  # from an older system
        text = data.decode("cp1252", "replace")
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)[:200]
