"""The lessons in nbgrader: the real one makes, grades and explains a class, and gives the grader's points."""

import copy
import csv
import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import answers_00
import nbformat
import pytest
from nbformat.v4 import new_code_cell
from warm_kernels import warm_kernels

from qdiff_lib.course import grade
from qdiff_lib.course.grading.lesson_cells import idle_cells
from qdiff_lib.course.grading.lessons import POINTS, exercises, points
from tools.expansion import (
    ROOT,
    SOURCES,
    SourceError,
    is_exercise,
    lesson_names,
    notebook_names,
    read_address,
    read_source,
)
from tools.nbgrader_format import course_notebook, grade_id, worth, write_course
from tools.notebooks import all_solution_lines, leaks, to_text

LESSON, NUMBER = "00_start_here", "00"
BYTES, DOT = exercises(NUMBER)
SOLVED = {
    cell.metadata["exercise"]: cell.source
    for cell in read_source(SOURCES / f"{LESSON}.py")
    if is_exercise(cell)
}
OTHER_RIGHT = {BYTES: "bytes_of_bit_string", DOT: "dot_by_formula"}  # of answers_00.py
OTHER_WRONG = {BYTES: "partial(with_grid, 4)", DOT: "dot_in_float32"}
WRONG_BYTES = "def file_bytes(count, bits, channels):\n    return count * bits\n"
HELPED = "def file_bytes(count, bits, channels):\n    return whole_bytes(count * bits) + 8 * channels\n"
OWN_CHECK = "def check(*arguments):\n    return 1"
NAMES_OF_THE_LESSON = """\
def file_bytes(count, bits, channels):
    return to_numbers(-(-count * bits // 8), 1, -8 * channels)
"""  # the other cells, which draw, need not run
WARNS = SOLVED[DOT].replace("    # BEGIN SOLUTION\n", "    import warnings\n    warnings.warn('slow')\n")


class Submission:
    """The notebook that learners get, with answers by exercise."""

    def __init__(self, released: nbformat.NotebookNode):
        self.notebook = copy.deepcopy(released)

    def cell(self, grade_id: str) -> nbformat.NotebookNode:
        for cell in self.notebook.cells:
            if cell.metadata.get("nbgrader", {}).get("grade_id") == grade_id:
                return cell
        raise KeyError(grade_id)

    def answer(self, answers: dict[str, str]) -> "Submission":
        for name, code in answers.items():
            self.cell(f"{grade_id(name)}_answer").source = code
        return self

    def add(self, code: str, above: str) -> "Submission":
        """A cell of the learner's own, above the answer of an exercise."""
        at = self.notebook.cells.index(self.cell(f"{grade_id(above)}_answer"))
        self.notebook.cells.insert(at, new_code_cell(code))
        return self

    def answer_with(self, names: dict[str, str]) -> "Submission":
        """Answers that are functions of a cell above them, with their source in answers_00.py."""
        used = [inspect.getsource(value) for name, value in vars(answers_00).items()
                if inspect.isfunction(value) and any(name in code for code in names.values())]  # fmt: skip
        self.add("\n\n".join(["from functools import partial", *used]), BYTES)
        return self.answer({name: f"{name[3:]} = {code}" for name, code in names.items()})

    def tamper(self) -> "Submission":
        """Change each test: it neither runs nor fails, and is worth more."""
        for name in (BYTES, DOT):
            test = self.cell(grade_id(name))
            test.source, test.metadata.tags = "pass", ["skip-execution"]
            test.metadata.nbgrader.points = 100
        return self


CLASS = {
    "solved": lambda s: s.answer(SOLVED),
    "untouched": lambda s: s,
    "wrong": lambda s: s.answer({BYTES: WRONG_BYTES, DOT: SOLVED[DOT]}),
    "other-right": lambda s: s.answer_with(OTHER_RIGHT),
    "other-wrong": lambda s: s.answer_with(OTHER_WRONG),
    "no-python": lambda s: s.answer({BYTES: "def file_bytes(a)\n    return", DOT: SOLVED[DOT]}),
    "helper": lambda s: s.add("def whole_bytes(n):\n    return -(-n // 8)", BYTES).answer({BYTES: HELPED}),
    "lesson's-names": lambda s: s.answer({BYTES: NAMES_OF_THE_LESSON, DOT: WARNS}),
    "own-check": lambda s: s.add(OWN_CHECK, BYTES).answer({BYTES: WRONG_BYTES}),
    "tampered": lambda s: s.tamper().answer({BYTES: WRONG_BYTES, DOT: SOLVED[DOT]}),
}
EXPECTED = {  # points of both exercises
    "solved": (3, 4),
    "untouched": (0, 0),
    "wrong": (0, 4),
    "other-right": (3, 4),
    "other-wrong": (0, 0),
    "no-python": (0, 4),
    "helper": (3, 0),
    "lesson's-names": (3, 4),
    "own-check": (0, 0),
    "tampered": (0, 4),
}
ALIKE = ("helper", "lesson's-names", "tampered")  # where two graders differ most easily


