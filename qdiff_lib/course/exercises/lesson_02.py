"""Checks and quiz of lesson 02."""

import torch
from torch import Tensor

from ...quantizers.grid import Grid, ScaleZero, quantize, scale_for_range
from ...quantizers.range_finders import find_activation_range
from ..checks import Answer, Wrong, exercise
from ..text import Question
from .answers import FLOAT32, compare, numbers

PAIR = "a pair (scale, zero_point)"


def used_share(x: Tensor, scale: Tensor, zero_point: Tensor, bits: int) -> float:
    """Share of the grid's 2^b codes from the lowest to the highest that ``x`` uses."""
    codes = quantize(x, scale, zero_point, bits).int()
    return (codes.max() - codes.min() + 1).item() / 2**bits


def drifting_batches(seed: int) -> list[Tensor]:
    """Batches whose range grows, moves and shrinks again, some of them on one side of 0."""
    generator = torch.Generator().manual_seed(seed)
    sizes, means = (0.5, 3.0, 1.0, 0.3), (4.0, 1.0, -2.0, 0.5)
    return [
        size * torch.randn(50, 8, generator=generator) + mean for size, mean in zip(sizes, means, strict=True)
    ]


def pair(answer: object) -> tuple[Tensor, Tensor]:
    """The learner's scale and zero point, float64. Raises Wrong where they cannot be that."""
    if not isinstance(answer, tuple | list) or len(answer) != 2:
        raise Wrong(f"return {PAIR}; you returned {type(answer).__name__}.")
    scale, zero_point = (numbers(part, (), f"{PAIR} of single numbers") for part in answer)
    if not scale > 0:
        raise Wrong(f"the scale must be positive; yours is {scale:.4g}.")
    if zero_point != zero_point.round():
        raise Wrong(f"the zero point is a code, so a whole number; yours is {zero_point:.4g}: round it.")
    return scale, zero_point


def range_mistakes(batches: list[Tensor], bits: int) -> dict[str, ScaleZero]:
    """Grids that likely mistakes give, by the message for each."""
    pooled = torch.cat([batch.flatten() for batch in batches])
    lows, highs = (torch.stack(v) for v in zip(*((b.min(), b.max()) for b in batches), strict=True))
    low, high, grid = pooled.min(), pooled.max(), Grid(bits)
    largest = pooled.abs().max()
    top = 2**bits - 1

    def plain(low: Tensor, high: Tensor, codes: int) -> ScaleZero:
        scale = (high - low) / codes
        return ScaleZero(scale, (-low / scale).round())

    return {
        "that is the range of the last batch alone: keep the extremes of all batches.": scale_for_range(
            lows[-1], highs[-1], grid
        ),
        "that is the range of the first batch alone: go through all of them.": scale_for_range(
            lows[0], highs[0], grid
        ),
        "that is the average of the batches' ranges: the widest batch is clipped. Keep the extremes.": (
            scale_for_range(lows.mean(), highs.mean(), grid)
        ),
        "the range must contain 0, so that 0 is represented exactly: min(low, 0) and max(high, 0).": plain(
            low, high, top
        ),
        "a grid of b bits has 2^b codes but 2^b - 1 gaps between them: divide by 2^b - 1.": plain(
            low.clamp(max=0), high.clamp(min=0), top + 1
        ),
        "that range is symmetric, from -max|x| to max|x|: follow the two ends separately.": plain(
            -largest, largest, top
        ),
    }


def name_mistake(found: tuple[Tensor, Tensor], mistakes: dict[str, ScaleZero]) -> None:
    """Raise Wrong with the message of the mistake that gives this grid."""
    for message, (scale, zero_point) in mistakes.items():
        if abs(found[0] / scale.double() - 1) < 1e-5 and abs(found[1] - zero_point) < 1.5:  # z rounds a half
            raise Wrong(message)


