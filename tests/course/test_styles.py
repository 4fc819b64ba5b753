"""One style in all lessons: cards, times, references, lesson numbers, letters."""

import re

import pytest

from tools.expansion import PREDICT, ROOT, SOURCES, is_exercise, lesson_names, read_source

NOTATION = ROOT / "docs" / "notation.md"
ROWS = ("You will be able to", "You need", "Time", "Memory", "In the paper")
EXERCISE = re.compile(r"\*Difficulty [1-5] of 5, importance [1-5] of 5, time: about \d+ minutes\.\*")
GREEK = "mu sigma nu tau rho kappa gamma zeta beta alpha".split()
COUNTERS = {"i", "n"}  # an index of a sum, a number of things
each_lesson = pytest.mark.parametrize("name", lesson_names())


def texts(name: str) -> list[str]:
    return [cell.source for cell in read_source(SOURCES / f"{name}.py") if cell.cell_type == "markdown"]


def letters(text: str) -> set[str]:
    """The letters of all formulas of a text: Latin letters, and names of Greek ones."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    found = set()
    for pair in re.findall(r"\$\$(.+?)\$\$|\$(.+?)\$", text, re.DOTALL):
        formula = re.sub(r"\\(text|mathrm)\{[^}]*\}", " ", "".join(pair))
        found |= {name for name in GREEK if re.search(rf"\\{name}(?![a-z])", formula)}
        found |= set(re.findall(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", " ", formula)))
    return found


@each_lesson
def test_card_has_the_rows_of_all_cards(name):
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", texts(name)[0], re.MULTILINE)
    assert [row for row, _ in rows] == list(ROWS)
    assert re.match(r"about \d+ minutes; the cells run in ", dict(rows)["Time"])
    assert "[Q-Diffusion](https://arxiv.org/abs/2302.04304)" in dict(rows)["In the paper"]


@each_lesson
def test_exercises_say_difficulty_importance_and_time(name):
    cells = read_source(SOURCES / f"{name}.py")
    stated = [
        EXERCISE.search(text.source)
        for text, code in zip(cells, cells[1:], strict=False)
        if is_exercise(code)
    ]
    assert len(stated) >= 2 and all(stated)


@each_lesson
def test_lesson_ends_with_annotated_links_and_the_next_lesson(name):
    last = texts(name)[-1]
    references = [part for part in last.partition("**Next:**")[0].split("\n- ")[1:]]
    assert last.startswith("## Read more\n") and "**Next:**" in last and 3 <= len(references) <= 6
    for reference in references:
        link = re.search(r"\[[^]]+\]\(https://[^)]+\)", reference)
        assert link and re.search(r"\b(19|20)\d\d\. \S", reference), reference


@each_lesson
def test_lessons_are_named_by_their_number_without_zeros(name):
    assert not re.findall(r"[Ll]essons? 0\d", "\n".join(texts(name)))


@each_lesson
def test_questions_ask_and_offer_answers(name):
    questions = [text.rpartition(PREDICT)[2] for text in texts(name) if PREDICT in text]
    assert len(questions) >= 2
    for question in questions:
        assert question.startswith(":** ") and "?" in question and "\n## " not in question, question


@each_lesson
def test_letters_are_those_of_the_page_of_notation(name):
    assert "../docs/notation.md" in texts(name)[0] + texts(name)[1]
    known = letters(NOTATION.read_text(encoding="utf-8")) | COUNTERS
    assert letters("\n".join(texts(name))) <= known


def test_a_new_letter_is_found():
    assert letters(r"$y = \psi(x)$, $\mathrm{clip}\,\tau$ and `$z`") >= {"y", "x", "tau"}
    assert not letters("```\n$k$\n```")


def test_page_of_notation_has_each_letter_and_term_once_with_korean_words():
    lines = NOTATION.read_text(encoding="utf-8").splitlines()
    rows = [line.strip("|").split(" | ") for line in lines if line.startswith("| ")]
    first = [row[0].strip() for row in rows]
    assert len(rows) > 60 and len(set(first) - {"letter", "term"}) >= len(rows) - 2
    korean = [row for row in rows if re.search("[가-힣]", " ".join(row))]
    assert len(korean) >= len(rows) - 3  # GPTQ has no Korean name
