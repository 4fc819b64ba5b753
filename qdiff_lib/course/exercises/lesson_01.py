"""Checks and quiz of lesson 01."""

from collections.abc import Callable

import torch
from torch import Tensor

from ...evaluation.trajectory_errors import trajectory_snr
from .. import gaussian
from ..checks import Answer, exercise
from ..text import Question
from .answers import FLOAT32, compare, numbers, sources


@exercise(
    "01.propagation_factor",
    hints=(
        "Write the step for x and for x + error, and subtract. What does not depend on x drops out.",
        "The step is A x + B e(x). So F = A + B times the slope of e(x) with respect to x.",
        "e(x) is a straight line in x. Its slope is what multiplies x in the formula of e, without mu.",
    ),
)
def check_propagation_factor(answer: Answer, seed: int) -> str:
    """F at several places of the schedule, for narrow and wide data."""
    dice, _ = sources("01.propagation_factor", seed)
    levels = gaussian.alpha_bars(20)
    for sigma in (0.7 * dice.uniform(0.5, 1), 1.5 * dice.uniform(1, 2), 0.3 * dice.uniform(0.7, 1)):
        i = dice.randint(6, 17)
        now, prev = levels[i], levels[i + 1]
        right = gaussian.propagation_factor(now, prev, sigma)
        keep = (prev / now).sqrt()
        slack = 8 * FLOAT32 * float(keep + (right - keep).abs())
        found = numbers(answer(now, prev, sigma), (), "one number")
        case = f"with alpha_bar={now:.4g}, alpha_bar_prev={prev:.4g}, sigma={sigma:.4g}"
        compare(found, right, slack, "eight float32 roundings", factor_mistakes(now, prev, sigma), case)
    return "F is below 1 for narrow data, above 1 for wide data, and nearly 1 for sigma = 1."


def factor_mistakes(now: Tensor, prev: Tensor, sigma: float) -> dict[str, Tensor]:
    """What likely mistakes return, by the message for each."""
    right = gaussian.propagation_factor(now, prev, sigma)
    keep, gain = gaussian.ddim_weights(now, prev)
    root, variance = (1 - now).sqrt(), now * sigma**2 + 1 - now
    return {
        "that is A alone, what the step keeps of x. The noise prediction depends on x, too: add B times its "
        "slope.": keep,
        "that is B times the slope: what the step keeps of x is missing. Add A.": gain * root / variance,
        "that is F squared, which multiplies the variance. Return F, which multiplies the error.": right**2,
        "B has the other sign: B = sqrt(1 - a_prev) - A sqrt(1 - a).": keep - gain * root / variance,
        "the data's variance is sigma squared: the slope has a sigma^2 below the line.": keep
        + gain * root / (now * sigma + 1 - now),
        "the slope of the noise prediction lacks a root: above the line is sqrt(1 - a).": keep
        + gain * root**2 / variance,
        "the slope divides by the variance of x_t, not by its root.": keep + gain * root / variance.sqrt(),
        "the noise prediction is made before the step: its slope has alpha_bar, not alpha_bar_prev.": keep
        + gain * (1 - prev).sqrt() / (prev * sigma**2 + 1 - prev),
        "alpha_bar and alpha_bar_prev are swapped: A = sqrt(a_prev / a) is above 1, as the picture's share "
        "grows.": gaussian.propagation_factor(prev, now, sigma),
    }


@exercise(
    "01.accumulated_variance",
    hints=(
        "Start from 0. Walk through the steps in order, and keep the variance after each.",
        "Multiplying an error by F multiplies its variance by F^2; independent variances add.",
        "In each step first renew the variance, from its last value and this step's F and B. Then keep it.",
    ),
)
def check_accumulated_variance(answer: Answer, seed: int) -> str:
    """The recursion on made-up and on real factors."""
    dice, generator = sources("01.accumulated_variance", seed)
    made_up = 0.5 + torch.rand(2, dice.randint(6, 9), generator=generator, dtype=torch.float64)
    made_up[1] *= -0.6
    real = gaussian.step_numbers(dice.randint(30, 60), dice.uniform(0.5, 0.8))
    for (factors, gains), noise in ((made_up, dice.uniform(0.2, 0.5)), (real, dice.uniform(0.005, 0.02))):
        right = gaussian.accumulated_variance(factors, gains, noise)
        mistakes = variance_mistakes(factors, gains, noise)
        found = numbers(answer(factors, gains, noise), tuple(right.shape), "the variance after each step")
        slack = 4 * len(right) * FLOAT32 * right.max().item()
        compare(found, right, slack, "four float32 roundings in each step", mistakes, "step")
    return "each step multiplies the variance by F^2 and adds B^2 τ²."


