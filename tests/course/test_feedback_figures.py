"""Figures on the pages of feedback: for answers that are rows of numbers, and safe for whatever they hold."""

import json
from dataclasses import asdict
from xml.etree import ElementTree

import pytest
import torch
from solutions import CELLS, WRONG

from qdiff_lib.course.checks import Curve, check
from qdiff_lib.course.grading.book import Grade, recorded
from qdiff_lib.course.grading.curves import drawn
from qdiff_lib.course.grading.pages import feedback
from qdiff_lib.course.grading.roster import Student
from qdiff_lib.course.grading.verdicts import Judged

WITH_FIGURE = {  # exercises whose answer is a row of numbers
    "01.accumulated_variance": "step",
    "01.snr_per_step": "step",
    "03.uniform_counts": "step",
    "05.decide_codes": "weight",
    "06.folded_bias": "channel",
    "06.requantize": "sum",
}


def elements(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(f"<div>{svg}</div>")


def page_of(curve: Curve | None) -> str:
    student = Student("1", "amy", "")
    grade = Grade(student, "01", "01.snr_per_step", "wrong", "no <b>", 4, "x.ipynb", False, curve)
    return feedback(student, [grade])


@pytest.mark.parametrize("name, axis", WITH_FIGURE.items())
def test_wrong_rows_of_numbers_have_a_curve(name, axis):
    curves = [check(name, answer).curve for answer, _ in WRONG[name]]
    found = [curve for curve in curves if curve]
    assert len(found) >= 3 and {curve.axis for curve in found} == {axis}
    for curve in found:
        assert len(curve.found) == len(curve.expected) > 1 and curve.found != curve.expected


@pytest.mark.parametrize(
    "name",
    [name if name in WITH_FIGURE else pytest.param(name, marks=pytest.mark.exhaustive) for name in CELLS],
)
def test_every_curve_can_be_drawn_and_recorded(name):
    for answer, _ in WRONG[name]:
        if curve := check(name, answer).curve:
            assert "Yours" in "".join(elements(drawn(curve)).itertext())
            judged = Judged(name, "wrong", "no", curve)
            assert recorded(json.loads(json.dumps(asdict(judged)))) == judged


def test_the_page_has_the_figure_with_its_words_below_the_message():
    curve = Curve("step", (1.0, 2.0, 9.0), (1.0, 2.0, 3.0))
    page = page_of(curve)
    assert page.index("no &lt;b&gt;") < page.index("<svg role=")
    assert page.count("3 numbers, by step. 1 of yours: outside of the figure.") == 2  # title and caption
    assert "<svg" not in page_of(None)


@pytest.mark.parametrize(
    "found",
    [(None, None), (1e308, -1e308), (float(2**1000), 0.0), (0.0, 1e-320)],
    ids=["no numbers", "large", "huge", "tiny"],
)
@pytest.mark.parametrize("expected", [(0.0, 0.0), (1.0, 2.0), (5.0, 5.0)])
def test_hostile_numbers_stay_inside_of_the_figure(found, expected):
    svg = elements(drawn(Curve("<script>", found, expected)))
    for circle in svg.iter("circle"):
        assert 0 <= float(circle.get("cx")) <= 480 and 0 <= float(circle.get("cy")) <= 180
    assert not list(svg.iter("script"))


def test_long_rows_are_cut():
    row = tuple(torch.arange(500.0).tolist())
    svg = elements(drawn(Curve("step", row, row)))
    assert len(list(svg.iter("circle"))) == 200 and "The first 100 are drawn." in "".join(svg.itertext())
