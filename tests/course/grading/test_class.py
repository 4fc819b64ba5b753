"""A whole class, honest and hostile, graded once by the command, in the sandbox of this machine."""

import contextlib
import csv
import hashlib
import os
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import psutil
import pytest
from attacks import CELLS, FOUND_IN_A_NOTEBOOK, MORE, as_cell
from handed_in import make_notebook, solutions

from qdiff_lib.course import grade
from qdiff_lib.course.grading.remote import PACKAGE
from tools.expansion import ROOT, lesson_names
from tools.notebooks import to_text

pytestmark = [pytest.mark.slow, pytest.mark.sandbox]
SEED = 47110815
TIMEOUT = 4
L0, L1, L4 = "00_start_here", "01_error_accumulation", "04_shortcut_splitting"
BYTES, DOT = "00.file_bytes", "00.integer_dot"
HONEST = ("00.integer_dot", "02.range_utilisation", "05.pack_nibbles")  # in the notebooks with attacks
FIRST = ("00", "01", "02", "05")  # the lessons of HONEST, and of OWN
OWN = "01.accumulated_variance"  # the course has a function of this name
LESSON_NAMES = lesson_names()
WRONG = "def file_bytes(count, bits, channels):\n    return count * bits\n"
RIGHT = "def file_bytes(count, bits, channels):\n    return -(-count * bits // 8) + 8 * channels\n"


def lessons_of(answers: dict[str, str]):
    """One notebook with the lessons of these exercises."""
    names = [name for name in LESSON_NAMES if set(solutions(name)) & set(answers)]
    notebook = make_notebook(names[0], answers)
    for name in names[1:]:
        notebook.cells += make_notebook(name, answers).cells
    return notebook


def places() -> list[str]:
    """The exercises of a notebook with attacks that an attack may stand in, those of ``FIRST`` first.

    All lessons but the third, whose last exercise takes seconds. A process for each lesson grades a notebook.
    """
    names = sorted(
        (name for name in LESSON_NAMES if name[:2] != "03"), key=lambda name: name[:2] not in FIRST
    )
    return [e for name in names for e in solutions(name) if e not in HONEST]


def spread() -> dict[str, tuple[str, str, str]]:
    """Each attack with the learner whose work it is in, the exercise, and the code of the cell."""
    slots = sorted(places(), key=lambda exercise: exercise != OWN)  # the first attack needs this one
    attacks = CELLS | FOUND_IN_A_NOTEBOOK | MORE
    found = {}
    for i, (name, code) in enumerate(attacks.items()):
        exercise = slots[i % len(slots)]
        answer = exercise.partition(".")[2]
        cell = code.replace("ANSWER", answer) if name in CELLS else as_cell(code, answer)
        found[name] = f"mallory{i // len(slots)}", exercise, cell
    return found


ATTACKS = spread()
HONEST_CLASS = {  # learner: notebooks by the name of the file
    "amy": lambda: {f"{L0}.ipynb": make_notebook(L0, solutions(L0))},
    "ben": lambda: {
        "x.ipynb": make_notebook(L0, {BYTES: "%%time\n" + RIGHT, DOT: "def integer_dot(a)\n    1"})
    },
    "cho 조": lambda: {f"{L0}.ipynb": make_notebook(L0, {BYTES: WRONG}, below=[RIGHT])},
    "gus": lambda: {f"{L0}.ipynb": make_notebook(L0, {BYTES: WRONG})},
    "dan": lambda: {"both.ipynb": two_lessons()},
    "eva": lambda: {f"{L4}.ipynb": make_notebook(L4, solutions(L4) | {"04.split_quantize": None})},
    "old": lambda: {f"{L0}.ipynb": make_notebook(L0), f"{L0} (1).ipynb": make_notebook(L0, solutions(L0))},
}
EXPECTED = {
    ("amy", BYTES): "right",
    ("amy", DOT): "right",
    ("ben", BYTES): "right",
    ("ben", DOT): "wrong",
    ("cho 조", BYTES): "right",
    ("cho 조", DOT): "not attempted",
    ("dan", BYTES): "right",
    ("dan", DOT): "not attempted",
    ("dan", "04.split_quantize"): "not attempted",
    ("dan", "04.shortcut_output"): "right",
    ("eva", "04.split_quantize"): "missing",
    ("eva", "04.shortcut_output"): "right",
    ("old", BYTES): "right",
    ("old", DOT): "right",
    ("gus", BYTES): "wrong",
    ("full", BYTES): "not attempted",
    ("full", DOT): "not attempted",
    ("zoe", BYTES): "right",
    ("zoe", DOT): "right",
    ("yan", BYTES): "absent",
    ("yan", DOT): "absent",
}


