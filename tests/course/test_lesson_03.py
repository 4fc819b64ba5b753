"""Lesson 3: the toy's numbers, and figures that say what they show."""

import pytest
import torch

from qdiff_lib.course.exercises import lesson_03 as lesson
from qdiff_lib.course.figures import lesson_03 as figures
from qdiff_lib.diffusion.sampling import noise_generators


def test_the_librarys_streams_are_those_of_the_exercise():
    for role, name in enumerate(("evaluation", "calibration")):
        (generator,) = noise_generators(3, 5, 1, name)
        assert generator.initial_seed() == role << 31 | 3 << 20 | 5


def test_few_inputs_flatter_and_many_do_not():
    generator = torch.Generator().manual_seed(0)
    moments = torch.eye(3, dtype=torch.float64).expand(4, 3, 3)
    ups = torch.cartesian_prod(*[torch.arange(2.0, dtype=torch.float64)] * 3)
    d = ups - torch.rand(50, 1, 3, generator=generator, dtype=torch.float64)  # (50, 8, 3)
    best = d.square().sum(-1).amin(-1).mean().item()  # white inputs: nearest is best
    own, true = lesson.own_and_true(d, moments, 3, 40, generator)
    assert own < best < true
    own, true = lesson.own_and_true(d, moments, 5000, 4, generator)
    assert own == pytest.approx(best, rel=0.05) and best <= true <= 1.01 * best


# Figures


def test_strip_chart():
    label = figures.strip_chart({"uniform": torch.tensor([2, 2, 2, 2]), "last 1": torch.tensor([0, 0, 0, 8])})
    assert "from 4 steps" in label.get_label()
    assert "uniform 8 inputs, at 4 steps from 1 to 4; last 1 8 inputs, all at step 4" in label.get_label()


def test_by_step_gives_means_over_nearest():
    errors = {"uniform": torch.tensor([1.0, 1.0]), "first 1": torch.tensor([2.0, 6.0])}
    figure = figures.by_step(errors, torch.tensor([2.0, 2.0]), "layer")
    assert "uniform 0.500; first 1 2.000" in figure.get_label()
    lines = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    assert list(lines["first 1"]) == [1, 3]


def test_coverage_names_the_worst():
    covered = {"a": torch.tensor([1.0, 0.9]), "b": torch.tensor([0.4, 1.0])}
    figure = figures.coverage(torch.tensor([0, 8]), covered, "last 1")
    assert figure.get_label() == "Least covered is step 1 of b: 40% of its range."


def test_own_and_true_figure():
    label = figures.own_and_true([4, 64], [0.1, 0.5], [1.5, 0.6], 0.55, 0.7).get_label()
    assert "With 4 inputs the error seems to be 0.1 and is 1.5. With 64" in label
    assert "best rounding has 0.55, nearest has 0.7" in label


def test_one_step_figure():
    label = figures.one_step({"toy": torch.tensor([2.0, 1.0, 4.0])}).get_label()
    assert "toy from 1.00 at step 2 to 4.00 at step 3" in label


def test_recorded_rules():
    keys = ("rule", "share", "label", "trajectory_mse", "frechet")
    rows = [
        ("uniform", None, "uniform", 0.01, 3.0),
        ("single", None, "step 10 alone", 0.04, 5.0),
        ("last", 0.5, "last 50%", 0.02, 3.5),
        ("last", 0.1, "last 10%", 0.05, 6.0),
    ]
    seeds = [dict(trajectory_mse=mse, frechet=3.0) for mse in (0.01, 0.03, 0.015)]
    data = dict(weights=4, activations=8, n=128, samples=256, floor=0.8, seeds=seeds)
    figure = figures.recorded_rules({**data, "rows": [dict(zip(keys, row, strict=True)) for row in rows]})
    assert "last 10% 0.05 and 6; Floor" not in figure.get_label()
    assert "uniform 0.01 and 3; step 10 alone 0.04 and 5" in figure.get_label()
    assert "Floor of the distance: 0.8" in figure.get_label()
    assert "3 seeds of one recipe: 0.01 to 0.03 and 3 to 3." in figure.get_label()
    (band,) = figure.axes[0].patches
    assert (band.get_y(), band.get_height()) == pytest.approx((0.01, 0.02))
    last = next(line for line in figure.axes[0].lines if line.get_label() == "last steps")
    assert list(last.get_xdata()) == [10, 50] and list(last.get_ydata()) == [0.05, 0.02]
