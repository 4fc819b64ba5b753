"""The course accepts what Colab had at a stated date: it replaces old packages, and never Colab's torch."""

import ast
import importlib.metadata
import json
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from qdiff_lib.cli import colab
from tools.expansion import ROOT

RECORD = json.loads(Path(__file__).with_name("colab_versions.json").read_text(encoding="utf-8"))
VERSIONS = RECORD["versions"]


@pytest.fixture
def on_colab(monkeypatch):
    """Makes the installed versions those of Colab; what is not in the record is not installed."""

    def version(name):
        if name not in VERSIONS:
            raise importlib.metadata.PackageNotFoundError(name)
        return VERSIONS[name]

    requirements = importlib.metadata.requires("qdiff_lib")
    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: requirements)


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_record_says_where_and_when():
    assert RECORD["source"].startswith("https://github.com/googlecolab/backend-info/")
    assert RECORD["commit"] in RECORD["source"] and RECORD["date"] == "2026-08-19"
    assert {"torch", "torchvision", "numpy", "matplotlib", "ipywidgets"} <= set(VERSIONS)


def test_the_course_runs_on_colabs_python():
    assert SpecifierSet(project()["requires-python"]).contains(RECORD["python"])


def test_what_colab_keeps_is_new_enough():
    """The bootstrap never replaces these, so Colab's own versions must do."""
    needed = {r.name: r for r in map(Requirement, project()["dependencies"])}
    for name in colab.KEPT:
        assert needed[name].specifier.contains(VERSIONS[name]), (name, VERSIONS[name])


def test_figures_use_only_what_colabs_ipython_knows():
    """Its class Image has no argument ``alt``."""
    used = set()
    for path in (ROOT / "qdiff_lib" / "course").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Shown":
                used |= {keyword.arg for keyword in node.keywords}
    assert "metadata" in used and used <= set(RECORD["arguments of IPython.display.Image"])


def test_only_what_is_missing_or_old_is_installed(on_colab, monkeypatch):
    commands = []
    monkeypatch.setattr(colab.subprocess, "run", lambda command, check: commands.append(command))
    assert {Requirement(line).name for line in colab.missing()} == {"diffusers", "torch-fidelity"}
    colab.complete()
    (command,) = commands
    assert not {Requirement(line).name for line in command[-2:]} & set(colab.KEPT)


@pytest.mark.parametrize("name", ["torch", "numpy", "torchvision"])
def test_an_old_version_of_what_colab_keeps_is_left_alone(on_colab, monkeypatch, name):
    monkeypatch.setitem(VERSIONS, name, "0.1")
    assert name not in {Requirement(line).name for line in colab.missing()}
