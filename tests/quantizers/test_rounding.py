"""Rounding without data, by name."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qdiff_lib.quantizers.adaround import AdaRound
from qdiff_lib.quantizers.grid import ALLOWED_BITS, Grid, PerAxis
from qdiff_lib.quantizers.range_finders import min_max, mse_search
from qdiff_lib.quantizers.rounding import round_nearest

U = 2**-24  # unit roundoff of float32

some = settings(max_examples=25, deadline=None, derandomize=True)
seeds = st.integers(0, 2**32 - 1)
widths = st.sampled_from(ALLOWED_BITS)
every_width = pytest.mark.parametrize("bits", ALLOWED_BITS, ids="{}-bit".format)


def weight_of(seed, size=1.0):
    return size * torch.randn(5, 4, 3, 3, generator=torch.Generator().manual_seed(seed))


def learned(weight, bits, find_range=min_max):
    """An AdaRound of that weight on per-channel grids."""
    return AdaRound(weight, *find_range(weight, Grid(bits, granularity=PerAxis(0))), bits)


@given(seed=seeds, bits=widths)
@some
def test_untrained_decisions_are_those_of_rounding_to_nearest(seed, bits):
    # But for weights so near to the middle of two codes that the errors of w / s and h (above) can decide.
    weight = weight_of(seed)
    rounding = learned(weight, bits, mse_search)
    nearest = round_nearest(weight, rounding.scale, rounding.zero_point, bits)
    exact = weight.double() / rounding.scale.double()
    clear = ((exact - exact.floor() - 0.5).abs() > (16 + 4 * 2**bits) * U).expand_as(weight)
    assert torch.equal(rounding.levels()[clear], nearest[clear])
    assert clear.float().mean() > 0.9


@every_width
def test_nearest_is_the_nearest_code(bits):
    # Half a step, and at the ends of the range what the zero point's own rounding adds: see test_grid.
    weight = weight_of(3)
    scale, zero_point = min_max(weight, Grid(bits, granularity=PerAxis(0)))
    levels = round_nearest(weight, scale, zero_point, bits)
    rounded = scale * levels
    n = 2**bits - 1
    assert ((rounded.double() - weight.double()).abs() <= scale.double() * (0.5 + 6 * n * U)).all()
    assert torch.equal(round_nearest(rounded, scale, zero_point, bits), levels)
