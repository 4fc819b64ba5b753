"""Learned rounding: where it starts, where it may end, and what the gradients reach."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qdiff_lib.quantizers.adaround import AdaRound
from qdiff_lib.quantizers.grid import ALLOWED_BITS, Grid, PerAxis, fake_quantize, quantize
from qdiff_lib.quantizers.range_finders import min_max, mse_search

U = 2**-24  # unit roundoff of float32

some = settings(max_examples=25, deadline=None, derandomize=True)
seeds = st.integers(0, 2**32 - 1)
widths = st.sampled_from(ALLOWED_BITS)
every_width = pytest.mark.parametrize("bits", ALLOWED_BITS, ids="{}-bit".format)
one, zero = torch.tensor(1.0), torch.tensor(0.0)


def weight_of(seed, size=1.0):
    return size * torch.randn(5, 4, 3, 3, generator=torch.Generator().manual_seed(seed))


def learned(weight, bits, find_range=min_max):
    """An AdaRound of that weight on per-channel grids."""
    return AdaRound(weight, *find_range(weight, Grid(bits, granularity=PerAxis(0))), bits)


def scramble(rounding, seed):
    """Give V values of all sizes, as after some training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        rounding.v.copy_(4 * torch.randn(rounding.v.shape, generator=generator))


def decide(rounding, v):
    """The decided weight when every element of V is ``v``."""
    with torch.no_grad():
        rounding.v.fill_(v)
    return rounding.decided()


@given(seed=seeds, bits=widths, exponent=st.integers(-6, 6))
@some
def test_soft_weight_starts_at_the_weight(seed, bits, exponent):
    # In steps, with n = 2^b - 1: w / s errs by n U and floor + h by n U, the product s k by n U of its own.
    # h: r = 1.2 / (f + 0.1) lies in [1.09, 12] and errs by 4 r U (two constants, a sum, a division), so
    # log(r - 1) by 4 r U / (r - 1) + 3 U <= 52 U, which dh/dV = 1.2 sig (1 - sig) = 0.09 at r = 1.09 makes
    # 5 U (elsewhere less); sigmoid, product, sum add 2 U, 1.2 U, U. All below 16 U; the range of min_max is
    # missed at its ends by half a step, because the zero point is whole.
    weight = weight_of(seed, 10.0**exponent)
    rounding = learned(weight, bits)
    scale, zero_point, n = rounding.scale.double(), rounding.zero_point.double(), 2**bits - 1
    expected = weight.double().clamp(-zero_point * scale, (n - zero_point) * scale)
    error = (rounding().detach().double() - expected).abs()
    assert (error <= scale * (16 + 4 * n) * U).all()


@given(seed=seeds, bits=widths)
@some
def test_decided_weight_is_floor_or_ceil_on_the_grid(seed, bits):
    weight = weight_of(seed)
    rounding = learned(weight, bits, mse_search)
    scramble(rounding, seed)
    decided, grid = rounding.decided(), (rounding.scale, rounding.zero_point)
    assert torch.equal(fake_quantize(decided, *grid, bits), decided)
    down = torch.floor(weight / rounding.scale) + rounding.zero_point
    below, above = down.clamp(0, 2**bits - 1), (down + 1).clamp(0, 2**bits - 1)
    codes = quantize(decided, *grid, bits)
    assert ((codes == below) | (codes == above)).all()
    assert torch.equal(codes == above, (rounding.h() >= 0.5) | (below == above))


@given(seed=seeds, bits=widths)
@some
def test_soft_weight_lies_between_the_two_decisions(seed, bits):
    rounding = learned(weight_of(seed), bits, mse_search)
    scramble(rounding, seed)
    soft = rounding().detach()
    low, high = (decide(rounding, v) for v in (-9.0, 9.0))
    assert (low <= soft).all() and (soft <= high).all()
    assert (low < high).any()


@pytest.mark.parametrize("beta", [2.0, 7.5, 20.0])
def test_regularizer_is_zero_when_decided_and_counts_what_is_not(beta):
    rounding = learned(weight_of(0), 4)
    for v, expected in ((-9.0, 0), (9.0, 0), (0.0, rounding.v.numel())):
        decide(rounding, v)
        assert rounding.regularizer(beta).item() == expected


def test_regularizer_by_hand():
    # sigmoid(log 3) = 3/4, so h = 1.2 * 3/4 - 0.1 = 0.8 and 1 - |2 h - 1|^2 = 0.64. The rounding errors:
    # h by 4 U, 2 h - 1 by 9 U, its square by 12 U, the sum of two by a U more each: below 32 U.
    rounding = AdaRound(torch.tensor([0.2, 0.7]), one, zero, 4)
    with torch.no_grad():
        rounding.v.copy_(torch.log(torch.tensor([3.0, 1 / 3])))
    assert rounding.regularizer(2.0).item() == pytest.approx(2 * 0.64, abs=32 * U)


def test_gradients_reach_v_and_nothing_else():
    weight = weight_of(0).requires_grad_()
    scale, zero_point = min_max(weight.detach(), Grid(4, granularity=PerAxis(0)))
    rounding = AdaRound(weight, scale.requires_grad_(False), zero_point, 4)
    assert [name for name, _ in rounding.named_parameters()] == ["v"]
    (rounding().square().sum() + rounding.regularizer(2.0)).backward()
    assert rounding.v.grad.count_nonzero() > 0.5 * weight.numel()
    assert weight.grad is None and scale.grad is None
    assert not rounding.decided().requires_grad


def test_gradient_of_v_is_that_of_the_formula():
    # d w~ / dV = s 1.2 sigmoid (1 - sigmoid) where h is inside (0, 1) and the code inside the grid, else 0.
    weight = torch.tensor([0.6, 5.0, -4.6, 1.5], dtype=torch.float64)
    scale, zero_point = torch.tensor(2.0, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)
    rounding = AdaRound(weight, scale, zero_point, 2)  # codes -1 to 2, w / s = 0.3, 2.5, -2.3, 0.75
    with torch.no_grad():
        rounding.v[3] = 9
    rounding().sum().backward()
    sigmoid = torch.sigmoid(rounding.v.detach()[0])
    # Four operations in double precision, of values below 3: each errs by at most 3 * 2^-53.
    assert rounding.v.grad[0].item() == pytest.approx((2.4 * sigmoid * (1 - sigmoid)).item(), abs=12 * 2**-53)
    assert rounding.v.grad[1:].tolist() == [0, 0, 0]


@every_width
@pytest.mark.parametrize(
    "fraction", [0.0, 1e-45, 1e-12, U, 0.5, 1 - U, -1e-45, -1e-12, -U], ids=lambda f: f"{f:.0e}"
)
def test_extreme_fractions_stay_finite(fraction, bits):
    weight = torch.tensor([fraction, 1 + fraction])
    rounding = AdaRound(weight, one, one, bits)
    soft = rounding()
    (soft.sum() + rounding.regularizer(20.0) + rounding.regularizer(2.0)).backward()
    assert rounding.v.isfinite().all() and rounding.v.grad.isfinite().all()
    assert ((rounding.h() >= 0) & (rounding.h() <= 1)).all()
    # |w / s| <= 2, so the errors of the first test are 16 U (h), and 2 U each for division, sum, product.
    assert ((soft - weight).abs() <= 22 * U).all()


def test_scale_zero_point_and_floor_are_buffers():
    rounding = learned(weight_of(0), 4)
    assert set(rounding.state_dict()) == {"v", "scale", "zero_point", "floor"}
    assert {value.dtype for value in rounding.to(torch.float64).state_dict().values()} == {torch.float64}
