"""Whose file is whose, in folders and zip files of Canvas and Moodle, and what is refused."""

import io
import os
import zipfile

import pytest
from handed_in import make_notebook

from qdiff_lib.course import grade
from qdiff_lib.course.grading import archives
from qdiff_lib.course.grading.book import latest
from qdiff_lib.course.grading.lessons import LESSONS, POINTS, exercises
from qdiff_lib.course.grading.notebooks import read_notebook
from qdiff_lib.course.grading.roster import Roster, Student, read_roster
from qdiff_lib.course.grading.submissions import Owner, collect, copy_number, owner_of, shown
from tools.expansion import SOURCES, lesson_names, read_source
from tools.notebooks import to_text

NOTEBOOK = to_text(make_notebook("00_start_here")).encode()


def zipped(path, files: dict[str, bytes]):
    """A zip file at a path (or in memory) with these files."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize(
    "path, owner",
    [
        ("amy/00_start_here.ipynb", Owner("amy")),
        ("amy/deep/er/x.ipynb", Owner("amy")),
        ("amy.ipynb", Owner("amy")),
        ("amy 02_activation_drift (1).ipynb", Owner("amy")),
        ("00_start_here_amy_lee.ipynb", Owner("amy_lee")),
        ("00_start_here.ipynb", Owner("root")),
        ("00_start_here/amy.ipynb", Owner("amy")),
        ("00_start_here/amy/00_start_here.ipynb", Owner("amy")),
        ("leeamy_12345_67890_00_start_here.ipynb", Owner("leeamy", "12345")),
        ("leeamy_12345_67890_00_start_here-2.ipynb", Owner("leeamy", "12345")),
        ("leeamy_LATE_12345_67890_00_start_here.ipynb", Owner("leeamy", "12345", late=True)),
        ("week 1/leeamy_12345_67890_00_start_here.ipynb", Owner("leeamy", "12345")),
        ("Amy Lee_123_assignsubmission_file_/00_start_here.ipynb", Owner("Amy Lee", number="123")),
        ("Amy Lee_123_assignsubmission_file/work/x.ipynb", Owner("Amy Lee", number="123")),
        ("김민수/00_start_here.ipynb", Owner("김민수")),
    ],
)
def test_owners(path, owner):
    assert owner_of(tuple(path.split("/")), "root") == owner


def test_the_capstone_is_left_out(tmp_path):
    """Its notebooks are graded by hand: they are neither works nor problems, also in a zip file."""
    (tmp_path / "amy").mkdir()
    (tmp_path / "amy/00_start_here.ipynb").write_bytes(NOTEBOOK)
    (tmp_path / "amy/capstone.ipynb").write_bytes(b'{"cells": []}')
    zipped(tmp_path / "bob.zip", {"Capstone (1).ipynb": b"x", "a/capstone 00_start_here.ipynb": NOTEBOOK})
    found = collect(tmp_path)
    files = sorted(work.file for work in found.works)
    assert files == ["amy/00_start_here.ipynb", "bob/a/capstone 00_start_here.ipynb"]
    assert found.problems == []


@pytest.mark.parametrize(
    "name, number",
    [("00_start_here.ipynb", 0), ("00_start_here (2).ipynb", 2), ("a_1_2_00_start_here-3.ipynb", 3)]
    + [("00_start_here-Copy1.ipynb", 1), ("final (9).ipynb", 0), ("01_error_accumulation_2.ipynb", 2)],
)
def test_copies(name, number):
    assert copy_number(name) == number


class TestLessons:
    def test_they_are_those_of_the_course(self):
        assert list(LESSONS.values()) == lesson_names()
        stated = {
            cell.metadata["exercise"]
            for name in lesson_names()
            for cell in read_source(SOURCES / f"{name}.py")
            if "exercise" in cell.metadata
        }
        assert {name for lesson in LESSONS for name in exercises(lesson)} == stated == set(POINTS)

    def test_points_are_the_importance_that_the_lesson_states(self):
        for name in lesson_names():
            stated = ""
            for cell in read_source(SOURCES / f"{name}.py"):
                if "importance" in cell.source:
                    stated = cell.source.split("importance ")[1][0]
                if exercise := cell.metadata.get("exercise"):
                    assert POINTS[exercise] == int(stated), exercise

    def test_one_notebook_may_have_two(self):
        notebook = make_notebook("00_start_here")
        notebook.cells += make_notebook("02_activation_drift").cells
        assert read_notebook(to_text(notebook).encode(), "x.ipynb").lessons == ("00", "02")

    def test_the_name_says_it_where_no_cell_does(self):
        data = b'{"cells": [{"cell_type": "code", "source": ["x = 1\\n", "y = 2"]}]}'
        found = read_notebook(data, "amy 02_activation_drift (1).ipynb")
        assert found.lessons == ("02",) and found.cells == ("x = 1\ny = 2",)
        with pytest.raises(ValueError, match="which of 00_start_here, 01_"):
            read_notebook(data, "final.ipynb")

    @pytest.mark.parametrize(
        "data",
        [b"", b"{", b"[]", b"\xff\xfe", b'{"cells": 3}', b'{"cells": [3]}', b'{"cells": ' + b"[" * 99_999]
        + [b'{"cells": [{"cell_type": "code", "source": 3}]}', b"1" * 5000],
        ids=range(9),
    )  # fmt: skip
    def test_what_is_no_notebook(self, data):
        with pytest.raises(ValueError, match="this is no notebook"):
            read_notebook(data, "00_start_here.ipynb")


class TestNames:
    def test_bytes_that_are_no_utf_8(self):
        assert shown(os.fsdecode("Jos\xe9".encode("latin-1"))) == "José"
        assert shown("a\nb\x1b[2J\u202ec") == "a\ufffdb\ufffd[2J\ufffdc"
        assert shown("\ud800").encode() and len(shown("x" * 999)) == 200

    def test_a_folder_in_another_encoding_is_graded_like_others(self, tmp_path):
        folder = os.fsencode(tmp_path) + b"/Jos\xe9"
        os.mkdir(folder)
        with open(folder + b"/00_start_here.ipynb", "wb") as file:
            file.write(NOTEBOOK)
        (work,) = collect(tmp_path).works
        assert work.owner == Owner("José") and work.file == "José/00_start_here.ipynb"


class TestZipFiles:
    def test_of_canvas_and_of_moodle(self, tmp_path):
        zipped(tmp_path / "submissions.zip", {"leeamy_1_2_00_start_here.ipynb": NOTEBOOK})
        zipped(tmp_path / "m.zip", {"Bo Ng_7_assignsubmission_file_/00_start_here.ipynb": NOTEBOOK})
        found = collect(tmp_path)
        assert {work.owner.name for work in found.works} == {"leeamy", "Bo Ng"} and not found.problems
        (alone,) = collect(tmp_path / "m.zip").works
        assert alone.owner.name == "Bo Ng"

    def test_of_a_learner_and_in_another_one(self, tmp_path):
        inner = io.BytesIO()
        zipped(inner, {"work/00_start_here.ipynb": NOTEBOOK, "__MACOSX/work/._00_start_here.ipynb": b"x"})
        zipped(tmp_path / "all.zip", {"leeamy_1_2_work.zip": inner.getvalue(), "notes.txt": b""})
        zipped(tmp_path / "bo.zip", {"00_start_here.ipynb": NOTEBOOK})
        found = collect(tmp_path)
        assert {work.owner.name for work in found.works} == {"leeamy", "bo"} and not found.problems

    def test_bombs_links_and_paths_outside_are_refused(self, tmp_path, monkeypatch):
        monkeypatch.setattr(archives, "LARGEST", 2**22)
        outside = {"../../up.ipynb": NOTEBOOK, "/root.ipynb": NOTEBOOK, "a\\..\\..\\b.ipynb": NOTEBOOK}
        zipped(tmp_path / "out.zip", outside)
        zipped(tmp_path / "bomb.zip", {"00_start_here.ipynb": bytes(2**23)})
        zipped(tmp_path / "ratio.zip", {"00_start_here.ipynb": bytes(2**22 - 1)})
        nested = io.BytesIO()
        for _ in range(3):
            outer = io.BytesIO()
            zipped(outer, {"x.zip": nested.getvalue() or b"x"})
            nested = outer
        (tmp_path / "nested.zip").write_bytes(nested.getvalue())
        (tmp_path / "no.zip").write_bytes(b"PK\5\6")
        (tmp_path / "damaged.zip").write_bytes(
            zipped(io.BytesIO(), {"00_start_here.ipynb": NOTEBOOK}).getvalue().replace(b"x", b"y", 50)
        )
        many = bytearray(zipped(io.BytesIO(), {}).getvalue())
        many[8:12] = b"\xff\xff\xff\xff"
        (tmp_path / "many.zip").write_bytes(many)
        (tmp_path / "link.ipynb").symlink_to("/etc/passwd")
        os.mkfifo(tmp_path / "pipe.ipynb")
        found = collect(tmp_path)
        assert not found.works and len(found.problems) == 11
        for word in (
            "leaves the zip",
            "unpacked it has",
            "zip file in a zip",
            "no usable",
            "a link",
            "too long",
        ):
            assert any(word in line for line in found.problems), (word, found.problems)
        assert (
            sorted(os.listdir(tmp_path.parent)) == [tmp_path.name]
            or not (tmp_path.parent / "up.ipynb").exists()
        )


class TestWhatCounts:
    def collection(self, tmp_path, files: dict[str, float]):
        for name, time in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(NOTEBOOK)
            os.utime(path, (time, time))
        return collect(tmp_path)

    def test_the_last_copy_and_then_the_last_time(self, tmp_path):
        files = {
            "amy/00_start_here.ipynb": 9,
            "amy/00_start_here (1).ipynb": 5,
            "bo/a/00_start_here.ipynb": 1,
        }
        chosen, lines = latest(self.collection(tmp_path, files | {"bo/b/00_start_here.ipynb": 2}), Roster())
        assert sorted(work.file for work in chosen.values()) == [
            "amy/00_start_here (1).ipynb",
            "bo/b/00_start_here.ipynb",
        ]
        assert "amy/00_start_here.ipynb: replaced by amy/00_start_here (1).ipynb" in lines and len(lines) == 2

    def test_canvas_names_are_of_one_learner(self, tmp_path):
        zipped(tmp_path / "0.zip", {f"leeamy_1_{i}_00_start_here-{i}.ipynb": NOTEBOOK for i in (1, 2)})
        other = to_text(make_notebook("02_activation_drift")).encode()
        zipped(tmp_path / "2.zip", {"leeamy_1_9_02_activation_drift.ipynb": other})
        chosen, _ = latest(collect(tmp_path), Roster())
        assert sorted(chosen) == [(Student("1", "leeamy"), "00"), (Student("1", "leeamy"), "02")]

    def test_two_learners_of_one_name_stay_two(self, tmp_path):
        files = {f"Bo Ng_{i}_assignsubmission_file_/00_start_here.ipynb": 1 for i in (7, 8)}
        chosen, lines = latest(self.collection(tmp_path, files), Roster())
        assert {student.name for student, _ in chosen} == {"Bo Ng (7)", "Bo Ng (8)"} and not lines

    def test_backups_do_not_count(self, tmp_path):
        files = ["amy/00_start_here.ipynb", "amy/.ipynb_checkpoints/00_start_here-checkpoint.ipynb"]
        found = self.collection(tmp_path, dict.fromkeys([*files, "__MACOSX/amy/._00_start_here.ipynb"], 1.0))
        assert [work.file for work in found.works] == files[:1] and not found.problems

    @pytest.mark.parametrize("make", [False, True])
    def test_a_folder_without_notebooks_is_one_line(self, tmp_path, capsys, make):
        folder = tmp_path / "submitted"
        if make:
            (folder / ".ipynb_checkpoints").mkdir(parents=True)
            (folder / ".ipynb_checkpoints/a.ipynb").touch()
        assert grade.main([str(folder), "--out", str(tmp_path / "grades"), "--unsafe"]) == 2
        error = capsys.readouterr().err
        assert error.startswith("grade: ") and str(folder) in error and error.count("\n") == 1


class TestRoster:
    def roster(self, tmp_path, text: str):
        (tmp_path / "class.csv").write_text(text, encoding="utf-8")
        return read_roster(tmp_path / "class.csv")

    def test_learners_are_found_by_number_name_or_mail(self, tmp_path):
        found = self.roster(tmp_path, "id,name,email\n12,Amy Lee,al@x.org\n13,José Ng,jn@x.org\n")
        amy, jose = found.students
        for owner in (Owner("x", "12"), Owner("leeamy"), Owner("Lee, Amy"), Owner("al"), Owner("amy_lee")):
            assert found.find(owner) == amy
        assert found.find(Owner("Jose Ng")) == jose
        assert found.find(Owner("someone")) == Student("", "someone")

    def test_a_name_that_two_have_finds_neither(self, tmp_path):
        found = self.roster(tmp_path, "name,id\nAmy Lee,1\nAmy Lee,2\n")
        assert found.find(Owner("amy lee")) not in found.students and found.find(Owner("", "2")).id == "2"

    def test_canvas_export(self, tmp_path):
        head = "Student,ID,SIS User ID,SIS Login ID,Section\n    Points Possible,,,,\n"
        found = self.roster(tmp_path, head + '"Lee, Amy",12,s12,al@x.org,A\n')
        assert found.students == [Student("12", "Lee, Amy", "al@x.org")]

    @pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "id,name\n"])
    def test_what_is_no_list(self, tmp_path, text):
        with pytest.raises(ValueError, match="class.csv"):
            self.roster(tmp_path, text)


class TestDue:
    def test_dates(self):
        due = grade.read_due(["2026-03-01", "02=2026-03-08T18:00"])
        assert due.every % 3600 == 0 and due.passed("00", due.every + 1) and not due.passed("00", due.every)
        assert not due.passed("02", due.every + 1) and due.passed("02", due.each["02"] + 1)
        assert not grade.read_due([]).passed("00", 1e12)

    @pytest.mark.parametrize("text", ["tomorrow", "08=2026-03-01", "=x"])
    def test_what_is_no_date(self, text):
        with pytest.raises(ValueError, match="--due"):
            grade.read_due([text])
