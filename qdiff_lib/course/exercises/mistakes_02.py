"""What likely mistakes in the exercises of lesson 02 give, by the message for each."""

import torch
from torch import Tensor

from ...quantizers.grid import Grid, ScaleZero, quantize, scale_for_range
from ...quantizers.range_finders import find_activation_range

WITHOUT_0 = "the range must contain 0, so that 0 is represented exactly: min(low, 0) and max(high, 0)."


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
        WITHOUT_0: plain(low, high, top),
        "a grid of b bits has 2^b codes but 2^b - 1 gaps between them: divide by 2^b - 1.": plain(
            low.clamp(max=0), high.clamp(min=0), top + 1
        ),
        "that range is symmetric, from -max|x| to max|x|: follow the two ends separately.": plain(
            -largest, largest, top
        ),
        "that is the range of positive values only: the low end counts, too.": plain(0 * high, high, top),
    }


def percentile_mistakes(batches: list[Tensor], bits: int, percent: float) -> dict[str, ScaleZero]:
    """Grids that likely mistakes give, by the message for each."""
    pooled, grid = torch.cat([batch.flatten() for batch in batches]), Grid(bits)
    outside = 1 - percent / 100
    each = torch.stack([torch.quantile(b.flatten(), torch.tensor([outside, 1 - outside])) for b in batches])
    halves = torch.quantile(pooled, torch.tensor([outside / 2, 1 - outside / 2]))
    size = torch.quantile(pooled.abs(), 1 - outside)
    low, high = (torch.quantile(pooled, share) for share in (outside, 1 - outside))
    scale = (high - low) / (2**bits - 1)
    return {
        "that is the full range: leave out 100 - percent % at each end.": find_activation_range(
            pooled, grid, "min_max"
        ),
        "only the high end is clipped: leave out as many values at the low end.": scale_for_range(
            pooled.min(), high, grid
        ),
        "only the low end is clipped: leave out as many values at the high end.": scale_for_range(
            low, pooled.max(), grid
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
        WITHOUT_0: ScaleZero(scale, (-low / scale).round()),
    }


def share_mistakes(x: Tensor, grid: ScaleZero, bits: int) -> dict[str, Tensor]:
    """What likely mistakes return, by the message for each."""
    codes = quantize(x, *grid, bits).double()
    free = (x.double() / grid.scale).round() + grid.zero_point
    low = ((x.double() / grid.scale).floor() + grid.zero_point).clamp(0, 2**bits - 1)
    bare = (x.double() / grid.scale).round().clamp(0, 2**bits - 1)
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
        "round to the nearest code, do not round down.": (low.max() - low.min() + 1) / 2**bits,
        "the zero point is missing: the code of 0 is z, not 0.": (bare.max() - bare.min() + 1) / 2**bits,
    }
