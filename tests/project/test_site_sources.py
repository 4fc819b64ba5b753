"""What the site is made from: folded code, links, launch links, and the workflow that publishes it."""

import re
from pathlib import Path

import pytest
import yaml
from site_pages import small_repository

from tools.expansion import ROOT, Address
from tools.site import SiteError, Sources, build, stage
from tools.site_lessons import is_plumbing


@pytest.mark.parametrize(
    ("code", "folded"),
    [
        ("from a import b\nshow(b(1))", True),
        ('x = recorded("y")\nshow(f(x))\nprint(x.source())', True),
        ("import torch", False),
        ("y = f(x)\nshow(y)", False),
        ('check("00.a", a)', False),
    ],
)
def test_code_is_plumbing_if_it_only_shows(code, folded):
    assert is_plumbing(code) is folded


def test_a_link_to_no_file_is_refused(tmp_path):
    root = small_repository(tmp_path / "root", "[gone](docs/gone.md)")
    with pytest.raises(SiteError, match="README.md: the link to 'docs/gone.md' leads to no file"):
        build(tmp_path / "out", root)


@pytest.mark.slow
def test_a_warning_of_sphinx_is_an_error(tmp_path):
    build(tmp_path / "out", small_repository(tmp_path / "right", "`code`"))
    assert "<code" in (tmp_path / "out/index.html").read_text(encoding="utf-8")
    root = small_repository(tmp_path / "root", "{unknown}`role`")
    with pytest.raises(SiteError, match="Sphinx has warnings"):
        build(tmp_path / "out", root)


def test_a_published_course_has_launch_links_and_links_to_its_code(tmp_path):
    sources = Sources(ROOT, tmp_path / "pages", Address("owner/course", "v9"))
    stage(sources)
    lessons = sorted((ROOT / "notebooks").glob("*.ipynb"))
    assert lessons
    for lesson in lessons:
        text = (sources.folder / "notebooks" / lesson.name).read_text(encoding="utf-8")
        place = f"blob/v9/notebooks/{lesson.name}"
        assert f"[Open in Colab](https://colab.research.google.com/github/owner/course/{place})" in text
        assert "[Open in Binder](https://mybinder.org/v2/gh/owner/course/v9?" in text
    page = sources.relinked("[all](LICENSE) ![a badge](https://elsewhere.org/b.svg) `x`", Path("README.md"))
    assert page == "[all](https://github.com/owner/course/blob/v9/LICENSE) a badge `x`"


def test_the_workflow_builds_the_site_with_the_tested_versions():
    text = (ROOT / ".github/workflows/pages.yml").read_text(encoding="utf-8")
    jobs = yaml.safe_load(text)["jobs"]
    commands = "\n".join(step.get("run", "") for step in jobs["build"]["steps"])
    assert "python -m tools.site --out build/site" in commands and jobs["deploy"]["needs"] == "build"
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    found = [
        [line for line in lines if re.match(rule, line)] for rule in re.findall(r"grep -E '(.*?)'", commands)
    ]
    assert [line.partition("=")[0] for line in found[0]] == ["torch", "torchvision"]
    names = {line.partition("==")[0] for line in found[1]}
    assert {"sphinx", "myst-nb", "furo", "latex2mathml", "diffusers"} <= names