@exercise(
    "02.min_max_observer",
    hints=(
        "Batches come one after the other: keep the smallest and the largest value so far.",
        "Start low and high at 0: then the range contains 0 by itself.",
        "In the end scale = (high - low) / (2**bits - 1) and zero_point = round(-low / scale).",
    ),
)
def check_min_max_observer(answer: Answer, seed: int) -> str:
    """Ranges that move, ranges on one side of 0, several widths."""
    one_sided = [torch.tensor([2.0, 3.0]), torch.tensor([5.0, 2.5])]
    for batches, bits in ((drifting_batches(seed + 1), 8), (drifting_batches(seed + 2), 4), (one_sided, 8)):
        pooled = torch.cat([batch.flatten() for batch in batches])
        scale, zero_point = find_activation_range(pooled, Grid(bits), "min_max")
        found = pair(answer(batches, bits))
        slack = 4 * FLOAT32 * scale.item()
        if abs(found[0] - scale) <= slack and abs(found[1] - zero_point) > 1:
            raise Wrong(f"the scale is right, but the zero point is {zero_point:.0f}: round(-low / scale).")
        if abs(found[0] - scale) > slack:
            name_mistake(found, range_mistakes(batches, bits))
        compare(found[0], scale.double(), slack, "four float32 roundings of the scale", {})
    return "the range holds every value of every batch, and 0."


@exercise(
    "02.percentile_observer",
    hints=(
        "A percentile needs all values at once: keep them, and look at the end.",
        "percent = 99 leaves out 1 % at each end: the quantiles 0.01 and 0.99.",
        "torch.quantile(values, 1 - percent / 100) is the low end. Then go on as for min and max.",
    ),
)
def check_percentile_observer(answer: Answer, seed: int) -> str:
    """Pooled percentiles, to within the neighbouring values."""
    for i, (bits, percent) in enumerate(((8, 99.0), (4, 95.0), (8, 90.0))):
        batches = drifting_batches(seed + i)
        values = torch.cat([batch.flatten() for batch in batches]).double().sort().values
        low, high, slack = ends(values, percent)
        scale, zero_point = scale_for_range(low, high, Grid(bits))
        found = pair(answer(batches, bits, percent))
        slack = slack / (2**bits - 1) + 4 * FLOAT32 * scale
        if abs(found[0] - scale) > slack:
            name_mistake(found, percentile_mistakes(batches, bits, percent))
        compare(found[0], scale, slack, "the gaps to the neighbouring values", {})
        if abs(found[1] - zero_point) > 1 + slack / scale * 2**bits:
            raise Wrong(
                f"the scale is right, but the zero point is about {zero_point:.0f}: round(-low / scale)."
            )
    return "both ends are clipped, over all batches together."


def ends(values: Tensor, percent: float) -> tuple[Tensor, Tensor, Tensor]:
    """Low and high percentile of sorted values, and the sum of the gaps to their neighbours."""
    last = len(values) - 1
    tail = round((1 - percent / 100) * last)
    gap = values[tail + 1] - values[tail - 1] + values[last - tail + 1] - values[last - tail - 1]
    return values[tail], values[last - tail], gap


def percentile_mistakes(batches: list[Tensor], bits: int, percent: float) -> dict[str, ScaleZero]:
    """Grids that likely mistakes give, by the message for each."""
    pooled, grid = torch.cat([batch.flatten() for batch in batches]), Grid(bits)
    outside = 1 - percent / 100
    each = torch.stack([torch.quantile(b.flatten(), torch.tensor([outside, 1 - outside])) for b in batches])
    halves = torch.quantile(pooled, torch.tensor([outside / 2, 1 - outside / 2]))
    size = torch.quantile(pooled.abs(), 1 - outside)
    return {
        "that is the full range: leave out 100 - percent % at each end.": find_activation_range(
            pooled, grid, "min_max"
        ),
        "that leaves out half of the share at each end: percent = 99 means the quantiles 0.01 and 0.99.": (
            scale_for_range(*halves, grid)
        ),
        "that is the average of the batches' percentiles: keep all values, and look at the end.": (
            scale_for_range(*each.mean(0), grid)
        ),
        "those are the extremes of the batches' percentiles: keep all values, and look at the end.": (
            scale_for_range(each[:, 0].min(), each[:, 1].max(), grid)
        ),
        "that is the percentile of |x|, a symmetric range: take the two ends separately.": scale_for_range(
            -size, size, grid
        ),
        **range_mistakes(batches, bits),
    }


