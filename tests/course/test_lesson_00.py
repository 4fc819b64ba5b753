"""Lesson 00: figures say what they show."""

import torch
from matplotlib.figure import Figure

from qdiff_lib.course.figures import lesson_00 as figures

WEIGHTS = torch.tensor([-1.0, -0.2, 0.0, 0.4, 0.5])


def test_number_line_counts_values_and_moves():
    figure = figures.number_line(WEIGHTS, bits=2)  # the grid is -1, -0.5, 0, 0.5
    assert isinstance(figure, Figure)
    assert "2 bits has 4 values, 0.5 apart. The 5 numbers use 3 of them" in figure.get_label()
    assert "move by at most 0.2." in figure.get_label()


def test_an_outlier_leaves_few_values_to_the_others():
    label = figures.with_and_without(WEIGHTS, outlier=100.0, bits=4).get_label()
    above, below = label.split("Below")
    assert "use 5 of them" in above and "one number is 100" in below and "use 2 of them" in below


def test_error_by_bits_names_both_ends():
    label = figures.error_by_bits([2, 8], [0.2, 0.004], [0.5, 0.01]).get_label()
    assert "from 0.004 at 8 bits to 0.2 at 2 bits" in label


def test_same_noise_measures_grey_levels():
    images = {bits: torch.full((3, 1, 8, 8), grey, dtype=torch.uint8) for bits, grey in ((32, 10), (4, 30))}
    label = figures.same_noise(images, {32: 9.0, 4: 1.1}).get_label()
    assert "Rows of 3 drawn clothes, with weights of 32, 4 bits" in label and "is 20 at 4 bits" in label


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
