"""The command line of the grader, and what the documents say about it."""

import re
import shlex
import sys

import pytest

from qdiff_lib.course import grade
from qdiff_lib.course.grading.similar import definition, pairs
from qdiff_lib.utils import sandbox
from qdiff_lib.utils.sandbox import Sandbox, python_folders
from tools.expansion import ROOT

COMMAND = re.compile(r"^ +python -m qdiff_lib\.course\.grade (.*)$", re.MULTILINE)


@pytest.mark.parametrize("page", ["README.md", "docs/teaching.md"])
def test_the_documents_show_commands_that_are_understood(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(grade, "find_sandbox", lambda: Sandbox("none"))
    (tmp_path / "class.csv").write_text("id,name,email\n1,amy,\n")
    commands = COMMAND.findall((ROOT / page).read_text(encoding="utf-8"))
    assert commands
    for command in commands:
        assert grade.main(shlex.split(command, comments=True)) == 2
        assert capsys.readouterr().err == "grade: submitted does not exist\n"


def test_the_guide_names_every_option_and_file():
    guide = (ROOT / "docs/teaching.md").read_text(encoding="utf-8")
    options = [option for action in grade.parser()._actions for option in action.option_strings]
    assert not [option for option in options if f"`{option}" not in guide and option not in ("-h", "--help")]
    for name in ("class.html", "feedback/", "grades.csv", "canvas.csv", "moodle.csv", "records/"):
        assert name in guide


def test_without_a_sandbox_the_command_refuses(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(grade, "find_sandbox", lambda: None)
    monkeypatch.setattr(grade, "survey", lambda: {"bubblewrap": "not installed", "podman": "not installed"})
    assert grade.main([str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "bubblewrap: not installed" in error and "install bubblewrap" in error and "--unsafe" in error
    assert error.count("\n") == 1


def test_work_that_answers_could_read_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(grade, "find_sandbox", lambda: Sandbox("bubblewrap"))
    folder = python_folders()[0]
    assert (
        grade.main([folder]) == 2 and "which answers can read: move it elsewhere" in capsys.readouterr().err
    )


def test_work_in_a_folder_that_python_reaches_by_a_link_is_refused(monkeypatch, capsys, tmp_path):
    """As with a virtual environment that is a symbolic link: answers can read what the link leads to."""
    monkeypatch.setattr(grade, "find_sandbox", lambda: Sandbox("bubblewrap"))
    (tmp_path / "environment/class").mkdir(parents=True)
    (tmp_path / "link").symlink_to("environment")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "link"))
    for way in ("link", "environment"):
        status = grade.main([str(tmp_path / way / "class"), "--out", str(tmp_path / "grades")])
        assert status == 2 and "which answers can read" in capsys.readouterr().err
    assert not (tmp_path / "grades").exists()


@pytest.mark.parametrize("wrong", [["--jobs", "0"], ["--timeout", "0"], ["--due", "soon"]])
def test_wrong_options_are_one_line(tmp_path, capsys, wrong):
    assert grade.main([str(tmp_path), "--unsafe", *wrong]) == 2
    error = capsys.readouterr().err
    assert error.startswith("grade: --") and error.count("\n") == 1


class TestSandbox:
    def test_the_first_that_works_is_chosen(self, monkeypatch):
        found = {"bubblewrap": "no namespaces", "podman": ""}
        monkeypatch.setattr(sandbox, "survey", lambda: found)
        assert sandbox.find_sandbox() == Sandbox("podman")
        monkeypatch.setattr(sandbox, "survey", lambda: {"bubblewrap": "no namespaces"})
        assert sandbox.find_sandbox() is None

    def test_a_program_that_is_not_there_is_named_so(self, monkeypatch):
        monkeypatch.setenv("PATH", "/nonexistent")
        assert {name: sandbox.why_not(name) for name in ("bubblewrap", "podman", "docker")} == dict.fromkeys(
            ("bubblewrap", "podman", "docker"), "not installed"
        )

    def test_a_program_that_does_not_work_is_quoted(self, tmp_path, monkeypatch):
        (tmp_path / "bwrap").write_text("#!/bin/sh\necho 'No permission to make a namespace' >&2\nexit 1\n")
        (tmp_path / "bwrap").chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        reason = "installed, but it does not work here: No permission to make a namespace"
        assert sandbox.why_not("bubblewrap") == reason

    def test_containers_get_no_network_and_no_folder_that_they_can_write(self):
        command = sandbox.container("docker", "label", ["/opt/py"], {"A": "b"})
        for option in ("--network none", "--read-only", "--cap-drop ALL", "/opt/py:/opt/py:ro", "--env A=b"):
            assert option in " ".join(command)
        volumes = [command[i + 1] for i, word in enumerate(command) if word == "--volume"]
        assert all(volume.endswith(":ro") for volume in volumes)


class TestSimilar:
    CODE = (
        "def f(a, b):\n    total = 0\n    for i in range(3):\n"
        "        total += a[i] * b[i + 1] - 7\n    return total\n"
    )
    OTHER = "def f(a, b):\n    return sum(x * y for x, y in zip(a, b[1:])) - 21\n"
    THIRD = "def f(a, b):\n    import numpy\n    return numpy.dot(a, numpy.roll(b, 1)).item() // 1\n"

    def test_other_names_and_comments_do_not_hide_a_copy(self):
        copy = "# mine\n" + self.CODE.replace("total", "s").replace("range(3):", "range(3):  # loop")
        answers = {"amy": self.CODE, "bo": copy, "cy": self.OTHER, "di": self.THIRD}
        found = pairs({who: {"00.f": code} for who, code in answers.items()})
        assert [(pair.first, pair.second) for pair in found] == [("amy", "bo")] and found[0].share > 0.99

    def test_what_all_have_says_nothing(self):
        assert not pairs({who: {"00.f": self.CODE} for who in "abc"})

    def test_the_last_definition_that_is_no_stub(self):
        stub = 'def f(a):\n    raise NotImplementedError("your turn")\n'
        assert definition((self.OTHER + "\nx = 1", stub), "f").strip() == self.OTHER.strip()
