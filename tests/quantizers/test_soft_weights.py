"""The soft weights of a unit at once have the bits, and the gradients, of each ``AdaRound`` alone."""

import pytest
import torch

from qdiff_lib.quantizers.adaround import AdaRound
from qdiff_lib.quantizers.soft_weights import soft_weights

SHAPES = [(8, 3, 3, 3), (5, 7), (24, 32, 1, 1)]
STRENGTH = 0.01


def parts(learn_scale=False):
    """Grids whose ends lie on weights and within them, and V of all sizes: every clip is reached."""
    generator, made = torch.Generator().manual_seed(0), []
    for shape in SHAPES:
        weight = torch.randn(shape, generator=generator)
        scale = weight.flatten(1).abs().amax(1).div(6).view(-1, *[1] * (weight.ndim - 1))
        part = AdaRound(weight, scale, torch.full_like(scale, 7.0), 4)
        narrow = AdaRound(weight, scale, torch.full_like(scale, 7.0), 3)
        with torch.no_grad():
            narrow.v.copy_(4 * torch.randn(shape, generator=generator))
        made += [part, narrow]
    if learn_scale:
        for part in made:
            part.learn_scale()
    return made


def gradients(weights, made, penalty=0.0):
    loss = sum((w.sin() * torch.arange(w.numel()).view(w.shape)).sum() for w in weights) + penalty
    return torch.autograd.grad(loss, [value for part in made for value in part.parameters()])


@pytest.mark.parametrize("beta", [None, 1.5, 17.3])
@pytest.mark.parametrize("learn_scale", [False, True], ids=["fixed-scale", "learned-scale"])
def test_weights_and_gradients_have_the_same_bits(beta, learn_scale):
    alone, together = parts(learn_scale), parts(learn_scale)
    expected = [part() for part in alone]
    found = soft_weights(together, () if beta is None else (beta, beta - 1), STRENGTH)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    penalty = STRENGTH * sum(part.regularizer(beta) for part in alone) if beta else 0.0
    pairs = zip(gradients(found, together), gradients(expected, alone, penalty), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


def test_the_regularizer_may_come_as_tensors():
    """Then ``pow`` may round otherwise, and nothing else does."""
    made = parts()
    found = [
        gradients(soft_weights(made, beta, STRENGTH), made)
        for beta in ((3.7, 2.7), torch.tensor([3.7, 2.7]).unbind())
    ]
    for numbers, tensors in zip(*found, strict=True):
        torch.testing.assert_close(tensors, numbers, rtol=1e-5, atol=1e-9)


def test_gradients_of_any_layout_are_taken():
    made = parts()
    weights = soft_weights(made, (), 0.0)
    transposed = sum((w.transpose(0, 1) * w.transpose(0, 1).contiguous()).sum() for w in weights)
    plain = sum((w * w).sum() for w in (part() for part in made))
    vs = [part.v for part in made]
    pairs = zip(torch.autograd.grad(transposed, vs), torch.autograd.grad(plain, vs), strict=True)
    for found, expected in pairs:
        torch.testing.assert_close(found, expected)
