"""Figures have their alt texts in pages that nbconvert makes of the notebooks, by either of its templates."""

import os
import re
import subprocess
import sys
from html import unescape

import nbformat
import pytest

from tools.expansion import ROOT, lesson_names

SETTINGS = "tools/jupyter"  # relative to the root, as the Makefile has it
NONE = "No description has been provided"


def exported(name: str, template: str, folder, settings=SETTINGS) -> list[str]:
    """The alt texts of a notebook's page, in order; folder: of the page. settings: None for none."""
    environment = dict(os.environ)
    environment.pop("JUPYTER_CONFIG_PATH", None)
    if settings:
        environment["JUPYTER_CONFIG_PATH"] = settings
    command = [sys.executable, "-m", "jupyter", "nbconvert", "--to", "html", "--template", template]
    command += [f"--output-dir={folder}", str(ROOT / "notebooks" / f"{name}.ipynb")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    page = (folder / f"{name}.html").read_text(encoding="utf-8")
    images = re.findall(r"<img[^>]*>", page)
    return [unescape(re.search(r'alt="([^"]*)"', image)[1]) for image in images]


def stored(name: str) -> list[str]:
    """The alt texts in the notebook, in order."""
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [out.metadata["image/png"]["alt"] for out in outputs if "image/png" in out.get("data", {})]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.exhaustive) if i else name
        for i, name in enumerate(lesson_names())
    ],
)
def test_every_figure_has_its_alt_text_in_the_default_template(name, tmp_path):
    assert exported(name, "lab", tmp_path) == stored(name) != []


@pytest.mark.slow
def test_the_classic_template_reads_them_without_the_settings(tmp_path):
    name = lesson_names()[0]
    assert exported(name, "classic", tmp_path, settings=None) == stored(name)


@pytest.mark.slow
def test_the_default_template_needs_the_settings(tmp_path):
    found = exported(lesson_names()[0], "lab", tmp_path, settings=None)
    assert found and all(alt.startswith(NONE) for alt in found), (
        "nbconvert reads alt texts now: drop the settings"
    )


def test_make_lab_uses_the_settings():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    lab = makefile.partition("\nlab:")[2].partition("\n\n")[0]
    assert f"JUPYTER_CONFIG_PATH={SETTINGS} " in lab and (ROOT / SETTINGS / "jupyter_config.py").is_file()
