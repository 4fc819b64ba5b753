"""The loss and the annealed regularizer. What fitting gains is tested in test_reconstruction.py."""

import pytest
import torch

from qdiff_lib.ptq.fitting import annealed_beta, feature_axis, reconstruction_loss
from qdiff_lib.recipes.parts import Rounding


@pytest.mark.parametrize(
    "shape, axis, expected",
    [((2, 3, 4, 5), 1, 3.0), ((2, 5, 7), -1, 7.0), ((2, 6), -1, 6.0)],
    ids=["image", "tokens", "vector"],
)
def test_the_loss_sums_over_features(shape, axis, expected):
    assert feature_axis(torch.zeros(shape)) == axis
    assert reconstruction_loss(torch.ones(shape), torch.zeros(shape)).item() == pytest.approx(expected)


def test_the_loss_of_tokens_is_that_of_the_same_image():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 2, 6, 4, 4, generator=generator)
    tokens = [x.flatten(2).transpose(1, 2) for x in (a, b)]
    torch.testing.assert_close(reconstruction_loss(*tokens), reconstruction_loss(a, b))


@pytest.mark.parametrize("iteration, beta", [(20, 20.0), (60, 11.0), (100, 2.0)])
def test_beta_falls_along_a_line_after_the_warm_up(iteration, beta):
    rounding = Rounding(iterations=100, warmup=0.2, beta=(20.0, 2.0))
    assert annealed_beta(iteration, rounding) == pytest.approx(beta)
