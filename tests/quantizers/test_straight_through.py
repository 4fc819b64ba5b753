"""A rounded weight that goes on learning: where it starts, its gradients, its grid."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qdiff_lib.quantizers.grid import ALLOWED_BITS, Grid, PerAxis
from qdiff_lib.quantizers.range_finders import mse_search
from qdiff_lib.quantizers.rounding import round_nearest
from qdiff_lib.quantizers.straight_through import WITHIN, StraightThrough

U = 2**-24  # unit roundoff of float32

some = settings(max_examples=25, deadline=None, derandomize=True)
seeds = st.integers(0, 2**32 - 1)
widths = st.sampled_from(ALLOWED_BITS)


def weight_of(seed, size=1.0):
    return size * torch.randn(5, 4, 3, 3, generator=torch.Generator().manual_seed(seed))


@some
@given(seeds, widths)
def test_straight_through_starts_at_the_rounded_weight(seed, bits):
    weight = weight_of(seed)
    scale, zero_point = mse_search(weight, Grid(bits, granularity=PerAxis(0)))
    rounded = scale * round_nearest(weight, scale, zero_point, bits)
    part = StraightThrough(rounded, weight, scale, zero_point, bits)
    torch.testing.assert_close(part(), rounded, rtol=44 * U, atol=0)  # s = exp(log s), and |log s| <= 19
    assert torch.equal(part(), part.current_scale() * part.levels())
    assert torch.equal(part.levels(), torch.round(rounded / scale))
    assert ((part.u - part.levels()).abs() <= WITHIN + 2**bits * U).all()


def test_straight_through_stays_on_its_grid_and_passes_the_gradient():
    weight, scale, zero_point = torch.tensor([-0.2, 0.0, 0.1]), torch.tensor(0.1), torch.tensor(2.0)
    part = StraightThrough(weight, torch.tensor([-0.5, 0.02, 0.1]), scale, zero_point, 2)  # codes -2 to 1
    torch.testing.assert_close(part.u, torch.tensor([-2.45, 0.2, 1.0]))
    part().sum().backward()
    torch.testing.assert_close(part.u.grad, torch.full((3,), 0.1))
    torch.testing.assert_close(part.log_scale.grad, torch.tensor(-0.1))  # 0.1 times the sum of the codes
    with torch.no_grad():
        part.u += torch.tensor([-3.0, 0.4, 2.0])
        part.log_scale += torch.tensor(2.0).log()
    torch.testing.assert_close(part.current_scale().detach() * part.levels(), torch.tensor([-0.4, 0.2, 0.2]))
    torch.testing.assert_close(part.current_scale(), torch.tensor(0.2))
