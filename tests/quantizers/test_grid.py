"""What every integer grid promises, for all widths, schemes, granularities and range finders."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qdiff_lib.quantizers.grid import (
    ALLOWED_BITS,
    SMALLEST_SCALE,
    Grid,
    PerAxis,
    PerTensor,
    dequantize,
    fake_quantize,
    quantize,
    scale_for_range,
    shared_axes,
)
from qdiff_lib.quantizers.range_finders import RANGES

U = 2**-24  # unit roundoff of float32: each operation's relative error is at most U

few = settings(max_examples=15, deadline=None, derandomize=True)
every_width = pytest.mark.parametrize("bits", ALLOWED_BITS, ids="{}-bit".format)
every_scheme = pytest.mark.parametrize("symmetric", [False, True], ids=["asymmetric", "symmetric"])


@st.composite
def tensors(draw, min_dims=1):
    """float32, 1 to 4 axes: values up to 8, 1e-9 or 1e37, subnormal ones and all-zero channels among them."""
    shape = draw(hnp.array_shapes(min_dims=min_dims, max_dims=4, min_side=1, max_side=5))
    limit = draw(st.sampled_from([8.0, 2.0**-30, 2.0**123]))
    x = torch.from_numpy(draw(hnp.arrays(np.float32, shape, elements=st.floats(-limit, limit, width=32))))
    if draw(st.booleans()):
        x[0] = 0
    return x


@st.composite
def cases(draw):
    """A tensor, a granularity, whether the grid is symmetric, and a range finder."""
    x = draw(tensors())
    axes = [PerAxis(axis) for axis in range(-x.ndim, x.ndim) if x.ndim > 1]
    return (
        x,
        draw(st.sampled_from([PerTensor(), *axes])),
        draw(st.booleans()),
        draw(st.sampled_from([*RANGES])),
    )


def fit(case, bits):
    """The tensor of a case, its grid, and the scale and zero point that the case's range finder gives."""
    x, granularity, symmetric, name = case
    grid = Grid(bits, symmetric, granularity)
    return x, grid, RANGES[name](x, grid)


def in_rows(x, granularity):
    """One row for each scale."""
    if granularity == PerTensor():
        return x.reshape(1, -1)
    return x.movedim(granularity.axis, 0).reshape(x.shape[granularity.axis], -1)


@every_width
@given(case=cases())
@few
def test_scale_is_positive_and_everything_is_finite(case, bits):
    x, grid, (scale, zero_point) = fit(case, bits)
    assert (scale >= torch.tensor(SMALLEST_SCALE)).all() and scale.isfinite().all()
    assert torch.equal(zero_point, zero_point.round())
    assert (zero_point >= 0).all() and (zero_point <= grid.top).all()
    assert fake_quantize(x, scale, zero_point, bits).isfinite().all()


@every_width
@given(case=cases())
@few
def test_zero_maps_to_zero(case, bits):
    x, _, found = fit(case, bits)
    assert (fake_quantize(torch.zeros_like(x), *found, bits) == 0).all()
    assert (dequantize(quantize(torch.zeros_like(x), *found, bits), *found) == 0).all()


@every_width
@given(case=cases())
@few
def test_monotone(case, bits):
    x, grid, found = fit(case, bits)
    rows, order = in_rows(x, grid.granularity).sort(1)
    mapped = in_rows(fake_quantize(x, *found, bits), grid.granularity).gather(1, order)
    assert (mapped[:, 1:] >= mapped[:, :-1]).all()
    codes = in_rows(quantize(x, *found, bits), grid.granularity).gather(1, order).int()
    assert (codes[:, 1:] >= codes[:, :-1]).all()


@every_width
@given(case=cases())
@few
def test_idempotent(case, bits):
    x, _, found = fit(case, bits)
    once = fake_quantize(x, *found, bits)
    assert torch.equal(fake_quantize(once, *found, bits), once)
    assert torch.equal(quantize(once, *found, bits), quantize(x, *found, bits))


@every_width
@given(case=cases())
@few
def test_dequantized_codes_are_the_fake_quantized_tensor(case, bits):
    x, grid, found = fit(case, bits)
    before, codes = x.clone(), quantize(x, *found, bits)
    assert codes.dtype == (torch.uint8 if bits <= 8 else torch.int32)
    assert codes.shape == x.shape
    assert codes.min() >= 0 and codes.max() <= grid.top
    assert torch.equal(dequantize(codes, *found), fake_quantize(x, *found, bits))
    assert torch.equal(x, before)