class Course:
    """A course folder of nbgrader, and how its commands run there: they see no other folder of this user."""

    def __init__(self, folder: Path, kernels: str):
        self.folder = folder
        own = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "HOME")
        homes = {name: str(folder / "home" / name.lower()) for name in own}
        path = os.pathsep.join(
            [str(Path(sys.executable).parent), os.environ["PATH"]]
        )  # nbgrader runs alembic
        self.environment = os.environ | homes | {"PATH": path, "JUPYTER_NO_CONFIG": "1"}
        self.environment["JUPYTER_PATH"] = kernels

    def run(self, *words: str) -> str:
        """Run a command of nbgrader; returns what it says."""
        command = [sys.executable, "-m", "nbgrader", *words]
        kind = {"capture_output": True, "text": True, "timeout": 300}
        done = subprocess.run(command, cwd=self.folder, env=self.environment, **kind)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def hand_in(self, released: nbformat.NotebookNode) -> None:
        for learner, change in CLASS.items():
            folder = self.folder / "submitted" / learner / LESSON
            folder.mkdir(parents=True)
            text = to_text(change(Submission(released)).notebook)
            (folder / f"{LESSON}.ipynb").write_text(text, encoding="utf-8")

    def scores(self) -> dict[str, tuple[float, ...]]:
        """The points of each learner in nbgrader's database."""
        from nbgrader.api import Gradebook

        with Gradebook(f"sqlite:///{self.folder / 'gradebook.db'}") as book:
            found = {}
            for learner in CLASS:
                notebook = book.find_submission_notebook(LESSON, LESSON, learner)
                of = {each.name: each.score for each in notebook.grades}
                found[learner] = tuple(of[grade_id(name)] for name in (BYTES, DOT))
        return found

    def own_scores(self, learners: tuple[str, ...], folder: Path) -> dict[str, tuple[float, ...]]:
        """The points of learners by the course's own grader, from the same files; folder: for its results."""
        submitted, out = folder / "submitted", folder / "grades"
        for learner in learners:
            shutil.copytree(self.folder / "submitted" / learner, submitted / learner)
        assert grade.main([str(submitted), "--out", str(out), "--unsafe", "--jobs", "1"]) == 0
        with (out / "grades.csv").open(encoding="utf-8", newline="") as file:
            rows = {(row["student"], row["exercise"]): row["verdict"] for row in csv.DictReader(file)}
        return {
            learner: tuple(points(name) * (rows[learner, name] == "right") for name in (BYTES, DOT))
            for learner in learners
        }


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A class of learners, graded by nbgrader."""
    with warm_kernels() as kernels:
        course = Course(tmp_path_factory.mktemp("course"), kernels)
        write_course(course.folder)
        course.run("generate_assignment", LESSON)
        course.hand_in(nbformat.read(course.folder / f"release/{LESSON}/{LESSON}.ipynb", as_version=4))
        course.run("autograde", LESSON)
        course.run("generate_feedback", LESSON, "--student", "wrong")
        yield course


class TestCourseNotebook:
    @pytest.mark.parametrize("name", lesson_names())
    def test_cells_and_their_roles(self, name):
        cells = course_notebook(name, read_address()).cells
        roles = [cell.metadata.nbgrader for cell in cells]
        assert cells[0].metadata.tags == ["bootstrap"] and roles[0].locked
        ids = [role.grade_id for role in roles]
        assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[\w-]+", each) for each in ids)
        assert {role.schema_version for role in roles} == {3}
        kinds = [(role.locked, role.solution, role.grade) for role in roles]
        assert set(kinds) == {(True, False, False), (False, True, False), (True, False, True)}
        for answer, test in zip(kinds, kinds[1:], strict=False):
            assert answer[1] == test[2], "a test stands below each answer, and nowhere else"

    def test_every_exercise_has_its_points(self):
        cells = [cell for name in lesson_names() for cell in course_notebook(name, read_address()).cells]
        roles = [cell.metadata.nbgrader for cell in cells]
        found = {role.grade_id: role.points for role in roles if role.grade}
        assert found == {name.replace(".", "_"): worth for name, worth in POINTS.items()}

    def test_the_folder(self, tmp_path):
        (tmp_path / "gradebook.db").write_text("grades")
        write_course(tmp_path)
        write_course(tmp_path)
        assert (tmp_path / "gradebook.db").read_text() == "grades"
        assert sorted(path.name for path in (tmp_path / "source").iterdir()) == sorted(notebook_names())
        for name in notebook_names():
            notebook = nbformat.read(tmp_path / f"source/{name}/{name}.ipynb", as_version=4)
            links = re.findall(r"\]\((?!https?:)([^)]*)\)", "".join(cell.source for cell in notebook.cells))
            assert all((tmp_path / "source" / name / link).is_file() for link in links), links


class TestCapstone:
    """Texts are graded by hand; the learner's own cells are free, and all others are locked."""

    @pytest.fixture
    def cells(self):
        return course_notebook("capstone", read_address()).cells

    def test_the_texts_have_the_points_of_the_rubric(self, cells):
        graded = [cell for cell in cells if cell.metadata.get("nbgrader", {}).get("grade")]
        assert [cell.cell_type for cell in graded] == ["markdown"] * 4
        assert [cell.metadata.nbgrader.points for cell in graded] == [8, 4, 4, 4]
        assert all(cell.metadata.nbgrader.solution and not cell.metadata.nbgrader.locked for cell in graded)

    def test_own_cells_are_free_and_the_others_locked(self, cells):
        own = [cell.source for cell in cells if "nbgrader" not in cell.metadata]
        assert len(own) == 3 and "QUICK = True" in own[0] and all("run(" in code for code in own[1:])
        assert sum(cell.metadata.get("nbgrader", {}).get("locked", False) for cell in cells) > 10

    def test_a_text_without_points_is_refused(self):
        assert worth("### The number (8 points)", "capstone") == 8
        with pytest.raises(SourceError, match="capstone.py.*NN points"):
            worth("### The number", "capstone")


