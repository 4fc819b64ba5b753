"""The bootstrap cell on Colab, with a faked google.colab and a pip that only records what it is asked for."""

import importlib.metadata
import json
import os
import subprocess
import sys

import pytest
from packaging.requirements import Requirement

from qdiff_lib.cli import colab
from qdiff_lib.cli.colab import KEPT
from tools.expansion import ROOT, Address, bootstrap, lesson_names

PUBLISHED, UNPUBLISHED = Address("some-owner/some.course", "v1.2.3"), Address("", "v1.2.3")
ON_COLAB = "import sys, types; sys.modules['google.colab'] = types.ModuleType('google.colab')"

PIP = '''\
"""Record the arguments; on "installing" the course, put a stand-in for it beside this module."""
import json, pathlib, shutil, sys

here, arguments = pathlib.Path(__file__).parent, sys.argv[1:]
if "--constraint" in arguments:
    arguments.append(pathlib.Path(arguments[arguments.index("--constraint") + 1]).read_text())
with open(here / "calls", "a") as calls:
    calls.write(json.dumps(arguments) + "\\n")
if (here / "broken").exists():
    sys.exit("no network")
if "--no-deps" in arguments:
    shutil.copytree(here / "to_install", here, dirs_exist_ok=True)
'''
COURSE = """\
check = claim = explore = hints = progress = quiz = recorded = show = None

def start(name):
    print("started", name)
"""
METADATA = """\
Metadata-Version: 2.3
Name: qdiff_lib
Version: 1.2.3
Requires-Dist: torch>=999
Requires-Dist: torchvision
Requires-Dist: numpy>=999
Requires-Dist: packaging>=1
Requires-Dist: a-missing-one>=1.5
Requires-Dist: packaging>=999
Requires-Dist: jupyterlab>=999; extra == 'course'
"""


@pytest.fixture
def site(tmp_path):
    """A folder of modules in which the course is not installed; its pip records and makes it appear."""
    files = {
        "pip.py": PIP,
        "to_install/qdiff_lib/__init__.py": "",
        "to_install/qdiff_lib/cli/__init__.py": "",
        "to_install/qdiff_lib/cli/colab.py": (ROOT / "qdiff_lib/cli/colab.py").read_text(encoding="utf-8"),
        "to_install/qdiff_lib/course/__init__.py": COURSE,
        "to_install/qdiff_lib-1.2.3.dist-info/METADATA": METADATA,
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def run_bootstrap(site, address, times=1, before=ON_COLAB):
    """Run the cell in a new Python; the result, and the arguments of each call of pip.

    -S hides the installed packages from the notebook's own process, so that the course is not there yet.
    """
    code = "\n".join([before, *[bootstrap("03_some_lesson", address, ["import math"]).source] * times])
    environment = {**os.environ, "PYTHONPATH": str(site)}
    python = [sys.executable, "-S", "-c", code]
    done = subprocess.run(python, cwd=site, env=environment, capture_output=True, text=True)
    calls = site / "calls"
    return done, list(map(json.loads, calls.read_text().splitlines())) if calls.exists() else []


def test_the_course_comes_by_its_tag_and_torch_stays(site):
    done, (course, rest) = run_bootstrap(site, PUBLISHED)
    assert done.returncode == 0 and done.stdout == "started 03_some_lesson\n", done.stderr
    url = "git+https://github.com/some-owner/some.course@v1.2.3"
    assert course == ["install", "--quiet", "--no-deps", url]
    *options, held = rest
    assert options[:3] == ["install", "--quiet", "--constraint"]
    assert options[4:] == ["a-missing-one>=1.5", "packaging>=999"]
    assert held == "".join(f"{name}=={importlib.metadata.version(name)}\n" for name in KEPT)
    assert set(KEPT) == {"torch", "torchvision", "numpy"}


def test_a_second_run_of_the_cell_installs_nothing_more(site):
    done, calls = run_bootstrap(site, PUBLISHED, times=2)
    assert done.stdout == "started 03_some_lesson\n" * 2 and len(calls) == 2


def test_elsewhere_nothing_is_installed(site):
    done, calls = run_bootstrap(site, PUBLISHED, before="")
    assert "qdiff_lib" in done.stderr.splitlines()[-1] and calls == []


def test_a_failed_installation_stops_the_cell(site):
    (site / "broken").touch()
    done, calls = run_bootstrap(site, PUBLISHED)
    assert done.returncode != 0 and "no network" in done.stderr and len(calls) == 1
    assert "CalledProcessError" in done.stderr and "started" not in done.stdout


def test_without_an_address_the_cell_says_what_to_set(site):
    done, calls = run_bootstrap(site, UNPUBLISHED)
    assert calls == [] and "RuntimeError" in done.stderr
    for words in ("repository", "[tool.course]", "pyproject.toml", "make notebooks"):
        assert words in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("address", [PUBLISHED, UNPUBLISHED], ids=["published", "unpublished"])
def test_the_cell_is_short_and_the_same_in_all_lessons(address):
    cells = {bootstrap(name, address, []).source.replace(f'"{name}"', "NAME") for name in lesson_names()}
    (code,) = cells
    assert len(code.splitlines()) <= 20 and max(map(len, code.splitlines())) <= 110
    assert code.endswith("lesson = start(NAME)")


class TestComplete:
    """What is installed after the course itself."""

    @pytest.fixture
    def requires(self, monkeypatch):
        """Sets the requirements of qdiff_lib."""

        def put(*lines):
            monkeypatch.setattr(importlib.metadata, "requires", lambda name: list(lines))

        return put

    @pytest.fixture
    def ran(self, monkeypatch):
        """The commands that would have been run."""
        commands = []
        monkeypatch.setattr(colab.subprocess, "run", lambda command, check: commands.append(command))
        return commands

    def test_nothing_to_do(self, requires, ran):
        requires("torch>=999", "numpy>=999", "torchvision>=999", "packaging>=1", "absent; extra == 'hub'")
        colab.complete()
        assert colab.missing() == [] and ran == []

    def test_old_and_absent_ones(self, requires, ran):
        requires("absent", "packaging>=999", "packaging<999")
        colab.complete()
        assert ran[0][:4] == [sys.executable, "-m", "pip", "install"]
        assert ran[0][-2:] == ["absent", "packaging>=999"]

    def test_a_prerelease_that_is_there_is_kept(self, monkeypatch):
        monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.0.0rc1")
        assert colab.satisfied(Requirement("anything>=1.9"))

    def test_all_of_the_package_is_looked_at(self):
        assert colab.missing() == []  # the tests run where everything is installed
        assert {"diffusers", "torch-fidelity"} <= {
            Requirement(line).name for line in importlib.metadata.requires("qdiff_lib")
        }
