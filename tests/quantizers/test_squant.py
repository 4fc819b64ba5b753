"""SQuant: at most one step from nearest, small sums over kernels and channels, within the grid."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from qdiff_lib.modules.quant_layer import QuantLayer
from qdiff_lib.quantizers.grid import Grid, PerAxis, fake_quantize
from qdiff_lib.quantizers.range_finders import min_max, mse_search
from qdiff_lib.quantizers.squant import flip, squant_levels

SHAPES = {
    "conv2d": (6, 5, 3, 3),
    "pointwise": (6, 40, 1, 1),
    "linear": (6, 40),
    "conv1d": (6, 5, 4),
    "one output": (1, 7, 3, 3),
    "one weight": (4, 1, 1, 1),
}
WIDE = 16  # bits of a grid whose ends no weight is near
U = 2**-24  # unit roundoff of float32

every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
some = settings(max_examples=15, deadline=None, derandomize=True)
cases = given(seed=st.integers(0, 2**32 - 1), shape=st.sampled_from([*SHAPES.values()]))
widths = st.sampled_from([2, 3, 4, 8])


def weight_of(seed, shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def endless(weight):
    """Steps of 0.1 and a zero point in the middle of 2^16 codes: no weight is near an end."""
    shape = (len(weight),) + (1,) * (weight.ndim - 1)
    return torch.full(shape, 0.1), torch.full(shape, 2.0 ** (WIDE - 1)), WIDE


def sums(codes, weight, scale):
    """Summed errors in steps: of each kernel, (C_out, C_in), and of each output channel, (C_out,)."""
    error = codes.double() - (weight / scale).double()
    return error.reshape(*error.shape[:2], -1).sum(-1), error.flatten(1).sum(-1)


def slack(weight):
    """Of a sum of n float32 errors of at most 1 step: each addition rounds a sum of at most n."""
    return weight[0].numel() ** 2 * U


def by_the_book(exact, low, high):
    """Codes of one output channel, (C_in, K) of lists: by element, by kernel, then over the channel."""
    codes = [[min(max(round(w), low), high) for w in kernel] for kernel in exact]
    candidates = []
    for kernel, row in zip(exact, codes, strict=True):
        total = sum(c - w for c, w in zip(row, kernel, strict=True))
        way = 1 if total > 0 else -1
        able = [i for i, w in enumerate(kernel) if (row[i] - w) * way > 0 and low <= row[i] - way <= high]
        able.sort(key=lambda i: -abs(row[i] - kernel[i]))
        turned = able[: round(abs(total))]
        for i in turned:
            row[i] -= way
        left = sum(c - w for c, w in zip(row, kernel, strict=True))
        following = turned[-1:] if left * way < 0 else able[len(turned) : len(turned) + 1]
        candidates += [(kernel, row, i) for i in following]
    total = sum(
        c - w for kernel, row in zip(exact, codes, strict=True) for c, w in zip(row, kernel, strict=True)
    )
    way = 1 if total > 0 else -1
    able = [(k, r, i) for k, r, i in candidates if (r[i] - k[i]) * way > 0 and low <= r[i] - way <= high]
    able.sort(key=lambda found: -abs(found[1][found[2]] - found[0][found[2]]))
    for _, row, i in able[: round(abs(total))]:
        row[i] -= way
    return codes


@cases
@some
def test_codes_are_those_of_the_algorithm_written_with_loops(seed, shape):
    weight = weight_of(seed, shape)
    for grid in (endless(weight), (*min_max(weight, Grid(3, granularity=PerAxis(0))), 3)):
        scale, zero_point, bits = grid
        exact = (weight / scale).reshape(*shape[:2], -1).double()
        low = (-zero_point).flatten().tolist()
        expected = [
            by_the_book(channel.tolist(), end, end + 2**bits - 1)
            for channel, end in zip(exact, low, strict=True)
        ]
        assert torch.equal(squant_levels(weight, *grid), torch.tensor(expected).view(shape).float())


@cases
@some
def test_sums_over_channels_and_kernels_are_small(seed, shape):
    weight = weight_of(seed, shape)
    scale, *grid = endless(weight)
    kernels, channels = sums(squant_levels(weight, scale, *grid), weight, scale)
    assert (channels.abs() <= 0.5 + slack(weight)).all()
    assert (kernels.abs() <= 1 + slack(weight)).all()


@given(seed=st.integers(0, 2**32 - 1))
@some
def test_kernels_of_one_element_flip_as_often_as_the_channel_asks(seed):
    weight = weight_of(seed, SHAPES["pointwise"])
    grid = endless(weight)
    nearest = (weight / grid[0]).round()
    flips = (squant_levels(weight, *grid) != nearest).flatten(1).sum(1)
    assert torch.equal(flips.double(), sums(nearest, weight, grid[0])[1].abs().round())


@cases
@some
def test_the_second_stage_alone_holds_every_kernel_to_half_a_step(seed, shape):
    exact = 10 * weight_of(seed, shape).reshape(*shape[:2], -1)
    ends = torch.full((shape[0], 1, 1), 1e6)
    codes, movable = flip(exact.round(), exact, -ends, ends, torch.ones_like(exact, dtype=torch.bool))
    assert ((codes - exact).sum(-1).abs() <= 0.5 + slack(exact)).all()
    assert ((codes - exact).abs() < 1).all()
    assert (movable.sum(-1) == 1).all()  # one element in each kernel, on the side of the sum that is left
    error = torch.where(movable, codes - exact, 0).sum(-1)
    assert (error * (codes - exact).sum(-1) >= 0).all()


@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.sampled_from([*SHAPES.values()]),
    bits=widths,
    find_range=st.sampled_from([min_max, mse_search]),
)
@example(seed=0, shape=(6, 5, 3, 3), bits=2, find_range=mse_search)
@some
def test_each_code_is_a_neighbour_of_the_weight_and_on_the_grid(seed, shape, bits, find_range):
    weight = weight_of(seed, shape)
    scale, zero_point = find_range(weight, Grid(bits, granularity=PerAxis(0)))
    codes = squant_levels(weight, scale, zero_point, bits)
    assert torch.equal(codes, codes.round())
    assert ((codes + zero_point >= 0) & (codes + zero_point <= 2**bits - 1)).all()
    exact = weight / scale
    nearest = exact.round().clamp(-zero_point, 2**bits - 1 - zero_point)
    moved = codes - nearest
    assert (moved.abs() <= 1).all()
    assert (moved * (nearest - exact) <= 0).all()  # towards the neighbour on the other side
    inside = (exact >= -zero_point) & (exact <= 2**bits - 1 - zero_point)
    assert torch.equal(codes[~inside], nearest[~inside])
    assert ((codes - exact).abs()[inside] < 1).all()


@cases
@some
def test_channels_end_nearer_than_with_nearest_on_grids_with_ends(seed, shape):
    weight = weight_of(seed, shape)
    scale, zero_point = min_max(weight, Grid(4, granularity=PerAxis(0)))
    nearest = (weight / scale).round().clamp(-zero_point, 15 - zero_point)
    before = sums(nearest, weight, scale)[1].abs()
    after = sums(squant_levels(weight, scale, zero_point, 4), weight, scale)[1].abs()
    assert (after <= torch.maximum(before, torch.tensor(0.5)) + slack(weight)).all()


@cases
@some
def test_it_is_idempotent_and_deterministic(seed, shape):
    weight = weight_of(seed, shape)
    grid = (*min_max(weight, Grid(4, granularity=PerAxis(0))), 4)
    levels = squant_levels(weight, *grid)
    once = grid[0] * levels
    assert torch.equal(squant_levels(once, *grid), levels)
    assert torch.equal(squant_levels(weight, *grid), levels)
    assert torch.equal(fake_quantize(once, *grid), once)  # bit for bit what codes in a file give


def test_equal_errors_flip_in_the_order_of_the_weights():
    weight = torch.full((1, 1, 2, 5), 0.3)  # ten errors of -0.3 steps
    codes = squant_levels(weight, torch.ones(1, 1, 1, 1), torch.full((1, 1, 1, 1), 8.0), 4)
    assert codes.flatten().tolist() == [1] * 3 + [0] * 7


def test_an_end_of_the_grid_stops_flips():
    weight = torch.tensor([7.4, 7.4, 7.4, 2.3]).view(1, 1, 2, 2)  # codes -8 to 7, errors that sum to -1.5
    codes = squant_levels(weight, torch.ones(1, 1, 1, 1), torch.full((1, 1, 1, 1), 8.0), 4)
    assert codes.flatten().tolist() == [7, 7, 7, 3]


@every_shape
def test_a_constant_offset_of_the_input_passes_unharmed(shape):
    """The sum over a channel is its response to a constant input: what SQuant preserves, nearest does not."""
    weight = weight_of(1, (32, *shape[1:]))
    scale, *grid = endless(weight)
    found = sums(squant_levels(weight, scale, *grid), weight, scale)[1].abs().mean()
    nearest = sums((weight / scale).round(), weight, scale)[1].abs().mean()
    assert found <= nearest and (weight[0].numel() < 20 or found < 0.4 * nearest)


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(6, 5, 3), nn.Conv2d(6, 5, 1), nn.Conv1d(6, 5, 3), nn.Linear(6, 5)], ids=str
)
def test_layers_and_both_halves_of_a_split_are_rounded(layer):
    torch.manual_seed(0)
    original = layer.weight.detach().clone()
    quantized = QuantLayer(layer, 4, None, (4, 2))
    quantized.find_weight_range("min_max")
    quantized.round_weight("squant")
    for i, (part, before) in enumerate(
        zip(quantized.weight_parts(), original.split((4, 2), dim=1), strict=True)
    ):
        scale, zero_point = quantized.part_grid(i)
        assert torch.equal(part, scale * squant_levels(before, scale, zero_point, 4))


def test_a_channel_of_zeros_stays_zero():
    weight = torch.zeros(2, 3, 3, 3)
    scale, zero_point = min_max(weight, Grid(4, granularity=PerAxis(0)))
    assert (squant_levels(weight, scale, zero_point, 4) == 0).all()
