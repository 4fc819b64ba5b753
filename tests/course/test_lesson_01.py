"""Lesson 01: wrong answers get the right message, right ones pass, the toy's formulas hold, figures tell."""

import pytest
import torch
from matplotlib.figure import Figure

from qdiff_lib import load, with_sampler
from qdiff_lib.course import gaussian
from qdiff_lib.course.checks import Verdict, check
from qdiff_lib.course.figures import lesson_01 as figures

quiet = pytest.mark.filterwarnings("error")  # a tensor that matplotlib cannot take as it is only warns


def gain(a, a_prev):
    return (1 - a_prev) ** 0.5 - (a_prev / a) ** 0.5 * (1 - a) ** 0.5


def factor_with_slope(slope, sign=1):
    """The propagation factor with another slope of e, or another sign of B."""
    return lambda a, p, sigma: (p / a) ** 0.5 + sign * gain(a, p) * slope(a, sigma)


def slope(a, sigma):
    return (1 - a) ** 0.5 / (a * sigma**2 + 1 - a)


def factor_by_gradient(a, a_prev, sigma):
    """Right, and written without a derivative."""
    x = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    e = gaussian.noise_prediction(x, a, mu=0.7, sigma=sigma)
    ((a_prev / a).sqrt() * x + gain(a, a_prev) * e).backward()
    return x.grad


def factor_of_spreads(a, a_prev, sigma):
    """Right: F in one fraction, with numbers of Python."""
    a, p, variance = float(a), float(a_prev), float(a) * sigma**2 + 1 - float(a)
    return ((p * a) ** 0.5 * sigma**2 + ((1 - a) * (1 - p)) ** 0.5) / variance


def variance_by_products(factors, gains, q2):
    """Right: every fresh variance times all the factors after it."""
    total = torch.diag(gains**2 * q2)
    for i in range(len(factors)):
        total[i, i + 1 :] = gains[i] ** 2 * q2 * (factors[i + 1 :] ** 2).cumprod(0)
    return total.sum(0)


def walk(step, start=0.0):
    """A list of v after each step of a recursion."""

    def answer(factors, gains, q2):
        v, found = start, []
        for f, b in zip(factors.tolist(), gains.tolist(), strict=True):
            v = step(v, f, b, q2)
            found.append(v)
        return found

    return answer


def snr(factor=10.0, logarithm=torch.log10, signal=lambda x, y: x, power=lambda x: x.square()):
    def answer(reference, other):
        above, below = power(signal(reference, other)), (reference - other).square()
        return factor * logarithm(above.flatten(1).mean(1) / below.flatten(1).mean(1))

    return answer


def snr_in_a_loop(reference, other):
    """Right: one step after the other, with norms."""
    ratios = [x.norm() / (x - y).norm() for x, y in zip(reference.double(), other.double(), strict=True)]
    return [20 * ratio.log10().item() for ratio in ratios]


def snr_of_each_image(reference, other):
    power = [x.square().flatten(2).mean(2) for x in (reference, reference - other)]
    return (10 * (power[0] / power[1]).log10()).mean(1)


