"""Grading: what of a notebook runs, what an answer gets, and that no notebook loses another's grade."""

import csv
import re
import shlex
import subprocess
import sys

import nbformat
import pytest

from tools import grade
from tools.answers import FORBIDDEN, code_cells, judge
from tools.expansion import ROOT, SOURCES, Address, is_exercise, lesson_names, read_source
from tools.grade import exercises, lesson_of
from tools.notebooks import student_notebook

BYTES, DOT = "00.file_bytes", "00.integer_dot"
RIGHT = "def file_bytes(count, bits, channels):\n    return math.ceil(count * bits / 8) + 8 * channels\n"
DOT_RIGHT = (
    "def integer_dot(q_w, z_w, q_x, z_x):\n    return int(((q_w.int() - z_w) * (q_x.int() - z_x)).sum())\n"
)
WRONG = "def file_bytes(count, bits, channels):\n    return count * bits\n"
MATH = "import math\n"


@pytest.fixture(scope="module")
def lesson():
    """Lesson 0 as learners get it; returns a function that gives it with other code for some exercises."""

    def with_answers(answers: dict[str, str], extra: str = ""):
        notebook = student_notebook("00_start_here", Address("", "v1"))
        for cell in notebook.cells:
            cell.source = answers.get(cell.metadata.get("exercise"), cell.source)
        return nbformat.from_dict(notebook | {"cells": [*notebook.cells, nbformat.v4.new_code_cell(extra)]})

    return with_answers


def cells(notebook) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def judged(lesson, code: str, extra: str = "") -> tuple[str, str]:
    """Verdict and message of the real student version with this code in the exercise's cell."""
    return judge(cells(lesson({BYTES: code}, extra)), BYTES)


class TestJudge:
    @pytest.mark.parametrize(
        "code",
        [
            MATH + RIGHT,
            "import math as m\n" + RIGHT.replace("math.", "m."),
            "from math import *\n" + RIGHT.replace("math.", ""),
            MATH + "EACH = 4 + 4\n" + RIGHT.replace("8 * ch", "EACH * ch"),
            MATH
            + "half = lambda: 4\ndef each():\n    return 2 * half()\n"
            + RIGHT.replace("8 * ch", "each() * ch"),
            "file_bytes = lambda count, bits, channels: -(-count * bits // 8) + 8 * channels",
            MATH + WRONG + RIGHT,
            MATH + "%matplotlib inline\n!ls\n" + RIGHT + "file_bytes?",
        ],
        ids=["import", "as", "star", "constant", "helpers", "lambda", "twice", "magics"],
    )
    def test_right(self, lesson, code):
        verdict, message = judged(lesson, code)
        assert verdict == "right" and message.startswith("exact for 4 layers"), message

    @pytest.mark.parametrize("name", lesson_names())
    def test_the_solutions_of_every_lesson(self, name):
        source = [cell for cell in read_source(SOURCES / f"{name}.py") if is_exercise(cell)]
        solved = {cell.metadata["exercise"]: cell.source for cell in source}
        given = [cell for cell in student_notebook(name, Address("", "v1")).cells if cell.cell_type == "code"]
        code = [solved.get(cell.metadata.get("exercise"), cell.source) for cell in given]
        assert [judge(code, exercise)[0] for exercise in exercises(name)] == ["right"] * len(solved)

    def test_order_of_cells_does_not_matter(self, lesson):
        assert judge([RIGHT, "print(file_bytes(1, 2, 3))", MATH], BYTES)[0] == "right"

    def test_an_answer_beside_the_stub_counts(self, lesson):
        assert judge([MATH + RIGHT, *cells(lesson({}))], BYTES)[0] == "right"

    @pytest.mark.parametrize(
        "code, verdict, message",
        [
            (WRONG, "wrong", "a byte has 8"),
            ("def file_bytes(count, bits, channels)\n    return 1\n", "wrong", "not Python: expected ':'"),
            ("def file_bytes(*a):\nreturn 1", "wrong", "not Python: expected an indented block"),
            (RIGHT, "wrong", "NameError: name 'math' is not defined"),
            ("def file_bytes(*a):\n    return file_bytes(*a)", "wrong", "RecursionError"),
            ("def file_bytes(*a):\n    raise SystemExit(3)", "error", "its check ended with SystemExit: 3"),
            ("import nonesuch\ndef file_bytes(*a):\n    return nonesuch", "error", "'import nonesuch' ended"),
            ("file_bites = 1", "missing", "no cell defines file_bytes"),
            ("", "missing", "no cell defines file_bytes"),
        ],
    )
    def test_what_is_not_right(self, lesson, code, verdict, message):
        found = judged(lesson, code)
        assert found[0] == verdict and message in found[1], found

    def test_untouched(self, lesson):
        assert [judge(cells(lesson({})), name)[0] for name in (BYTES, DOT)] == ["not attempted"] * 2

    def test_what_an_answer_does_not_need_is_not_run(self, lesson):
        loud = (
            "print(1 / 0)\nlist(1 / 0 for _ in 'a')\nunused = 1 / 0\ncount = 1 / 0\n"  # count is local there
        )
        assert judged(lesson, MATH + loud + RIGHT, extra="raise ValueError")[0] == "right"

    def test_own_words_of_the_notebook_decide_nothing(self, lesson):
        extra = "check = lambda name, answer: print('right')\ncheck('00.file_bytes', file_bytes)"
        assert judged(lesson, WRONG, extra)[0] == "wrong"

    def test_the_network_and_programs_are_forbidden_and_files_are_not(self):
        events = (
            "socket.connect socket.getaddrinfo socket.gethostbyname socket.sendto os.system subprocess.Popen"
        )
        assert all(FORBIDDEN.fullmatch(event) for event in events.split())
        assert not any(
            FORBIDDEN.fullmatch(event) for event in ("open", "import", "socket.__new__", "os.listdir")
        )


