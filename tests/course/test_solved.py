"""The learner's progress: kept in a file, in spite of damaged files and folders that cannot be written."""

import json
from pathlib import Path

import pytest

from qdiff_lib import course
from qdiff_lib.course import solved
from qdiff_lib.course.solved import Progress, note, progress_file, remember

EXERCISE, OTHER = "00.file_bytes", "01.snr_per_step"


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A learner without progress; returns the path of the file, which does not exist yet."""
    monkeypatch.setattr(solved, "here", set())
    monkeypatch.setenv("QDIFF_PROGRESS", str(tmp_path / "data" / "progress.json"))
    return tmp_path / "data" / "progress.json"


@pytest.fixture
def shown(monkeypatch):
    found = []
    monkeypatch.setattr(solved, "display", found.append)
    return found


def right(count, bits, channels):
    return -(-count * bits // 8) + 8 * channels


def restart(monkeypatch):
    monkeypatch.setattr(solved, "here", set())


def test_a_right_answer_is_kept_after_a_restart(file, shown, monkeypatch):
    assert course.check(EXERCISE, right).right
    restart(monkeypatch)
    course.progress()
    assert "✓ file_bytes, – integer_dot" in repr(shown[0]) and "■□" in repr(shown[0])
    assert f"kept in {file}" in shown[0].note


def test_wrong_and_unattempted_answers_leave_no_trace(file):
    def stub(*arguments):
        raise NotImplementedError

    assert not course.check(EXERCISE, lambda *arguments: 0).right and not course.check(EXERCISE, stub).right
    assert not file.exists() and not solved.here


def test_answers_of_two_kernels_add_up(file, monkeypatch):
    remember(EXERCISE)
    restart(monkeypatch)
    remember(OTHER)
    assert json.loads(file.read_text()) == [EXERCISE, OTHER]


@pytest.mark.parametrize("content", ["{", "7", "\xff"])
def test_a_damaged_file_stops_nothing_and_is_named(file, shown, content):
    file.parent.mkdir()
    file.write_text(content, encoding="latin-1")
    assert course.check(EXERCISE, right).right
    course.progress()
    assert "✓ file_bytes" in repr(shown[0]) and f"{file} cannot be read" in shown[0].note
    assert file.read_text(encoding="latin-1") == content


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path, file, shown):
    file.parent.write_text("a file where the folder should be")
    assert course.check(EXERCISE, right).right
    course.progress()
    assert "✓ file_bytes" in repr(shown[0]) and "cannot be written" in shown[0].note


def test_off_keeps_nothing(monkeypatch, file):
    monkeypatch.setenv("QDIFF_PROGRESS", "off")
    remember(EXERCISE)
    assert progress_file() is None and not file.exists() and "until the kernel stops" in note()


def test_the_file_is_in_the_users_data_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("QDIFF_PROGRESS")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert progress_file() == tmp_path / "qdiff-course" / "progress.json"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert progress_file().is_relative_to(tmp_path)


def test_table_has_all_exercises_and_is_escaped():
    table = Progress({OTHER}, "a < b")
    assert len(table.rows()) >= 6 and "✓ snr_per_step" in table._repr_html_()
    assert table._repr_html_().endswith("<p>a &lt; b</p>") and table._repr_html_().count("<tr>") >= 7


def test_grading_keeps_no_progress(file):
    from qdiff_lib.course.checks import check

    assert check(EXERCISE, right).right and not file.exists()