RIGHT = [
    ("01.propagation_factor", factor_by_gradient),
    ("01.propagation_factor", factor_of_spreads),
    ("01.propagation_factor", factor_with_slope(slope)),
    ("01.accumulated_variance", variance_by_products),
    ("01.accumulated_variance", walk(lambda v, f, b, q2: f * f * v + b * b * q2)),
    ("01.snr_per_step", snr()),
    ("01.snr_per_step", snr_in_a_loop),
]
WRONG = [
    ("01.propagation_factor", lambda a, p, sigma: (p / a).sqrt(), "A alone"),
    ("01.propagation_factor", lambda a, p, sigma: factor_of_spreads(a, p, sigma) ** 2, "F squared"),
    ("01.propagation_factor", factor_with_slope(slope, sign=-1), "the other sign"),
    ("01.propagation_factor", factor_with_slope(lambda a, s: slope(a, s**0.5)), "sigma squared"),
    ("01.propagation_factor", factor_with_slope(lambda a, s: slope(a, s) * (1 - a) ** 0.5), "lacks a root"),
    ("01.propagation_factor", lambda a, p, sigma: factor_of_spreads(p, a, sigma), "swapped"),
    ("01.propagation_factor", lambda a, p, sigma: 1.0, "allowed difference"),
    ("01.propagation_factor", lambda a, p, sigma: None, "returned None"),
    ("01.propagation_factor", lambda a, p, sigma: torch.ones(2), "one number"),
    ("01.accumulated_variance", walk(lambda v, f, b, q2: f * v + b**2 * q2), "multiplied by F squared"),
    ("01.accumulated_variance", walk(lambda v, f, b, q2: f**2 * v + b * q2), "with B squared"),
    ("01.accumulated_variance", walk(lambda v, f, b, q2: f**2 * v + q2), "missing its B"),
    ("01.accumulated_variance", walk(lambda v, f, b, q2: v + b**2 * q2), "multiplied by F^2 first"),
    ("01.accumulated_variance", walk(lambda v, f, b, q2: f**2 * (v + b**2 * q2)), "after the multiplication"),
    ("01.accumulated_variance", walk(lambda v, f, b, q2: f**2 * v + b**2 * q2**2), "do not square it again"),
    ("01.accumulated_variance", lambda f, b, q2: gaussian.accumulated_variance(f, b, q2).sqrt(), "the root"),
    ("01.accumulated_variance", lambda f, b, q2: gaussian.accumulated_variance(f, b, q2)[-1], "each step"),
    ("01.accumulated_variance", lambda f, b, q2: 0 * f, "allowed difference"),
    ("01.snr_per_step", snr(factor=20.0), "20 log10 is for"),
    ("01.snr_per_step", snr(factor=-10.0), "upside down"),
    ("01.snr_per_step", snr(logarithm=torch.log), "natural logarithm"),
    ("01.snr_per_step", snr(factor=1.0), "not decibels"),
    ("01.snr_per_step", snr(factor=1.0, logarithm=lambda ratio: ratio), "return decibels"),
    ("01.snr_per_step", snr(signal=lambda x, y: y), "not the quantized trajectory's"),
    ("01.snr_per_step", snr_of_each_image, "each image's own dB"),
    (
        "01.snr_per_step",
        snr(power=lambda x: (x - x.flatten(1).mean(1).view(-1, 1, 1, 1, 1)).square()),
        "not the variance",
    ),
    ("01.snr_per_step", lambda x, y: 10 * (x.square().mean() / (x - y).square().mean()).log10(), "each step"),
]


@pytest.mark.parametrize("name, answer", RIGHT)
def test_right_answers_pass(name, answer):
    assert check(name, answer).verdict is Verdict.RIGHT, check(name, answer)


@pytest.mark.parametrize("name, answer, message", WRONG)
def test_wrong_answers_get_the_message_for_their_mistake(name, answer, message):
    outcome = check(name, answer)
    assert outcome.verdict is Verdict.WRONG and message in outcome.message, outcome


def test_starting_from_the_noise_is_named():
    def answer(factors, gains, q2):
        return walk(lambda v, f, b, q2: f**2 * v + b**2 * q2, start=q2)(factors, gains, q2)

    assert "start from 0" in check("01.accumulated_variance", answer).message


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
    assert "2 images for each of 2 models" in figure.get_label()
    assert "against a, over 4 images with pixels from -1 to 1: b 0.1600." in figure.get_label()  # (2 / 5)^2


@quiet
def test_growth_compares_measured_with_predicted():
    measured = torch.tensor([[1.0, 3.0], [3.0, 13.0]])
    label = figures.growth(
        measured, torch.tensor([2.0, 10.0]), persistent=torch.tensor([2.0, 20.0])
    ).get_label()
    assert "2 seeds: after 2 steps it is 4 times" in label and "at most 20.0% off" in label


@quiet
def test_more_steps_gives_three_factors():
    label = figures.more_steps(
        [5, 50], torch.tensor([10.0, 1.0]), torch.tensor([6.0, 2.0]), torch.tensor([4.0, 4.0])
    ).get_label()
    assert "From 5 to 50 steps" in label and "by a factor of 10" in label
    assert "by 3.0 where every step errs anew, and by 1.00 where" in label


@quiet
def test_anatomy_gives_shares_of_the_last_step_but_one():
    total, inherited, fresh = torch.tensor([[1, 2, 4], [0, 1.5, 4], [1, 0.5, 1]])
    label = figures.anatomy(total, inherited, fresh, torch.tensor([0.4, 0.6]), "linear W4A32").get_label()
    assert "75% of the error's size was inherited and the step itself adds 25%" in label
    assert "mean correlation of 0.50" in label and label.startswith("linear W4A32")


@quiet
@pytest.mark.parametrize("unrelated", [None, 0.5])
def test_error_curves_list_both_ends(unrelated):
    mse, ratio = {"linear": torch.tensor([0.01, 0.25])}, {"linear": torch.tensor([30.0, 6.0])}
    figure = figures.error_curves(mse, ratio, 8, unrelated)
    assert figure.get_label() == ("Over 2 steps, mean of 8 runs: linear 30 to 6 dB, last MSE 0.2500.")
    words = [text.get_text() for text in figure.axes[0].texts]
    assert ("two unrelated images" in words) is (unrelated is not None)


@quiet
def test_halves_list_each_way():
    label = figures.halves({"first": 0.1, "second": 0.025}).get_label()
    assert label == "Mean squared error of the final images. first: 0.100; second: 0.025."
