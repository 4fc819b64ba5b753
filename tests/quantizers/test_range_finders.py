"""What each range finder covers, and what a bounded sample of an activation keeps."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qdiff_lib.quantizers.grid import (
    ALLOWED_BITS,
    Grid,
    PerAxis,
    PerTensor,
    ScaleZero,
    fake_quantize,
    scale_for_range,
)
from qdiff_lib.quantizers.range_finders import (
    MSE_CANDIDATES,
    MSE_POWER,
    RANGES,
    find_activation_range,
    min_max,
    mse_search,
    percentile,
)

U = 2**-24  # unit roundoff of float32

some = settings(max_examples=40, deadline=None, derandomize=True)
grids = st.builds(Grid, st.sampled_from(ALLOWED_BITS), st.booleans())
seeds = st.integers(0, 2**32 - 1)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def weights(seed, channels=4, columns=18):
    """Channels of sizes 0.001 to 1,000, with a few outliers each; the first one is all zero."""
    w = torch.randn(channels, columns // 3, 3, generator=seeded(seed)) ** 3
    size = torch.logspace(-3, 3, channels)[torch.randperm(channels, generator=seeded(seed))]
    w *= size[:, None, None]
    w[0] = 0
    return w


@given(seed=seeds, grid=grids)
@some
def test_min_max_covers_exactly_the_extremes_and_zero(seed, grid):
    x = weights(seed) + 10 * torch.randn((), generator=seeded(seed))
    assert min_max(x, grid) == scale_for_range(x.min().clamp(max=0), x.max().clamp(min=0), grid)


def float64_error(x, found, bits):
    """The error that the search minimizes, with all but the quantizer in double precision."""
    return (fake_quantize(x, *found, bits).double() - x.double()).abs().pow(MSE_POWER).mean().item()


@given(seed=seeds, grid=grids)
@settings(some, max_examples=16)
def test_mse_search_finds_what_a_loop_over_channels_finds(seed, grid):
    # The search sums n errors in float32. Each has relative errors of U (difference) times 2.4, and of 4 U at
    # most (power), the sum of (n - 1) U, the mean of U: less than (n + 8) U in all. So the candidate that it
    # takes, which is least in float32, is within twice that of the least.
    x = weights(seed)
    found = mse_search(x, Grid(grid.bits, grid.symmetric, PerAxis(0)))
    for channel, scale, zero_point in zip(x, found.scale, found.zero_point, strict=True):
        shrinks = [1.0] + [1 - 0.01 * step for step in range(1, MSE_CANDIDATES)]
        low, high = channel.min(), channel.max()
        candidates = [scale_for_range(shrink * low, shrink * high, grid) for shrink in shrinks]
        errors = [float64_error(channel, candidate, grid.bits) for candidate in candidates]
        taken = [i for i, c in enumerate(candidates) if c == (scale.squeeze(), zero_point.squeeze())]
        assert taken
        assert errors[taken[0]] <= min(errors) * (1 + 2 * (channel.numel() + 8) * U)


@given(seed=seeds, grid=grids)
@some
def test_mse_search_is_never_worse_than_min_max(seed, grid):
    # The tolerance is that of the test above: the two errors are compared in float32.
    grid = Grid(grid.bits, grid.symmetric, PerAxis(0))
    x = weights(seed)
    searched, covered = mse_search(x, grid), min_max(x, grid)
    for i, channel in enumerate(x):
        found = float64_error(channel, ScaleZero(*(part[i] for part in searched)), grid.bits)
        limit = float64_error(channel, ScaleZero(*(part[i] for part in covered)), grid.bits)
        assert found <= limit * (1 + 2 * (channel.numel() + 8) * U)


@pytest.mark.parametrize("symmetric", [False, True], ids=["asymmetric", "symmetric"])
def test_mse_search_clips_an_outlier(symmetric):
    x = torch.cat([torch.linspace(-1, 1, 1000), torch.tensor([2.0])])
    grid = Grid(4, symmetric)
    searched, covered = mse_search(x, grid), min_max(x, grid)
    assert searched.scale < covered.scale
    assert float64_error(x, searched, 4) < float64_error(x, covered, 4)
    assert fake_quantize(x, *searched, 4)[-1] < 2 - searched.scale / 2  # the price: one value is far off


def test_mse_search_shrinks_to_a_fifth_at_most():
    # Of 10,000 values up to 0.8 and one of 4 on a two-bit grid: the finest range, up to 0.84, is the best.
    # From 0.88 to 0.84 the many errors of up to s / 2, whose mean power is (s / 2)^2.4 / 3.4, gain
    # 2941 ((0.88 / 6)^2.4 - (0.84 / 6)^2.4) = 3.1, and the outlier loses 3.16^2.4 - 3.12^2.4 = 0.48.
    x = torch.cat([torch.linspace(0, 0.8, 10_000), torch.tensor([4.0])])
    assert mse_search(x, Grid(2)).scale == min_max((1 - 0.01 * (MSE_CANDIDATES - 1)) * x, Grid(2)).scale


@pytest.mark.parametrize("range_name", RANGES)
def test_zero_error_keeps_the_whole_range(range_name):
    x = torch.arange(-8.0, 8.0)
    assert RANGES[range_name](x, Grid(4)) == (torch.tensor(1.0), torch.tensor(8.0))


@pytest.mark.parametrize(
    ("percent", "low", "high"),
    [(100, -500, 500), (99.9, -499, 499), (99, -490, 490), (90, -400, 400), (50.1, -1, 1)],
)
def test_percentile_clips_its_share_at_each_end(percent, low, high):
    x = torch.arange(-500.0, 501.0)[torch.randperm(1001, generator=seeded(0))]
    expected = scale_for_range(torch.tensor(float(low)), torch.tensor(float(high)), Grid(8))
    assert percentile(x, Grid(8), percent) == expected
    spread = torch.stack([x, 3 * x]).T.reshape(7, 143, 2)  # the channels along the last axis
    scale, zero_point = percentile(spread, Grid(8, granularity=PerAxis(-1)), percent)
    assert scale.shape == zero_point.shape == (1, 1, 2)
    assert scale[0, 0, 0] == expected.scale
    assert scale[0, 0, 1] == scale_for_range(torch.tensor(3.0 * low), torch.tensor(3.0 * high), Grid(8)).scale


@given(seed=seeds, grid=grids, axis=st.sampled_from([None, 0, 1, -1]))
@some
def test_percentile_100_is_min_max(seed, grid, axis):
    grid = Grid(grid.bits, grid.symmetric, PerTensor() if axis is None else PerAxis(axis))
    found, expected = percentile(weights(seed), grid, 100), min_max(weights(seed), grid)
    assert torch.equal(found.scale, expected.scale) and torch.equal(found.zero_point, expected.zero_point)


def test_percentile_ignores_outliers_and_min_max_does_not():
    x = torch.randn(5000, generator=seeded(1))
    loud = torch.cat([x, torch.tensor([1e6, -1e6])])
    assert percentile(loud, Grid(8)).scale < 2 * percentile(x, Grid(8)).scale
    assert min_max(loud, Grid(8)).scale > 1e5 * min_max(x, Grid(8)).scale


@pytest.mark.parametrize("percent", [50, 0, -1, 100.01, float("nan")])
def test_percent_out_of_bounds(percent):
    with pytest.raises(ValueError, match=f"percent={percent!r} must be above 50 and at most 100"):
        percentile(torch.ones(3), Grid(8), percent)


@pytest.mark.parametrize("range_name", RANGES)
def test_activation_range_is_a_pair_of_scalars(range_name):
    sample = torch.randn(500, generator=seeded(0))
    found = find_activation_range(sample, Grid(8, symmetric=True), range_name)
    assert found.scale.shape == found.zero_point.shape == ()
    assert found == RANGES[range_name](sample, Grid(8, symmetric=True))


def test_activation_range_is_per_tensor():
    with pytest.raises(ValueError, match=r"granularity=PerAxis\(axis=0\) is not for activations"):
        find_activation_range(torch.ones(3), Grid(8, granularity=PerAxis(0)), "min_max")
