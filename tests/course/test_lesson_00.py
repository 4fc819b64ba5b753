"""Lesson 00: wrong answers get the right message, right ones pass, figures say what they show."""

import math

import pytest
import torch
from matplotlib.figure import Figure

from qdiff_lib.course.checks import Verdict, check
from qdiff_lib.course.figures import lesson_00 as figures


def bytes_of_bit_string(count, bits, channels):
    """Right, and written with strings."""
    codes = "0" * (count * bits)
    return len(range(0, len(codes), 8)) + 2 * 4 * channels


def dot_by_formula(q_w, z_w, q_x, z_x):
    """Right: the product multiplied out, which integer hardware does."""
    w, x = q_w.long(), q_x.long()
    return w @ x - z_x * w.sum() - z_w * x.sum() + len(w) * z_w * z_x


RIGHT = [
    ("00.file_bytes", bytes_of_bit_string),
    ("00.file_bytes", lambda count, bits, channels: math.ceil(count * bits / 8) + 8 * channels),
    ("00.file_bytes", lambda count, bits, channels: float((count * bits + 7) // 8 + channels * 8)),
    ("00.integer_dot", dot_by_formula),
    (
        "00.integer_dot",
        lambda q_w, z_w, q_x, z_x: sum(
            (int(w) - z_w) * (int(x) - z_x) for w, x in zip(q_w, q_x, strict=True)
        ),
    ),
    ("00.integer_dot", lambda q_w, z_w, q_x, z_x: float((q_w.double() - z_w) @ (q_x.double() - z_x))),
]
WRONG = [
    ("00.file_bytes", lambda n, b, c: n * b + 8 * c, "a byte has 8"),
    ("00.file_bytes", lambda n, b, c: n * b, "a byte has 8"),
    ("00.file_bytes", lambda n, b, c: -(-n * b // 8), "each channel also needs"),
    ("00.file_bytes", lambda n, b, c: -(-n * b // 8) + 4 * c, "each channel also needs"),
    ("00.file_bytes", lambda n, b, c: -(-n * b // 8) + 8, "for each channel, not one pair for all"),
    ("00.file_bytes", lambda n, b, c: n * b // 8 + 8 * c, "round up"),
    ("00.file_bytes", lambda n, b, c: n * b / 8 + 8 * c, "round up"),
    ("00.file_bytes", lambda n, b, c: n + 8 * c, "add the bytes of the packed codes"),
    ("00.file_bytes", lambda n, b: n * b, "raised TypeError"),
    ("00.integer_dot", lambda a, b, c, d: (a.int() * c.int()).sum().item(), "subtract the zero points"),
    ("00.integer_dot", lambda a, b, c, d: ((a - b) * (c - d)).sum().item(), "wraps around"),
    (
        "00.integer_dot",
        lambda a, b, c, d: (a.int() * c.int()).sum().item() - b * d * len(a),
        "from its own code",
    ),
    (
        "00.integer_dot",
        lambda a, b, c, d: (a.int() - b).sum().item() * (c.int() - d).sum().item(),
        "multiply code by code",
    ),
    ("00.integer_dot", lambda a, b, c, d: (a.int() - b) * (c.int() - d), "return one whole number"),
    ("00.integer_dot", lambda a, b, c, d: 0.1 * ((a.int() - b) @ (c.int() - d)), "without scales"),
]


@pytest.mark.parametrize("name, answer", RIGHT)
def test_right_answers_pass(name, answer):
    assert check(name, answer).verdict is Verdict.RIGHT, check(name, answer)


@pytest.mark.parametrize("name, answer, message", WRONG)
def test_wrong_answers_get_the_message_for_their_mistake(name, answer, message):
    outcome = check(name, answer)
    assert outcome.verdict is Verdict.WRONG and message in outcome.message, outcome


WEIGHTS = torch.tensor([-1.0, -0.2, 0.0, 0.4, 0.5])


def test_number_line_counts_values_and_moves():
    figure = figures.number_line(WEIGHTS, bits=2)  # the grid is -1, -0.5, 0, 0.5
    assert isinstance(figure, Figure)
    assert "2 bits has 4 values, 0.5 apart; the 5 numbers use 3 of them" in figure.get_label()
    assert "move by at most 0.2." in figure.get_label()


def test_an_outlier_leaves_few_values_to_the_others():
    label = figures.with_and_without(WEIGHTS, outlier=100.0, bits=4).get_label()
    above, below = label.split("Below")
    assert "use 5 of them" in above and "one number at 100" in below and "use 2 of them" in below


def test_error_by_bits_names_both_ends():
    label = figures.error_by_bits([2, 8], [0.2, 0.004], [0.5, 0.01]).get_label()
    assert "from 0.004 at 8 bits to 0.2 at 2 bits" in label


def test_same_noise_measures_grey_levels():
    images = {bits: torch.full((3, 1, 8, 8), grey, dtype=torch.uint8) for bits, grey in ((32, 10), (4, 30))}
    label = figures.same_noise(images, {32: 9.0, 4: 1.1}).get_label()
    assert "Rows of 3 drawn clothes at 32, 4 bits" in label and "is 20 at 4 bits" in label


def test_grey_distance_does_not_wrap_around():
    black, white = (
        torch.zeros(2, 1, 4, 4, dtype=torch.uint8),
        torch.full((2, 1, 4, 4), 255, dtype=torch.uint8),
    )
    assert figures.grey_distance(black, white) == figures.grey_distance(white, black) == 255


def test_drawing_says_what_is_left_of_the_noise():
    trajectory = torch.randn(5, 2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    trajectory[-1] = 0.5
    figure = figures.drawing(trajectory, [1, 3, 5])
    assert "2 rows" in figure.get_label() and "in 5 steps" in figure.get_label()
    assert figure.get_label().endswith("to 0.00.")
    assert [tick.get_text() for tick in figure.axes[-1].get_xticklabels()] == ["step 1", "step 3", "step 5"]