@every_width
@given(case=cases())
@few
def test_error_is_at_most_half_a_step_and_the_rest_is_clipped(case, bits):
    # Inside the range |x / s| <= n = 2^b - 1. The division errs by at most n U, rounding by 1/2, and the
    # product k s by n U s: together s (1/2 + 2 n U), and a third n U covers the terms of order U^2.
    x, grid, (scale, zero_point) = fit(case, bits)
    mapped = fake_quantize(x, scale, zero_point, bits)
    s, z = scale.double(), zero_point.double()
    inside = (x >= -z * s) & (x <= (grid.top - z) * s)
    error = (mapped.double() - x.double()).abs()
    assert (error <= s * (0.5 + 3 * grid.top * U))[inside].all()
    ends = torch.where(x > 0, scale * (grid.top - zero_point), scale * -zero_point)
    assert torch.equal(mapped[~inside], ends[~inside])


@every_width
@given(case=cases())
@few
def test_min_max_has_at_most_half_a_step_of_error_everywhere(case, bits):
    # As above, and at the ends: s = (high - low) / n errs by 2 U, so high / s <= n (1 + 3 U) + low / s, and
    # the zero point is at least -low / s - 1/2 - n U: high lies at most 1/2 + 4 n U steps above the top code.
    # With the product's n U that is 5 n U, and 6 n U covers the terms of order U^2.
    x, grid, (scale, zero_point) = fit((*case[:3], "min_max"), bits)
    error = (fake_quantize(x, scale, zero_point, bits).double() - x.double()).abs()
    assert (error <= scale.double() * (0.5 + 6 * grid.top * U)).all()


@every_scheme
@every_width
def test_all_levels_are_used_and_no_more(bits, symmetric):
    middle = 2 ** (bits - 1)
    x = torch.linspace(-1, 1 - 1 / middle, 5 * 2**bits)  # the range of a symmetric grid, to the last code
    found = RANGES["min_max"](x, Grid(bits, symmetric))
    assert len(fake_quantize(x, *found, bits).unique()) == 2**bits
    assert len(quantize(x, *found, bits).unique()) == 2**bits


@every_width
@pytest.mark.parametrize("range_name", RANGES)
@every_scheme
def test_tensor_far_from_zero_keeps_its_variation(bits, symmetric, range_name):
    if symmetric and bits == 2:
        pytest.skip("the one positive level is the best constant")
    if range_name == "mse_search" and bits < 4:
        pytest.skip("a constant near 5.5 can have the least error")
    x = torch.linspace(5, 6, 101)
    mapped = fake_quantize(x, *RANGES[range_name](x, Grid(bits, symmetric)), bits)
    assert len(mapped.unique()) > 1


@pytest.mark.parametrize("range_name", RANGES)
@every_scheme
@every_width
def test_positive_values_survive(bits, symmetric, range_name):
    x = torch.linspace(0, 1, 101)
    mapped = fake_quantize(x, *RANGES[range_name](x, Grid(bits, symmetric)), bits)
    assert mapped[-1] > 0.5


@pytest.mark.parametrize("range_name", RANGES)
@every_scheme
@every_width
def test_constant_channels_beside_an_ordinary_one(bits, symmetric, range_name):
    constants = torch.tensor([0, 1e-45, -1e-38, 1e-12, 3, -3, 1e37, -1e37])[:, None].expand(-1, 9)
    x = torch.cat([torch.linspace(-1, 1, 9)[None], constants])
    grid = Grid(bits, symmetric, PerAxis(0))
    mapped = fake_quantize(x, *RANGES[range_name](x, grid), bits)
    assert mapped.isfinite().all()
    assert len(mapped[0].unique()) > 1
    # The percentile range of a constant is its min-max range, and the least error is not larger than that of
    # the min-max range: the bound of the test above holds for all three.
    bound = RANGES["min_max"](x, grid).scale.double() * (0.5 + 6 * grid.top * U)
    assert ((mapped.double() - x.double()).abs() <= bound)[1:].all()


