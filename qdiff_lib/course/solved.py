"""Which exercises a learner has solved: kept in a file of the learner's, shown as a table in a notebook.

The file is ``qdiff-course/progress.json`` in the folder for user data. The environment variable
QDIFF_PROGRESS names another file, or is "off": then nothing is kept after the kernel stops.
"""

import functools
import html
import json
import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from IPython.display import display

from ..utils.files import atomic_path
from . import checks
from .checks import EXERCISES, Outcome

FOLDERS = {"win32": "AppData/Local", "darwin": "Library/Application Support"}
here: set[str] = set()
"""The exercises "NN.function" that were solved in this kernel."""


def progress_file() -> Path | None:
    """The learner's file; None if it is switched off or the learner has no home folder."""
    if named := os.environ.get("QDIFF_PROGRESS"):
        return None if named == "off" else Path(named)
    try:
        data = Path(
            os.environ.get("XDG_DATA_HOME") or Path.home() / FOLDERS.get(sys.platform, ".local/share")
        )
    except RuntimeError:
        return None
    return data / "qdiff-course" / "progress.json"


def kept() -> set[str]:
    """The solved exercises of the file; none without a file. Raises OSError or ValueError for a bad file."""
    path = progress_file()
    if path is None or not path.is_file():
        return set()
    names = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(names, list):
        raise ValueError("it does not hold a list of exercises")
    return set(map(str, names))


def remember(name: str) -> None:
    """Add a solved exercise to the file. A file that cannot be written never stops a lesson."""
    here.add(name)
    path = progress_file()
    try:
        if path is not None and name not in (names := kept()):
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(path) as temporary:
                temporary.write_text(json.dumps(sorted(names | here)), encoding="utf-8")
    except (OSError, ValueError):
        pass  # ``progress`` says what is wrong with the file


def remembered(check: Callable[..., Outcome]) -> Callable[..., Outcome]:
    """The function ``check``, which now also remembers each right answer."""

    @functools.wraps(check)
    def checked(name: str, answer: Callable, *args, **kwargs) -> Outcome:
        outcome = check(name, answer, *args, **kwargs)
        if outcome.right:
            remember(name)
        return outcome

    return checked


def all_exercises() -> dict[str, list[str]]:
    """The functions of all exercises, by the number of the lesson."""
    folder = Path(__file__).with_name("exercises")
    for path in sorted(folder.glob("lesson_*.py")):
        import_module(f".exercises.{path.stem}", __package__)
    lessons: dict[str, list[str]] = {}
    for name in EXERCISES:
        lesson, _, function = name.partition(".")
        lessons.setdefault(lesson, []).append(function)
    return dict(sorted(lessons.items()))


class Progress:
    """The table of all exercises. done: the solved ones. note: where this is kept."""

    def __init__(self, done: set[str], note: str):
        self.done, self.note = done, note

    def rows(self) -> list[tuple[str, str, str]]:
        """For each lesson its name, a bar with a full square for each solved exercise, and the functions."""
        found = []
        for lesson, functions in all_exercises().items():
            right = [f"{lesson}.{function}" in self.done for function in functions]
            bar = "■" * sum(right) + "□" * (len(right) - sum(right))
            marked = ", ".join(f"{'✓' if r else '–'} {f}" for r, f in zip(right, functions, strict=True))
            found.append((f"lesson {int(lesson)}", bar, marked))
        return found

    def _repr_html_(self) -> str:
        cells = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in self.rows())
        head = "<tr><th>lesson</th><th>solved</th><th>exercises</th></tr>"
        return f"<table>{head}{cells}</table><p>{html.escape(self.note)}</p>"

    def __repr__(self) -> str:
        return "\n".join("  ".join(row) for row in self.rows()) + f"\n{self.note}"


def note() -> str:
    """One sentence that says where the progress is kept, or why it is not."""
    path = progress_file()
    if path is None:
        return "This progress is kept only until the kernel stops."
    try:
        missing = here - kept()
    except (OSError, ValueError) as error:
        return f"The file {path} cannot be read ({error}). Delete it to keep your progress again."
    if missing:
        return f"The file {path} cannot be written, so this progress is kept only until the kernel stops."
    return f"Your progress is kept in {path}. To start again, delete this file."


def progress() -> None:
    """Show which exercises are solved, of all lessons. An exercise counts once its ``check`` said right."""
    try:
        done = kept()
    except (OSError, ValueError):
        done = set()
    display(Progress(done | here, note()))


check = remembered(checks.check)
