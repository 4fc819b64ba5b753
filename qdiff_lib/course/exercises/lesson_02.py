"""Checks and quiz of lesson 02."""

import math

import torch
from torch import Tensor

from ...quantizers.grid import ScaleZero, quantize
from ..checks import Answer, Wrong, exercise
from ..text import Question
from .answers import FLOAT32, compare, describe, numbers, sources
from .inputs_02 import code_spans, observed_batches, percentile_batches, ranges, values_between
from .mistakes_02 import percentile_mistakes, range_mistakes, share_mistakes

PAIR = "a pair (scale, zero_point)"


def used_share(x: Tensor, scale: Tensor, zero_point: Tensor, bits: int) -> float:
    """Share of the grid's 2^b codes from the lowest to the highest that ``x`` uses."""
    codes = quantize(x, scale, zero_point, bits).int()
    return (codes.max() - codes.min() + 1).item() / 2**bits


def true_pair(low: float, high: float, bits: int) -> tuple[float, float]:
    """Scale of the range with 0, and the zero point before it is rounded."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / (2**bits - 1)
    return scale, -low / scale


def pair(answer: object) -> tuple[Tensor, Tensor]:
    """The learner's scale and zero point, float64. Raises Wrong where they cannot be that."""
    if answer is None:
        raise Wrong(f"your function returned None: end it with `return ...`, {PAIR}.")
    try:
        scale, zero_point = numbers(answer, (2,), PAIR)
    except Wrong:
        raise Wrong(f"return {PAIR}; you returned {describe(answer)}.") from None
    if not scale > 0:
        raise Wrong(f"the scale must be positive; yours is {scale:.4g}.")
    if zero_point != zero_point.round():
        raise Wrong(f"the zero point is a code, so a whole number; yours is {zero_point:.4g}: round it.")
    return scale, zero_point


def judge_pair(found: tuple[Tensor, Tensor], low: float, high: float, bits: int, mistakes: dict) -> None:
    """Raise Wrong unless ``found`` is the grid of the range; -low / scale is not near a half."""
    scale, unrounded = true_pair(low, high, bits)
    slack = 4 * FLOAT32 * scale
    if abs(found[0] - scale) > slack:
        for message, (other, zero_point) in mistakes.items():
            if abs(found[0] / other.double() - 1) < 1e-5 and abs(found[1] - zero_point) < 1.5:
                raise Wrong(message)
    case = f"for a range from {low:.5g} to {high:.5g} and bits={bits}, the scale"
    right = torch.tensor(scale, dtype=torch.float64)
    compare(found[0], right, slack, "four float32 roundings", {}, case)
    if abs(found[1] - unrounded) > 0.5 + 1e-3:  # float32 moves -low / scale by less than that
        raise Wrong(
            f"the scale is right, but the zero point is {round(unrounded)}, not {found[1]:.0f}: "
            f"{zero_mistake(found[1].item(), unrounded, bits)} (-low / scale = {unrounded:.3f}, bits={bits})."
        )


def zero_mistake(found: float, unrounded: float, bits: int) -> str:
    """What the wrong zero point suggests."""
    if found == -round(unrounded):
        return "it has the other sign: round(-low / scale)"
    if found == 2**bits - 1 - round(unrounded):
        return "that is where the high end lies above 0: round(-low / scale)"
    if found in (math.floor(unrounded), math.ceil(unrounded)):
        return (
            "round to the nearest whole number; floor, ceil and int() are off by one for half of all ranges"
        )
    return "round(-low / scale)"


@exercise(
    "02.min_max_observer",
    hints=(
        "Batches come one after the other: keep the smallest and the largest value so far.",
        "Start both ends at 0: then the range contains 0 by itself.",
        "After the last batch, put the two ends into the formulas for s and z above. Round z to nearest.",
    ),
)
def check_min_max_observer(answer: Answer, seed: int) -> str:
    """Ranges that move, ranges on one side of 0, several widths, zero points rounded up and down."""
    dice, generator = sources("02.min_max_observer", seed)
    for low, high, bits in ranges(dice):
        batches = observed_batches(low, high, generator)
        low, high = (end(torch.stack(batches)).item() for end in (torch.min, torch.max))
        judge_pair(pair(answer(batches, bits)), low, high, bits, range_mistakes(batches, bits))
    return "the range holds every value of every batch, and 0."


