"""Reads what a submitted notebook says, from bytes that may hold anything. No code of it runs here."""

import json
import re
from dataclasses import dataclass

from .lessons import LESSONS

LARGEST = 2**26  # bytes of a notebook: outputs are in it
MOST_CODE = 2**21  # characters of all code cells
SOLVED = re.compile(r"^solved = check\(.*\nassert solved\.right", re.MULTILINE)
STARTS = re.compile(r"""\bstart\(\s*["'](\d\d)_\w+["']\s*\)""")


@dataclass(frozen=True)
class Notebook:
    """cells: the code of each code cell, but for the course's solutions. lessons: "NN", those it is of."""

    cells: tuple[str, ...]
    lessons: tuple[str, ...]


def read_notebook(data: bytes, name: str) -> Notebook:
    """The notebook in a file's bytes. name: the file's name, which may say the lesson.

    Raises ValueError if it cannot be read, or is of no lesson.
    """
    if len(data) > LARGEST:
        raise ValueError(f"the file has more than {LARGEST // 2**20} MB")
    try:
        cells = json.loads(data.decode("utf-8-sig"))
        if "cells" not in cells and "worksheets" in cells:  # the format before 2014
            cells = {"cells": [cell for sheet in cells["worksheets"] for cell in sheet["cells"]]}
        code = [cell for cell in cells["cells"] if cell.get("cell_type") == "code"]
        texts = tuple(source(cell) for cell in code if not is_solution(cell))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"this is no notebook: {type(error).__name__}: {str(error)[:100]}") from None
    if sum(map(len, texts)) > MOST_CODE:
        raise ValueError(f"its cells have more than {MOST_CODE:,} characters")
    return Notebook(texts, lessons_of(texts, name))


def source(cell: dict) -> str:
    """The code of a cell, which the format keeps as one text or as a list of lines."""
    text = cell.get("source", cell.get("input", ""))
    return text if isinstance(text, str) else "".join(text)


def is_solution(cell: dict) -> bool:
    """Whether the cell is a solution of the course's full notebooks."""
    tags = (cell.get("metadata") or {}).get("tags") or []
    return "solution" in tags or SOLVED.search(source(cell)) is not None


def lessons_of(cells: tuple[str, ...], name: str) -> tuple[str, ...]:
    """The lessons whose ``start`` the cells call; else the one in its name; else those of their checks.

    Raises ValueError if there is none.
    """
    started = dict.fromkeys(number for cell in cells for number in STARTS.findall(cell) if number in LESSONS)
    named = lesson_in(name)
    checked = dict.fromkeys(
        number for cell in cells for number in re.findall(r"""\bcheck\(\s*["'](\d\d)\.""", cell)
    )
    for found in (started, [named] if named else [], [number for number in checked if number in LESSONS]):
        if found:
            return tuple(found)
    raise ValueError(f"neither its cells nor its name say which of {', '.join(LESSONS.values())} it is")


def lesson_in(name: str) -> str:
    """The number of the lesson in a file's name, or an empty text."""
    return next((number for number, lesson in LESSONS.items() if lesson in name), "")