@exercise(
    "02.range_utilisation",
    hints=(
        "First turn x into codes: clip(round(x / scale) + zero_point, 0, 2**bits - 1).",
        "Count the codes from the lowest to the highest used, both included.",
        "(highest - lowest + 1) / 2**bits.",
    ),
)
def check_range_utilisation(answer: Answer, seed: int) -> str:
    """Narrow, shifted and clipped tensors."""
    generator = torch.Generator().manual_seed(seed + 4)
    cases = (
        (0.02, 100, 8, 0.3, 0.0),
        (0.1, 3, 4, 0.2, 0.3),
        (0.01, 0, 8, 0.5, 1.0),
        (0.05, 128, 8, 9.0, 0.0),
    )
    for scale, zero_point, bits, size, mean in cases:
        x = size * torch.randn(40, 5, generator=generator) + mean
        grid = ScaleZero(torch.tensor(scale), torch.tensor(float(zero_point)))
        right = torch.tensor(used_share(x, *grid, bits), dtype=torch.float64)
        found = numbers(answer(x, *grid, bits), (), "one number, the share")
        why = "a share is an exact ratio of two whole numbers"
        compare(found, right, 1e-6, why, share_mistakes(x, grid, bits))
    return "codes from the lowest to the highest used, over all codes of the grid."


def share_mistakes(x: Tensor, grid: ScaleZero, bits: int) -> dict[str, Tensor]:
    """What likely mistakes return, by the message for each."""
    codes = quantize(x, *grid, bits).double()
    free = (x.double() / grid.scale).round() + grid.zero_point
    span = codes.max() - codes.min() + 1
    return {
        "both ends count: highest - lowest + 1.": (span - 1) / 2**bits,
        "a grid of b bits has 2^b codes: divide by 2**bits.": span / (2**bits - 1),
        "that is a percentage; return a share from 0 to 1.": 100 * span / 2**bits,
        "return the share, not the number of codes: divide by 2**bits.": span,
        "clip the codes to 0 ... 2^b - 1 first: a share cannot be above 1, nor reach outside of the grid.": (
            free.max() - free.min() + 1
        )
        / 2**bits,
        "count all codes from the lowest to the highest: that few values miss some is chance.": torch.tensor(
            len(codes.unique()) / 2**bits
        ),
    }


QUIZ = (
    Question(
        "At one step a layer's input covers a quarter of the range fixed for all steps. How many bits "
        "does the grid lose there?",
        (
            ("Two.", "A quarter of the codes is left: log2(1 / 4) = -2, and the error grows 16 times."),
            ("Four.", "The error is 16 times as large, but a bit divides the error by 4, not by 2."),
            ("A quarter of them.", "Bits count doublings: what matters is the logarithm of the share."),
        ),
        right=0,
    ),
    Question(
        "A layer's range is taken from the first, noisy step, and grows later. What happens later?",
        (
            ("The grid is too coarse.", "The range is too small, so its steps are too fine, if anything."),
            (
                "Large values are clipped to the end of the grid.",
                "Clipping errors are not bounded by half a step, and grow with the distance.",
            ),
            ("Nothing: the grid adapts.", "A static range is fixed at calibration."),
        ),
        right=1,
    ),
    Question(
        "A layer's outputs have a KL divergence of 0.001 under calibration A and of 0.1 under calibration B. "
        "What follows?",
        (
            ("A's pictures are better.", "Not by itself: it is one layer, and its histogram only."),
            (
                "A keeps this layer's distribution better, as far as the histogram shows.",
                "It is a check, layer by layer; errors that cancel in the histogram stay invisible.",
            ),
            ("B has a hundred times the error of A.", "KL divergence is no distance and has no such scale."),
        ),
        right=1,
    ),
)