@exercise(
    "02.percentile_observer",
    hints=(
        "A percentile needs all values at once: keep them, and look at the end.",
        "percent = 99 leaves out 1 % at each end: the quantiles 0.01 and 0.99.",
        "`torch.quantile` finds each end in one long vector. Then go on as for min and max, 0 included.",
    ),
)
def check_percentile_observer(answer: Answer, seed: int) -> str:
    """Pooled percentiles. The neighbouring values are equal, so that all ways to interpolate agree."""
    dice, generator = sources("02.percentile_observer", seed)
    for (low, high, bits), percent in zip(
        ranges(dice), dice.sample((90.0, 95.0, 98.0, 99.0), 4), strict=True
    ):
        for share in {percent, 100.0} if bits == 8 else {percent}:
            batches = percentile_batches(low, high, share, generator)
            values = torch.cat([batch.flatten() for batch in batches]).sort().values
            tail = round((1 - share / 100) * (len(values) - 1))
            found = pair(answer(batches, bits, share))
            mistakes = percentile_mistakes(batches, bits, share)
            judge_pair(found, values[tail].item(), values[-1 - tail].item(), bits, mistakes)
    return "both ends are clipped, over all batches together."


@exercise(
    "02.range_utilisation",
    hints=(
        "First turn x into codes, as the grid does: divide, round, add the zero point, clip.",
        "Count the codes from the lowest to the highest used, both included.",
        "From code 3 to code 5 there are three codes, not two. Divide by the number of codes of the grid.",
    ),
)
def check_range_utilisation(answer: Answer, seed: int) -> str:
    """Tensors inside the grid, below, above and on both sides of it; no value is near a half of a step."""
    dice, generator = sources("02.range_utilisation", seed)
    for bits, zero_point, low, high in code_spans(dice):
        scale = torch.tensor(dice.uniform(0.02, 0.2))
        x = values_between(low - zero_point, high - zero_point, generator) * scale
        grid = ScaleZero(scale, torch.tensor(float(zero_point)))
        right = torch.tensor(used_share(x, *grid, bits), dtype=torch.float64)
        found = numbers(answer(x, *grid, bits), (), "one number, the share")
        why = "a share is an exact ratio of two whole numbers"
        case = f"with scale={scale:.4g}, zero_point={zero_point}, bits={bits}"
        compare(found, right, 1e-6, why, share_mistakes(x, grid, bits), case)
    return "codes from the lowest to the highest used, over all codes of the grid."


QUIZ = (
    Question(
        "At one step, a layer's input covers a quarter of the fixed range. How many bits does the grid "
        "lose there?",
        (
            ("Two.", "A quarter of the codes is left, and log2(4) = 2. The error is 16 times as large."),
            ("Four.", "The error is 16 times as large, but one bit divides it by 4, not by 2."),
            ("A quarter of them.", "The number of lost bits is the logarithm of the share, log2(4)."),
        ),
        right=0,
    ),
    Question(
        "A layer's range comes from the first, noisy step. Later the values are larger. What happens?",
        (
            ("The grid is too coarse.", "The range is too small, so the grid is fine, not coarse."),
            (
                "Large values are clipped to the end of the grid.",
                "The error of clipping is not bounded by half of the scale. It grows with the distance.",
            ),
            ("Nothing: the grid adapts.", "Calibration fixes a static range before the run."),
        ),
        right=1,
    ),
    Question(
        "A layer's outputs have a KL divergence of 0.001 under calibration A and of 0.1 under calibration B. "
        "What follows?",
        (
            ("A's pictures are better.", "We do not know: this is only one layer, and only its histogram."),
            (
                "Under A, the histogram of this layer's outputs is closer to full precision.",
                "It is a check of single layers. A histogram does not show all errors.",
            ),
            ("B has a hundred times the error of A.", "KL divergence is not proportional to the error."),
        ),
        right=1,
    ),
)
