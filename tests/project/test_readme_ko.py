"""README.ko.md says what README.md says: the same sections, commands, code, numbers and links."""

import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
ENGLISH = (ROOT / "README.md").read_text(encoding="utf-8")
KOREAN = (ROOT / "README.ko.md").read_text(encoding="utf-8")


def levels(page: str) -> list[int]:
    return [len(marks) for marks in re.findall(r"^(#+) ", page, re.MULTILINE)]


def code_blocks(page: str) -> list[str]:
    """The text of all blocks of code, in order."""
    return [token.content for token in MarkdownIt().parse(page) if token.type in ("code_block", "fence")]


def sections(page: str) -> list[str]:
    return re.split(r"^#+ .*$", page, flags=re.MULTILINE)


def code_words(text: str) -> list[str]:
    return sorted(set(re.findall(r"`[^`]+`", text)))


def links(page: str) -> list[str]:
    return [target for target in re.findall(r"\]\(([^)]+)\)", page) if not target.startswith("README")]


def rows(page: str) -> list[list[str]]:
    return [line.split("|") for line in page.splitlines() if line.startswith("|")]


def numbers(cell: str) -> list[str]:
    return re.findall(r"\d+(?:[.,]\d+)*", cell)


def test_headings_have_the_same_levels():
    assert levels(KOREAN) == levels(ENGLISH) and len(levels(KOREAN)) > 8


def test_code_and_commands_are_the_same():
    assert code_blocks(KOREAN) == code_blocks(ENGLISH) and len(code_blocks(KOREAN)) > 8


def test_each_section_names_the_same_code():
    for english, korean in zip(sections(ENGLISH), sections(KOREAN), strict=True):
        assert code_words(korean) == code_words(english)


def test_links_and_pictures_are_the_same():
    assert sorted(links(KOREAN)) == sorted(links(ENGLISH))
    assert all(
        (ROOT / link.partition("#")[0]).exists() for link in links(KOREAN) if not link.startswith("http")
    )
    assert "(README.ko.md)" in ENGLISH and "(README.md)" in KOREAN


def test_tables_have_the_same_rows_and_numbers():
    for english, korean in zip(rows(ENGLISH), rows(KOREAN), strict=True):
        assert list(map(numbers, korean)) == list(map(numbers, english)), korean


@pytest.mark.parametrize("page", [ENGLISH, KOREAN])
def test_each_section_is_written_in_its_language(page):
    for section in sections(page)[1:]:
        prose = re.sub(r"^    .*$|`[^`]*`|\]\([^)]*\)", "", section, flags=re.MULTILINE)
        assert bool(re.search(r"[가-힣]{2}", prose.replace("한국어", ""))) == (page is KOREAN)
