"""Lesson 01: the toy's formulas hold, figures tell."""

import pytest
import torch
from matplotlib.figure import Figure

from qdiff_lib import load, with_sampler
from qdiff_lib.course import gaussian
from qdiff_lib.course.figures import lesson_01 as figures

quiet = pytest.mark.filterwarnings("error")  # a tensor that matplotlib cannot take as it is only warns


class TestToy:
    def test_schedule_is_the_shipped_samplers(self):
        scheduler = with_sampler(load("ddpm-fashion"), "ddim").scheduler
        scheduler.set_timesteps(20)
        expected = [*scheduler.alphas_cumprod[scheduler.timesteps].tolist(), 1.0]
        assert gaussian.alpha_bars(20).tolist() == pytest.approx(expected, rel=1e-5)

    @pytest.mark.parametrize("steps", [0, 1001, -3])
    def test_impossible_numbers_of_steps(self, steps):
        with pytest.raises(ValueError, match=f"steps={steps}"):
            gaussian.alpha_bars(steps)

    def test_more_steps_bring_the_noise_nearer_to_the_data(self):
        def spread(steps):
            levels, x = gaussian.alpha_bars(steps), torch.tensor([-1.0, 1.0], dtype=torch.float64)
            for a, p in zip(levels[:-1], levels[1:], strict=True):
                keep, share = gaussian.ddim_weights(a, p)
                x = keep * x + share * gaussian.noise_prediction(x, a, mu=0.0, sigma=0.7)
            return x[1].item()

        assert abs(spread(500) - 0.7) < abs(spread(20) - 0.7) < 0.1

    @pytest.mark.parametrize("correlation", [0.0, 0.9, 1.0])
    def test_simulation_follows_the_recursion(self, correlation):
        factors, gains = gaussian.step_numbers(20, 0.7)
        expected = gaussian.accumulated_variance(factors, gains, 0.03**2, correlation)
        errors = gaussian.simulate(20, 20_000, -0.4, 0.7, 0.03, correlation)
        spread = (2 / errors.shape[1]) ** 0.5  # relative standard deviation of a variance of that many
        assert ((errors.square().mean(1) / expected - 1).abs() < 5 * spread).all()

    def test_seeds_differ_and_repeat(self):
        first, again, other = (gaussian.simulate(5, 8, 0, 1, 0.1, seed=seed) for seed in (0, 0, 1))
        assert torch.equal(first, again) and not torch.equal(first, other)


@quiet
def test_same_seeds_gives_the_error_of_each_row():
    rows = {label: torch.full((4, 1, 8, 8), grey, dtype=torch.uint8) for label, grey in (("a", 0), ("b", 51))}
    figure = figures.same_seeds(rows, columns=2)
    assert isinstance(figure, Figure)
    assert "2 images of each of 2 models" in figure.get_label()
    assert "against a, over 4 images with pixels from -1 to 1: b 0.1600." in figure.get_label()  # (2 / 5)^2


@quiet
def test_growth_compares_measured_with_predicted():
    measured = torch.tensor([[1.0, 3.0], [3.0, 13.0]])
    label = figures.growth(
        measured, torch.tensor([2.0, 10.0]), persistent=torch.tensor([2.0, 20.0])
    ).get_label()
    assert "2 seeds: after 2 steps it is 4 times" in label and "by at most 20.0%" in label


@quiet
def test_more_steps_gives_three_factors():
    label = figures.more_steps(
        [5, 50], torch.tensor([10.0, 1.0]), torch.tensor([6.0, 2.0]), torch.tensor([4.0, 4.0])
    ).get_label()
    assert "From 5 to 50 steps" in label and "by a factor of 10" in label
    assert "by 3.0 for independent errors, and by 1.00 for" in label


@quiet
def test_anatomy_gives_shares_of_the_last_step_but_one():
    total, inherited, fresh = torch.tensor([[1, 2, 4], [0, 1.5, 4], [1, 0.5, 1]])
    label = figures.anatomy(total, inherited, fresh, torch.tensor([0.4, 0.6]), "linear W4A32").get_label()
    assert "has 75% of the size of the error, and the added error has 25%" in label
    assert "mean correlation of 0.50" in label and label.startswith("linear W4A32")


@quiet
@pytest.mark.parametrize("unrelated", [None, 0.5])
def test_error_curves_list_both_ends(unrelated):
    mse, ratio = {"linear": torch.tensor([0.01, 0.25])}, {"linear": torch.tensor([30.0, 6.0])}
    figure = figures.error_curves(mse, ratio, 8, unrelated)
    assert figure.get_label() == ("2 steps, mean of 8 runs: linear from 30 to 6 dB, last MSE 0.2500.")
    words = [text.get_text() for text in figure.axes[0].texts]
    assert ("two unrelated images" in words) is (unrelated is not None)


@quiet
def test_halves_list_each_way():
    label = figures.halves({"first": 0.1, "second": 0.025}, n=4).get_label()
    assert label == "Mean squared error of 4 final images. first: 0.100; second: 0.025."