class TestFiles:
    def test_the_lesson_is_in_the_cells_or_in_the_files_name(self, tmp_path, lesson):
        named = tmp_path / "amy 02_activation_drift (1).ipynb"
        assert lesson_of(tmp_path / "final.ipynb", cells(lesson({}))) == "00_start_here"
        assert lesson_of(named, []) == "02_activation_drift" and len(exercises("02_activation_drift")) == 3
        with pytest.raises(ValueError, match="which of 00_start_here, 01_"):
            lesson_of(tmp_path / "final.ipynb", ["start('nothing')"])

    @pytest.mark.parametrize("make", [False, True], ids=["no folder", "no notebook"])
    def test_a_bad_folder_is_one_line(self, tmp_path, capsys, make):
        folder = tmp_path / "submitted"
        if make:
            (folder / ".ipynb_checkpoints").mkdir(parents=True)
            (folder / ".ipynb_checkpoints/a.ipynb").touch()
        assert grade.main([str(folder), "--out", str(tmp_path / "grades.csv")]) == 2
        error = capsys.readouterr().err
        assert error.startswith("grade: ") and str(folder) in error and error.count("\n") == 1
        assert not (tmp_path / "grades.csv").exists()

    def test_the_readme_shows_the_command(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        readme = (ROOT / "README.md").read_text(encoding="utf-8")
        (command,) = re.findall(r"^ +python -m tools\.grade (.*)$", readme, re.MULTILINE)
        assert grade.main(shlex.split(command, comments=True)) == 2  # there is no such folder here


ENDLESS = "def file_bytes(count, bits, channels):\n    while True:\n        pass\n"
REACHES = "import socket\ndef integer_dot(*a):\n    socket.create_connection(('192.0.2.1', 80))\n"
LOUD = "import os\ndef file_bytes(*a):\n    os.write(1, b'right')\n    print('right')\n    os._exit(0)\n"
EXPECTED = {
    "amy/lesson.ipynb": ["right", "wrong: your function raised PermissionError: an answer may neither use"],
    "ben/00_start_here.ipynb": ["error: no answer within 3 s", "right"],
    "dan.ipynb": ["error: its process ended without an answer", "missing"],
    "eve.ipynb": ["error: this file cannot be read as a lesson"],
}


@pytest.mark.slow
def test_no_notebook_loses_the_grade_of_another(tmp_path, lesson):
    """Through the command, with a process for each notebook."""
    answers = {
        "amy/lesson.ipynb": {BYTES: MATH + RIGHT, DOT: REACHES},
        "ben/00_start_here.ipynb": {BYTES: ENDLESS, DOT: DOT_RIGHT},
        "dan.ipynb": {BYTES: LOUD, DOT: ""},
    }
    folder, out = tmp_path / "submitted", tmp_path / "grades.csv"
    for file, codes in answers.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(lesson(codes), folder / file)
        assert RIGHT not in codes.values() or RIGHT in "".join(code_cells(folder / file))
    (folder / "eve.ipynb").write_text("{")
    command = [sys.executable, "-m", "tools.grade", str(folder), "--out", str(out), "--timeout", "3"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 1 and run.stdout.count("\n") == 8, run.stderr
    with out.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    found = {file: [row for row in rows if row["file"] == file] for file in EXPECTED}
    assert sum(map(len, found.values())) == len(rows) == 7
    for file, expected in EXPECTED.items():
        said = [f"{row['verdict']}: {row['message']}" for row in found[file]]
        assert all(s.startswith(e) for s, e in zip(said, expected, strict=True)), said
        assert {row["student"] for row in found[file]} == {file.partition("/")[0].removesuffix(".ipynb")}
    lines = run.stderr.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["ben/00_start_here.ipynb", "dan.ipynb", "eve.ipynb"]