def variance_mistakes(factors: Tensor, gains: Tensor, noise: float) -> dict[str, Tensor]:
    """What likely mistakes return, by the message for each."""

    def walk(step: Callable[[Tensor, Tensor, Tensor], Tensor], first: float = 0.0) -> Tensor:
        variance, after = torch.tensor(first, dtype=torch.float64), []
        for factor, gain in zip(factors, gains, strict=True):
            variance = step(variance, factor, gain)
            after.append(variance)
        return torch.stack(after)

    right = gaussian.accumulated_variance(factors, gains, noise)
    moved = torch.cat([torch.zeros(1), right[:-1]])
    shifted = "entry t is the variance before step t; after step 0 there is an error already. "
    return {
        "F multiplies the error, so the variance is multiplied by F squared.": walk(
            lambda v, f, b: f * v + b**2 * noise
        ),
        "the fresh error enters x as B ν, so its variance enters with B squared.": walk(
            lambda v, f, b: f**2 * v + b * noise
        ),
        "the fresh error of each step is missing its B: the step adds B ν, with variance B^2 τ².": walk(
            lambda v, f, b: f**2 * v + noise
        ),
        "each fresh variance is added, but what was there before must be multiplied by F^2 first.": walk(
            lambda v, f, b: v + b**2 * noise
        ),
        "the fresh error is added after the multiplication: F^2 acts on what was there before only.": walk(
            lambda v, f, b: f**2 * (v + b**2 * noise)
        ),
        "noise_variance is τ² already: do not square it again.": walk(
            lambda v, f, b: f**2 * v + b**2 * noise**2
        ),
        "noise_variance is τ² already: take no root of it.": walk(
            lambda v, f, b: f**2 * v + b**2 * noise**0.5
        ),
        "before the first step there is no error: start from 0, not from noise_variance.": walk(
            lambda v, f, b: f**2 * v + b**2 * noise, noise
        ),
        "before the first step there is no error: start from 0, not from 1.": walk(
            lambda v, f, b: f**2 * v + b**2 * noise, 1.0
        ),
        "these are standard deviations: leave out the root.": right.sqrt(),
        f"{shifted}First renew the variance, then append it: your entry 1 belongs to step 0.": moved,
        "every entry is the variance after the last step. One tensor was changed in place (by +=, *= or "
        "out[:] = ...) and is in the list many times: make a new one at each step.": right[-1].expand(
            len(right)
        ),
        "the entries are in reversed order: the first is the one after step 0.": right.flip(0),
        "these are the fresh variances B^2 τ² alone: what was there before is added, times F^2.": (
            gains**2 * noise
        ),
    }


@exercise(
    "01.snr_per_step",
    hints=(
        "For each step, average the squares over everything but the first axis.",
        "The signal is the reference's mean square, the noise the mean square of the difference.",
        "`x.flatten(1)` makes one row of each step. You need two means for each row, one division, one "
        "logarithm.",
    ),
)
def check_snr_per_step(answer: Answer, seed: int) -> str:
    """Trajectories whose scale and error change from step to step and from image to image."""
    dice, generator = sources("01.snr_per_step", seed)
    for shape in ((dice.randint(4, 7), 3, 1, 4, 4), (2, dice.randint(4, 7), 3, 2, 2)):
        size = torch.linspace(3, 1, shape[0]).view(-1, 1, 1, 1, 1)
        reference = size * torch.randn(shape, generator=generator) + 0.3
        spread = torch.linspace(0.05, 0.8, shape[1]).view(1, -1, 1, 1, 1) / size
        other = reference + spread * torch.randn(shape, generator=generator) + 0.1
        right = trajectory_snr(reference, other)
        found = numbers(answer(reference, other), tuple(right.shape), "one number of dB for each step")
        slack = 10 * FLOAT32 * reference[0].numel()
        why = "what float32 sums over that many pixels may be off"
        compare(found, right, slack, why, snr_mistakes(reference.double(), other.double()), "step")
    return "signal over noise at each step, in decibels."


