"""Inputs of the checks of lesson 02: batches whose ranges are known, and whose codes are not near a half."""

import random

import torch
from torch import Tensor

Range = tuple[float, float, int]  # lowest value, highest value, bits
BATCHES, ROWS, COLUMNS = 4, 50, 8
PLATEAU = 2  # neighbours on each side that equal a percentile


def ranges(dice: random.Random) -> list[Range]:
    """Four ranges: two around 0, with a zero point to round down and one to round up, and two on one side."""
    return [
        around_zero(dice, 8, dice.uniform(0.1, 0.4)),
        around_zero(dice, dice.choice((4, 5, 6)), dice.uniform(0.6, 0.9)),
        (dice.uniform(1, 3), dice.uniform(4, 7), dice.choice((3, 7))),
        (-dice.uniform(4, 7), -dice.uniform(1, 3), 8),
    ]


def around_zero(dice: random.Random, bits: int, rest: float) -> Range:
    """A range with -low / scale between two codes, ``rest`` above the lower one, and far from the middle."""
    top = 2**bits - 1
    zero = int(top * dice.choice((dice.uniform(0.2, 0.4), dice.uniform(0.6, 0.8)))) + rest
    scale = dice.uniform(0.5, 6.0) / top
    return -zero * scale, (top - zero) * scale, bits


def observed_batches(low: float, high: float, generator: torch.Generator) -> list[Tensor]:
    """Batches (50, 8) with values from ``low`` to ``high``; neither the first nor the last reaches an end."""
    parts = [torch.rand(ROWS, COLUMNS, generator=generator) for _ in range(BATCHES)]
    parts = [
        low + (high - low) * (0.2 + width * part)
        for width, part in zip((0.3, 0.5, 0.6, 0.4), parts, strict=True)
    ]
    parts[1][17, 3], parts[2][40, 5] = low, high
    return parts


def percentile_batches(low: float, high: float, percent: float, generator: torch.Generator) -> list[Tensor]:
    """Batches (50, 8) whose pooled percentiles are ``low`` and ``high``; later batches have larger values.

    The values next to a percentile are equal to it, and the tails reach as far out as the range is wide.
    """
    count = BATCHES * ROWS * COLUMNS
    tail = round((1 - percent / 100) * (count - 1))
    outer, width = max(tail - PLATEAU, 0), high - low
    flat = tail + PLATEAU + 1 - outer
    middle = low + width * (0.05 + 0.9 * torch.rand(count - 2 * (outer + flat), generator=generator))
    below, above = (0.05 + torch.rand(outer, generator=generator) for _ in range(2))
    ends = [torch.full((flat,), end) for end in (low, high)]
    values = torch.cat([low - width * below, ends[0], middle, ends[1], high + 0.7 * width * above])
    order = (values / width + 0.5 * torch.randn(count, generator=generator)).argsort()
    mixed = values[order].view(BATCHES, -1)
    rows = [part[torch.randperm(len(part), generator=generator)] for part in mixed]
    return [row.view(ROWS, COLUMNS) for row in rows]


def code_spans(dice: random.Random) -> list[tuple[int, int, int, int]]:
    """Bits, zero point, lowest and highest code: inside the grid, below it, above it, on both sides."""
    return [
        (8, dice.randint(90, 130), dice.randint(20, 60), dice.randint(150, 220)),
        (4, dice.randint(5, 9), dice.randint(-9, -3), dice.randint(8, 12)),
        (8, dice.randint(20, 60), dice.randint(70, 110), dice.randint(270, 330)),
        (3, dice.randint(2, 5), -dice.randint(2, 5), 7 + dice.randint(2, 5)),
    ]


def values_between(low: int, high: int, generator: torch.Generator) -> Tensor:
    """Numbers (40, 5) from a bit below ``low`` to a bit above ``high``, none within 0.05 of a half.

    To round both ends down, or up, gives another distance than to round them to nearest.
    """
    whole = torch.randint(low + 1, high, (40, 5), generator=generator)
    values = whole + 0.9 * torch.rand(40, 5, generator=generator) - 0.45
    values[3, 1], values[20, 4] = low - 0.3, high + 0.3
    return values
