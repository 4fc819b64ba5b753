"""The tables of lessons in both READMEs are those of the sources, and their links lead somewhere."""

import re

import pytest

from tools import contents
from tools.expansion import (
    ROOT,
    Address,
    SourceError,
    lesson_names,
    navigation,
    notebook_names,
    read_address,
)
from tools.notebooks import write_students

NOWHERE, SOMEWHERE = Address("", "v1"), Address("owner/name", "v1")
LESSON = """\
# %% [markdown]
# # Why {number}?
#
# {card}

# %% tags=["exercise"] exercise="{number}.answer"
def answer(x):
    # BEGIN SOLUTION
    return x + {number}
    # END SOLUTION
"""


@pytest.fixture
def sources(tmp_path):
    """Two lessons; returns a function that gives the second another card."""

    def write(card="| Time | about 45 minutes |"):
        (tmp_path / "01_b.py").write_text(LESSON.format(number="01", card=card).replace("01\n", "1\n"))
        return tmp_path

    (tmp_path / "00_a.py").write_text(LESSON.format(number="00", card="| Time | about 5 minutes; more |"))
    write()
    return write


@pytest.mark.parametrize("path", contents.pages(NOWHERE), ids=lambda path: str(path.relative_to(ROOT)))
def test_page_is_what_the_sources_give(path, monkeypatch):
    monkeypatch.delenv("COURSE_REPOSITORY", raising=False)
    expected = contents.pages(read_address())[path]
    assert path.read_text(encoding="utf-8") == expected, "run: python -m tools.contents"


def test_page_with_a_changed_row_is_stale():
    page = contents.pages(NOWHERE)[ROOT / "README.md"]
    changed = page.replace("| 40 |", "| 35 |", 1)
    assert changed != page and contents.renewed(changed, contents.table("notebooks/", NOWHERE)) == page


def test_rows_hold_number_question_minutes_and_functions(sources):
    rows = contents.table("", NOWHERE, sources()).splitlines()
    assert rows[2:] == [
        "| 0 | [Why 00?](00_a.ipynb) | 5 | `answer` |",
        "| 1 | [Why 01?](01_b.ipynb) | 45 | `answer` |",
    ]
    assert len({row.count("|") for row in rows}) == 1


def test_badges_where_the_course_has_an_address(sources):
    with_badges = contents.table("notebooks/", SOMEWHERE, sources())
    assert "github/owner/name/blob/v1/notebooks/01_b.ipynb" in with_badges
    assert "mybinder.org/v2/gh/owner/name/v1?urlpath=lab/tree/notebooks/01_b.ipynb" in with_badges
    assert len({row.count(" | ") for row in with_badges.splitlines()}) == 1
    assert "colab" not in contents.table("notebooks/", NOWHERE, sources())
    pages = contents.pages(SOMEWHERE)
    assert "colab-badge" in pages[ROOT / "README.md"]
    assert "colab-badge" not in pages[ROOT / "notebooks" / "README.md"]


def test_a_card_without_minutes_is_refused(sources):
    with pytest.raises(SourceError, match="01_b.py.*Time . about NN minutes"):
        contents.table("", NOWHERE, sources(card="some time"))


@pytest.mark.parametrize("page", ["", contents.BEGIN, f"{contents.BEGIN}\nno end", f"{contents.END}\n"])
def test_a_page_without_marks_is_refused(page):
    with pytest.raises(ValueError, match="needs the lines"):
        contents.renewed(page, "| |")


def test_links_of_the_contents_page_work_in_the_student_folder(tmp_path):
    write_students(tmp_path)
    lessons = [f"{name}.ipynb" for name in notebook_names()]
    for page in ("README.md", *lessons):
        text = (tmp_path / page).read_text(encoding="utf-8")
        links = {link for link in re.findall(r"\]\(([^)#]+)\)", text) if not link.startswith("http")}
        assert links >= ({*lessons, "notation.md"} if page == "README.md" else {"README.md", "notation.md"})
        assert all((tmp_path / link).is_file() for link in links), page


def test_all_lessons_of_the_course_are_there():
    assert [name[:2] for name in lesson_names()] == ["00", "01", "02", "03", "04", "05", "06", "07"]


def test_the_capstone_comes_last_and_has_no_number():
    names = notebook_names()
    assert names == [*lesson_names(), "capstone"]
    row = contents.table("", NOWHERE).splitlines()[-1]
    assert row.startswith("| capstone | [How well ") and row.endswith(" | 90 | your own recipe |")
    links = navigation("capstone", names, NOWHERE).source
    assert links == "[← 7 build adaround](07_build_adaround.ipynb) · [Contents](README.md)"
    assert "[capstone →](capstone.ipynb)" in navigation(names[-2], names, NOWHERE).source
