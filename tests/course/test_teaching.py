"""The teacher's guide says what is: minutes, messages of checks, the rubric, and the sample answers."""

import re
from collections.abc import Iterator

import pytest
from solutions import ANSWERS

from qdiff_lib.course import capstone
from qdiff_lib.course.checks import check
from qdiff_lib.course.recorded import recorded
from tools.contents import minutes
from tools.expansion import ROOT, SOURCES, lesson_names, read_source

GUIDE = (ROOT / "docs/teaching.md").read_text(encoding="utf-8")
ANSWER_PAGE = (ROOT / "docs/capstone-answers.md").read_text(encoding="utf-8")
NOTEBOOK = "\n".join(cell.source for cell in read_source(SOURCES / "capstone.py"))
QUOTES = [
    (number, function, quote)
    for number, part in re.findall(r"^### Lesson (\d): .*?\n(.*?)(?=^##)", GUIDE, re.MULTILINE | re.DOTALL)
    for function, quoted in re.findall(r'`(\w+)`: ("[^|]*")', part)
    for quote in re.findall(r'"([^"]+)"', quoted)
]


def messages(exercise: str, quote: str) -> Iterator[str]:
    """What the check says to each wrong answer of the tests, likely holders of the quote first."""
    lists = [module.WRONG.get(exercise, []) for module in ANSWERS]
    found = sorted((each for one in lists for each in one), key=lambda each: each[1] not in quote)
    return (" ".join(str(check(exercise, answer)).split()) for answer, _ in found)


def table(text: str, head: str) -> list[list[str]]:
    """The rows of the table whose first row begins with ``head``."""
    lines = text[text.index(f"| {head} |") :].partition("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip().strip("|").split(" | ")] for line in lines[2:]]


def test_the_plan_has_every_lesson_with_its_minutes():
    plan = " ".join(" ".join(row) for row in table(GUIDE, "week"))
    for name in lesson_names():
        first = read_source(SOURCES / f"{name}.py")[0].source
        stated = f"lesson {int(name[:2])}"
        assert stated in plan
        found = {int(number) for number in re.findall(rf"{stated} \((\d+) minutes", plan)}
        assert found == {minutes(first, name)}, name
    card = read_source(SOURCES / "capstone.py")[0].source
    assert f"the capstone ({minutes(card, 'capstone')} minutes" in plan


@pytest.mark.parametrize("number", range(8))
def test_each_lesson_has_misconceptions_with_their_messages(number):
    assert sum(int(found) == number for found, _, _ in QUOTES) >= 2


@pytest.mark.parametrize(("number", "function", "quote"), QUOTES)
def test_a_quoted_message_is_one_of_the_check(number, function, quote):
    assert any(quote in message for message in messages(f"0{number}.{function}", quote))


def test_the_rubric_is_that_of_the_notebook_and_of_the_score():
    rubric = table(NOTEBOOK.replace("\n# ", "\n"), "part")
    assert rubric == table(GUIDE, "part") and len(rubric) == 4
    worth = [int(re.search(r"\((\d+)\)", row[0])[1]) for row in rubric]
    stated = [int(number) for number in re.findall(r"^### .* \((\d+) points\)$", NOTEBOOK, re.MULTILINE)]
    assert worth == stated and worth[0] == capstone.POINTS and sum(worth) == 20
    assert f"{capstone.FULL:g} dB on" in rubric[0][1] and f"{capstone.NONE:g} dB or less" in rubric[0][3]


def test_the_task_states_the_budgets_and_how_it_is_measured():
    task = NOTEBOOK.partition("## How you are measured")[0]
    assert f"{capstone.MOST_BYTES:,} bytes" in task and capstone.MODEL in task
    assert f"{capstone.MOST_BIT_OPERATIONS / 1e9:g} G bit operations" in task
    assert f"draw {capstone.IMAGES} pictures" in NOTEBOOK and f"in {capstone.STEPS} steps of DDIM" in NOTEBOOK


class TestSampleAnswers:
    """Their numbers are recorded: see ``experiments/sample_answers.py``."""

    DATA = recorded("capstone").data

    @pytest.mark.parametrize("name", ["A", "B"])
    def test_the_page_has_the_recorded_numbers(self, name):
        part = ANSWER_PAGE.partition(f"## Answer {name}")[2].partition("\n## ")[0]
        rows = table(part, "run")
        assert len(rows) == len(self.DATA["answers"][name]["rows"])
        for row, made in zip(rows, self.DATA["answers"][name]["rows"], strict=True):
            assert row[0] == made["label"] and row[1].strip("`") == made["changes"]
            assert row[2] == f"{made['decibels']:.2f} ± {made['spread']:.2f}"
            assert row[3] == f"{made['bytes']:,}"
        final = self.DATA["answers"][name]["handed_in"]
        assert f"{final['decibels']:.2f} dB (± {final['spread']:.2f})" in part
        assert f"{final['bytes']:,} bytes" in part

    def test_the_points_are_those_of_the_score(self):
        for name, answer in self.DATA["answers"].items():
            made = answer["handed_in"]
            score = capstone.Score(
                made["bytes"], made["bit_operations"], made["error"], made["decibels"], 0, None
            )
            assert made["points"] == score.points
            part = ANSWER_PAGE.partition(f"## Answer {name}")[2].partition("\n## ")[0]
            grades = [float(row[1]) for row in table(part, "part")]
            assert grades[0] == score.points and f"**{sum(grades):g} of 20 points**" in part

    def test_the_defaults_alone_do_not_reach_all_points(self):
        for row in self.DATA["defaults"]:
            beyond = row["bytes"] > capstone.MOST_BYTES
            assert beyond or row["decibels"] < capstone.FULL
        best = max(answer["handed_in"]["decibels"] for answer in self.DATA["answers"].values())
        allowed = [row for row in self.DATA["defaults"] if row["bytes"] <= capstone.MOST_BYTES]
        assert best > max(row["decibels"] for row in allowed) + 3

    def test_each_row_holds_what_its_text_says(self):
        """On both seeds: edges and time embedding help; with 3-bit edges the whole-network stage harms."""
        for number in ("decibels", "again"):
            base, edges, embedding = (row[number] for row in self.DATA["answers"]["A"]["rows"][:3])
            spread = 0.6
            assert base + 2 * spread < edges and edges + 2 * spread < embedding
            assert self.DATA["answers"]["B"]["rows"][1][number] < base - 2 * spread

    def test_the_notebook_and_the_guide_link_the_page(self):
        assert "capstone-answers.md" in GUIDE and "teaching.md" in ANSWER_PAGE