@pytest.mark.parametrize(
    ("low", "high", "symmetric", "scale", "zero_point"),
    [
        pytest.param(-1, 2, False, 1, 1, id="asymmetric"),
        pytest.param(3, 6, False, 2, 0, id="widened-down-to-zero"),
        pytest.param(-6, -3, False, 2, 3, id="widened-up-to-zero"),
        pytest.param(-4, 1, True, 2, 2, id="symmetric-lower-end"),
        pytest.param(-1, 4, True, 4, 2, id="symmetric-upper-end"),
        pytest.param(0, 0, False, SMALLEST_SCALE, 0, id="empty"),
        pytest.param(0, 0, True, SMALLEST_SCALE, 2, id="symmetric-empty"),
    ],
)
def test_two_bit_grid_of_a_range(low, high, symmetric, scale, zero_point):
    found = scale_for_range(torch.tensor(float(low)), torch.tensor(float(high)), Grid(2, symmetric))
    assert found == (torch.tensor(scale), torch.tensor(zero_point))


def test_two_bit_codes_by_hand():
    one = torch.tensor(1.0)
    x = torch.tensor([-9.0, -1.0, -0.6, -0.4, 0.0, 1.4, 1.6, 2.0, 9.0])
    assert quantize(x, one, one, 2).tolist() == [0, 0, 0, 1, 1, 2, 3, 3, 3]
    assert fake_quantize(x, one, one, 2).tolist() == [-1, -1, -1, 0, 0, 1, 2, 2, 2]


@every_width
@given(x=tensors(min_dims=2), data=st.data(), symmetric=st.booleans())
@few
def test_per_axis_is_per_tensor_on_every_slice(bits, x, data, symmetric):
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    scale, zero_point = RANGES["min_max"](x, Grid(bits, symmetric, PerAxis(axis)))
    assert scale.shape == zero_point.shape
    assert [n for i, n in enumerate(scale.shape) if i != axis % x.ndim] == [1] * (x.ndim - 1)
    alone = [RANGES["min_max"](part, Grid(bits, symmetric)) for part in x.unbind(axis)]
    assert scale.flatten().tolist() == [found.scale.item() for found in alone]
    assert zero_point.flatten().tolist() == [found.zero_point.item() for found in alone]


@every_scheme
@pytest.mark.parametrize("range_name", RANGES)
def test_double_precision_is_kept(symmetric, range_name):
    x = torch.linspace(-1, 2, 50, dtype=torch.float64)
    found = RANGES[range_name](x, Grid(4, symmetric))
    assert {found.scale.dtype, found.zero_point.dtype} == {torch.float64}
    assert fake_quantize(x, *found, 4).dtype == torch.float64


@every_width
@given(case=cases())
@few
def test_gradient_mode_gives_the_same_values(case, bits):
    x, _, found = fit(case, bits)
    mapped = fake_quantize(x.clone().requires_grad_(), *found, bits)
    assert mapped.requires_grad
    assert torch.equal(mapped.detach(), fake_quantize(x, *found, bits))


def test_straight_through_gradients():
    # q = clip(round(x / s), -1, 2): inside, d(s q)/dx = 1 and d(s q)/ds = q - x / s; clipped, 0 and q.
    # 3.0 has the last code without being clipped.
    x = torch.tensor([-4.0, -0.5, 0.75, 3.0, 9.0], requires_grad=True)
    scale = torch.tensor(2.0, requires_grad=True)
    fake_quantize(x, scale, torch.tensor(1.0), 2).sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 1, 0]
    assert scale.grad.item() == -1 + (0 + 0.25) + (0 - 0.375) + (2 - 1.5) + 2


@pytest.mark.parametrize("bits", [0, 1, 9, 15, 17, 32, -4, "4", None])
def test_unsupported_width(bits):
    with pytest.raises(ValueError, match=f"bits={bits!r} is not supported.*2, 3, 4, 5, 6, 7, 8, 16"):
        Grid(bits)


@pytest.mark.parametrize("axis", [2, -3])
def test_missing_axis(axis):
    with pytest.raises(ValueError, match=rf"axis={axis} does not exist in a tensor of shape \(3, 4\)"):
        shared_axes(torch.zeros(3, 4), PerAxis(axis))


def test_vector_has_one_scale():
    with pytest.raises(ValueError, match=r"PerAxis\(axis=0\) gives each of 3 elements a scale"):
        RANGES["min_max"](torch.ones(3), Grid(4, granularity=PerAxis(0)))


def test_shared_axes():
    x = torch.zeros(2, 3, 4)
    assert shared_axes(x, PerTensor()) == (0, 1, 2)
    assert shared_axes(x, PerAxis(1)) == (0, 2)
    assert shared_axes(x, PerAxis(-1)) == (0, 1)