def two_lessons():
    notebook = make_notebook(L0, {BYTES: RIGHT})
    notebook.cells += make_notebook(L4, {"04.shortcut_output": solutions(L4)["04.shortcut_output"]}).cells
    return notebook


class Graded:
    """What the command left. rows: the table by learner and exercise."""

    def __init__(self, folder: Path, out: Path):
        self.folder, self.out = folder, out
        with (out / "grades.csv").open(encoding="utf-8", newline="") as file:
            self.rows = {(row["student"], row["exercise"]): row for row in csv.DictReader(file)}
        self.report = (out / "class.html").read_text(encoding="utf-8")


def digests(folder: Path, pattern: str) -> dict[str, str]:
    files = [path for path in folder.rglob(pattern) if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def hand_in(folder: Path, port: int) -> None:
    """Write the work of the class: honest, in the ways of Canvas and others, and hostile."""
    for learner, files in HONEST_CLASS.items():
        (folder / learner).mkdir(parents=True)
        for name, notebook in files().items():
            (folder / learner / name).write_text(to_text(notebook), encoding="utf-8")
    (folder / "full").mkdir()
    (folder / f"full/{L0}.ipynb").write_bytes((ROOT / f"notebooks/{L0}.ipynb").read_bytes())
    (folder / "eve").mkdir()
    (folder / f"eve/{L0}.ipynb").write_text("{")
    with zipfile.ZipFile(folder / "submissions.zip", "w") as archive:
        text = to_text(make_notebook(L0, solutions(L0)))
        archive.writestr(f"zoe_LATE_77_1_{L0}-1.ipynb", text)
    words = {
        "VICTIM": str(folder / f"amy/{L0}.ipynb"),
        "PACKAGE": str(PACKAGE),
        "MARK": str(folder.parent / "mark"),
        "PORT": str(port),
        "SEED": str(SEED),
    }
    for learner in sorted({learner for learner, _, _ in ATTACKS.values()}):
        answers = {e: cell for name, (who, e, cell) in ATTACKS.items() if who == learner}
        for word, value in words.items():
            answers = {e: cell.replace(word, value) for e, cell in answers.items()}
        solved = {e: solutions(name)[e] for name in LESSON_NAMES for e in solutions(name) if e in HONEST}
        (folder / learner).mkdir()
        (folder / learner / "all.ipynb").write_text(to_text(lessons_of(solved | answers)), encoding="utf-8")


@pytest.fixture(scope="module")
def graded(tmp_path_factory, sandbox):
    """The class, graded by the command; checks what an attack must not have changed."""
    base = tmp_path_factory.mktemp("class")
    folder, out = base / "submitted", base / "grades"
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        hand_in(folder, server.getsockname()[1])
        (base / "class.csv").write_text(
            "id,name,email\n77,zoe,z@x.org\n78,yan,y@x.org\n1,amy,\n", encoding="utf-8"
        )
        before = digests(folder, "*"), digests(PACKAGE, "*.py")
        command = [
            str(folder),
            "--out",
            str(out),
            "--timeout",
            str(TIMEOUT),
            "--seed",
            str(SEED),
            "--jobs",
            "2",
        ]
        with pytest.MonkeyPatch.context() as patch:
            if sandbox != grade.find_sandbox():  # a container on a machine that has bubblewrap
                patch.setattr(grade, "find_sandbox", lambda: sandbox)
            assert grade.main([*command, "--students", str(base / "class.csv")]) == 1
        with pytest.raises(BlockingIOError):
            server.accept()
    assert (digests(folder, "*"), digests(PACKAGE, "*.py")) == before
    return Graded(folder, out)


@pytest.mark.parametrize("learner, exercise", EXPECTED)
def test_the_grades_of_honest_learners(graded, learner, exercise):
    row = graded.rows[learner, exercise]
    assert row["verdict"] == EXPECTED[learner, exercise], row["message"]


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_not_right(graded, attack):
    learner, exercise, _ = ATTACKS[attack]
    row = graded.rows[learner, exercise]
    assert row["verdict"] in ("wrong", "error"), row
    for word in ("SEEN", "READ", "MOUNTED"):
        assert word not in row["message"], row


@pytest.mark.parametrize("learner", sorted({learner for learner, _, _ in ATTACKS.values()}))
def test_other_answers_in_a_notebook_with_attacks_keep_their_grade(graded, learner):
    assert {e: graded.rows[learner, e]["verdict"] for e in HONEST} == dict.fromkeys(HONEST, "right")


def test_there_are_fifteen_attacks_of_old_and_as_many_more():
    assert len(FOUND_IN_A_NOTEBOOK) >= 15 and len(MORE) + len(CELLS) >= 15


def test_nothing_is_left(graded):
    assert not list(graded.folder.parent.glob("mark*"))
    own = {process.pid for process in psutil.Process().children(recursive=True)}  # other tests grade beside
    assert not [
        p
        for p in psutil.process_iter(["cmdline", "ppid"])
        if "qdiff_lib.course.grading.child" in (p.info["cmdline"] or [])
        and (p.pid in own or p.info["ppid"] == 1)
    ]


def test_the_course_s_own_answer_is_told_apart(graded):
    learner, exercise, _ = ATTACKS["the course's own answer"]
    assert "write your own" in graded.rows[learner, exercise]["message"]


class TestPages:
    def test_every_learner_has_a_page_that_escapes_all_text(self, graded):
        names = {student for student, _ in graded.rows}
        pages = list((graded.out / "feedback").iterdir())
        assert len(pages) == len(names)
        text = "".join(page.read_text(encoding="utf-8") for page in pages)
        assert "&lt;script&gt;" in text and "<script" not in text + graded.report
        assert not any(character in text for character in "\x1b\u202e")

    def test_the_report_lists_mistakes_late_and_absent_work_and_files(self, graded):
        for words in ("a byte has 8", "zoe: 00_start_here", "yan: 00_start_here", "eve/00_start_here.ipynb"):
            assert words in graded.report
        assert "old/00_start_here.ipynb: replaced by old/00_start_here (1).ipynb" in graded.report
        assert str(SEED) not in graded.report

    def test_tables_for_canvas_and_moodle(self, graded):
        with (graded.out / "canvas.csv").open(encoding="utf-8", newline="") as file:
            canvas = list(csv.DictReader(file))
        assert canvas[0]["Student"].strip() == "Points Possible" and canvas[0][L0] == "7"
        assert {row["ID"]: row[L0] for row in canvas if row["ID"]} == {"1": "7", "77": "7", "78": "0"}
        with (graded.out / "moodle.csv").open(encoding="utf-8", newline="") as file:
            moodle = {row["ID number"]: row for row in csv.DictReader(file)}
        assert moodle["77"]["Email address"] == "z@x.org" and moodle["77"]["Total"] == "7"


def test_the_same_bytes_are_not_graded_again(graded, tmp_path, monkeypatch):
    """Nothing can be graded here: there is no program that could run."""
    folder = tmp_path / "submitted"
    (folder / "amy").mkdir(parents=True)
    (folder / f"amy/{L0}.ipynb").write_bytes((graded.folder / f"amy/{L0}.ipynb").read_bytes())
    os.rename(graded.out / "records", tmp_path / "records")
    (tmp_path / "grades").mkdir()
    os.rename(tmp_path / "records", tmp_path / "grades/records")
    monkeypatch.setattr(grade, "find_sandbox", lambda: grade.Sandbox("bubblewrap"))
    monkeypatch.setattr("sys.executable", "/nonexistent/python")
    command = [str(folder), "--out", str(tmp_path / "grades"), "--timeout", str(TIMEOUT)]
    assert grade.main([*command, "--seed", str(SEED)]) == 0
    assert Graded(folder, tmp_path / "grades").rows["amy", BYTES]["verdict"] == "right"


def test_a_killed_command_leaves_no_process(tmp_path, best_sandbox):
    """Its processes, and the answer that one of them runs in the sandbox, end with it."""
    (tmp_path / "work/amy").mkdir(parents=True)
    endless = make_notebook(L0, {BYTES: "def file_bytes(*sizes):\n    while True:\n        pass\n"})
    (tmp_path / f"work/amy/{L0}.ipynb").write_text(to_text(endless))
    options = [str(tmp_path / "work"), "--out", str(tmp_path / "grades"), "--timeout", "600", "--jobs", "2"]
    program = [sys.executable, "-m", "qdiff_lib.course.grade", *options]
    command = psutil.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
    deadline = time.monotonic() + 120
    while not (started := [each for each in command.children(recursive=True) if is_answer(each)]):
        assert command.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    others = command.children(recursive=True)
    command.kill()
    command.wait()
    assert started and not psutil.wait_procs(others, timeout=30)[1]


def is_answer(process) -> bool:
    """Whether a process runs answers, or the sandbox around them."""
    with contextlib.suppress(psutil.Error):
        return "qdiff_lib.course.grading.child" in process.cmdline()
    return False