class TestIdleCells:
    CELLS = (
        "import torch",
        "a = 1",
        "b = a + 1",
        "import torch",
        "def f():\n    return b",
        "c = 2",
        "t = []",
    )

    def test_cells_that_an_answer_needs_run(self):
        assert idle_cells(self.CELLS, {1, 2, 3, 5, 6}) == {3, 5, 6}

    def test_what_the_first_cell_has_needs_no_other(self):
        assert idle_cells((*self.CELLS, "torch.zeros(1)"), {1, 2, 3, 4, 5, 6}) == {1, 2, 3, 4, 5, 6}

    def test_cells_that_change_a_value_run(self):
        assert idle_cells(("", "t = []", "t.append(1)", "print(t)"), {1, 2}) == set()


def test_the_guide_shows_the_commands():
    guide = (ROOT / "docs/teaching.md").read_text(encoding="utf-8")
    assert "make student FORMAT=nbgrader" in guide and "build/student-nbgrader" in guide
    commands = re.findall(r"^ +nbgrader (\w+)", guide, re.MULTILINE)
    assert commands == ["generate_assignment", "autograde", "generate_feedback", "export"]


@pytest.mark.slow
class TestNbgrader:
    def test_it_gives_each_learner_the_points(self, course):
        assert course.scores() == EXPECTED

    @pytest.mark.parametrize(
        "learners", [ALIKE, pytest.param(tuple(CLASS), marks=pytest.mark.exhaustive)], ids=["some", "all"]
    )
    def test_these_are_the_points_of_the_course_s_own_grader(self, learners, course, tmp_path):
        scores = course.scores()
        assert course.own_scores(learners, tmp_path) == {learner: scores[learner] for learner in learners}

    def test_learners_get_no_solution(self, course):
        text = (course.folder / f"release/{LESSON}/{LESSON}.ipynb").read_text(encoding="utf-8")
        assert not leaks(text, all_solution_lines())

    def test_feedback_says_what_is_wrong(self, course):
        page = (course.folder / f"feedback/wrong/{LESSON}/{LESSON}.html").read_text(encoding="utf-8")
        assert "a byte has 8" in page

    def test_the_capstone_is_graded_by_hand_and_not_run(self, course):
        """Not even with a cell of the learner's that would fail."""
        course.run("generate_assignment", "capstone")
        released = nbformat.read(course.folder / "release/capstone/capstone.ipynb", as_version=4)
        texts = [cell for cell in released.cells if cell.metadata.get("nbgrader", {}).get("grade")]
        assert [cell.cell_type for cell in texts] == ["markdown"] * 4
        texts[0].source = "capstone-runs/mine: 20.0 dB"
        released.cells.append(new_code_cell("raise RuntimeError('this would take an hour')"))
        folder = course.folder / "submitted/amy/capstone"
        folder.mkdir(parents=True)
        nbformat.write(released, folder / "capstone.ipynb")
        course.run("autograde", "capstone")
        graded = nbformat.read(course.folder / "autograded/amy/capstone/capstone.ipynb", as_version=4)
        assert any("20.0 dB" in cell.source for cell in graded.cells)
        assert not any(cell.get("outputs") for cell in graded.cells)