def snr_mistakes(reference: Tensor, other: Tensor) -> dict[str, Tensor]:
    """What likely mistakes return, by the message for each."""
    signal = reference.square().flatten(1).mean(1)
    noise = (reference - other).square().flatten(1).mean(1)
    each = reference.square().flatten(2).mean(2) / (reference - other).square().flatten(2).mean(2)
    sizes = reference.abs().flatten(1).mean(1) / (reference - other).abs().flatten(1).mean(1)
    right = 10 * (signal / noise).log10()
    return {
        "a ratio of mean squares takes 10 log10; 20 log10 is for a ratio of amplitudes.": 2 * right,
        "a ratio of roots of mean squares takes 20 log10; 10 log10 is for the mean squares.": right / 2,
        "average the squares, not the absolute values.": 10 * sizes.log10(),
        "average the squares, not the absolute values: there is no power in their ratio.": 20 * sizes.log10(),
        "the ratio is upside down: signal over noise, so that a good model has many dB.": -right,
        "that is the natural logarithm: decibels use log10.": right * torch.log(torch.tensor(10.0)),
        "that is the logarithm to base 2: decibels use log10.": right / torch.log10(torch.tensor(2.0)),
        "multiply the logarithm by 10: these are bels, not decibels.": right / 10,
        "return decibels: 10 log10 of this ratio.": signal / noise,
        "that is the mean of each image's own dB. Average the squares over the images first, then take the "
        "logarithm.": (10 * each.log10()).mean(1),
        "the signal is the reference's mean square, not the quantized trajectory's.": 10
        * (other.square().flatten(1).mean(1) / noise).log10(),
        "the signal is the mean square, not the variance: do not subtract the mean.": 10
        * (reference.flatten(1).var(1, unbiased=False) / noise).log10(),
        "the noise is the mean square of the difference: do not subtract its mean.": 10
        * (signal / (reference - other).flatten(1).var(1, unbiased=False)).log10(),
        "square the differences, then average; not the other way round.": 10
        * (signal / (reference - other).flatten(1).mean(1).square()).log10(),
    }


QUIZ = (
    Question(
        "Every step makes an independent random error of the same size in its noise prediction. You go from "
        "20 to 200 DDIM steps. What does the final error do?",
        (
            (
                "It grows, since there are ten times as many errors.",
                "But each of them is about ten times smaller.",
            ),
            ("It stays the same.", "This happens if the errors of all steps are equal."),
            (
                "It shrinks by about the square root of ten.",
                "Ten times as many errors, each a tenth of the size: the variances add up to a tenth.",
            ),
        ),
        right=2,
    ),
    Question(
        "Why does this not happen for a network with 4-bit weights?",
        (
            (
                "The rounded weights are the same at all steps: neighbouring steps have similar errors.",
                "Similar errors add up directly, so smaller steps do not help.",
            ),
            ("4-bit numbers overflow after many steps.", "Only the weights have 4 bits. They do not change."),
            ("The sampler adds its own noise.", "DDIM, as used here, adds none: it is deterministic."),
        ),
        right=0,
    ),
    Question(
        "You compare two quantized models by the error of one step at the noisy end. Is this enough?",
        (
            (
                "Yes: errors only add up.",
                "They add up in different ways, and later steps multiply them.",
            ),
            (
                "No: two models with equal errors after one step can end with different errors.",
                "Compare whole trajectories, from the same noise.",
            ),
            ("Yes, with the mean over many images.", "More images do not show the later steps."),
        ),
        right=1,
    ),
)
