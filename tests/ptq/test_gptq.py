"""GPTQ: patches see what the layer sees, codes lie on the grid, and compensation lowers the output error."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from qdiff_lib.modules.quant_layer import QuantLayer
from qdiff_lib.ptq import gptq
from qdiff_lib.ptq.gptq import (
    SecondMoment,
    gptq_levels,
    in_groups,
    is_compensable,
    second_moments,
    windows,
)
from qdiff_lib.quantizers.adaround import AdaRound

LAYERS = {
    "conv2d": (nn.Conv2d(3, 5, 3, padding=1), (2, 3, 6, 6)),
    "strided": (nn.Conv2d(3, 5, (3, 2), stride=(2, 1), padding=(0, 1), dilation=(1, 2)), (2, 3, 9, 8)),
    "conv1d": (nn.Conv1d(4, 6, 3, stride=2, padding=1), (2, 4, 9)),
    "linear": (nn.Linear(7, 4), (2, 3, 7)),
}


def quant_layer(layer: nn.Module, bits: int = 4, sizes: tuple[int, ...] | None = None) -> QuantLayer:
    """The layer in quantized form with a min-max weight range."""
    quantized = QuantLayer(layer, bits, None, sizes or (layer.weight.shape[1],))
    quantized.find_weight_range("min_max")
    return quantized


def output_error(weight: torch.Tensor, rounded: torch.Tensor, moment: torch.Tensor) -> float:
    """tr((W - W^) H (W - W^)^T)."""
    difference = (weight - rounded).flatten(1).double()
    return float((difference @ moment * difference).sum())


def scaled(layer: QuantLayer, codes: torch.Tensor) -> torch.Tensor:
    """The weight that codes stand for."""
    return codes * torch.cat(layer.column_grids().scale, dim=1)


def correlated_inputs(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """Inputs whose neighbouring channels are alike, as real activations are."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return x + 2 * x.mean(1, keepdim=True) + 0.5


@pytest.mark.parametrize("name", LAYERS)
def test_windows_times_weight_are_the_layer(name):
    layer, shape = LAYERS[name]
    x = torch.randn(shape)
    out = (
        windows(quant_layer(layer).operation, x).reshape(-1, layer.weight[0].numel())
        @ layer.weight.flatten(1).T
        + layer.bias
    )
    expected = layer(x)
    expected = expected if name == "linear" else expected.movedim(1, -1)
    torch.testing.assert_close(out, expected.reshape(-1, out.shape[1]))


def test_grouped_convolutions_have_no_second_moment():
    assert is_compensable(quant_layer(nn.Linear(4, 4), 4)) and is_compensable(
        quant_layer(nn.Conv2d(4, 4, 3), 4)
    )
    assert not is_compensable(quant_layer(nn.Conv2d(4, 4, 3, groups=2), 4))


def test_wide_layers_are_taken_one_at_a_time(monkeypatch):
    layers = [quant_layer(nn.Linear(width, 2), 4) for width in (4, 4, 16, 4)]
    monkeypatch.setattr(gptq, "MOST_BYTES", 8 * (4**2 + 4**2))
    assert in_groups(layers) == [layers[:2], layers[2:3], layers[3:]]


@given(st.integers(0, 1000), st.sampled_from([2, 3, 4, 8]))
def test_uncorrelated_inputs_give_the_nearest_codes(seed, bits):
    torch.manual_seed(seed)
    layer = quant_layer(nn.Linear(12, 5), bits)
    codes = gptq_levels(layer, torch.eye(12, dtype=torch.float64))
    weight, scale = layer.weight.clone(), torch.cat(layer.column_grids().scale, dim=1)
    layer.round_weight()
    # Halfway between two codes either is nearest: double and single precision may differ there.
    tie = (weight / scale - (weight / scale).floor() - 0.5).abs() < 1e-4
    torch.testing.assert_close(scaled(layer, codes)[~tie], layer.weight[~tie])
    assert ((scaled(layer, codes) - layer.weight)[tie].abs() <= 1.001 * scale.expand_as(tie)[tie]).all()
    assert not torch.equal(weight, layer.weight)


@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("sizes", [(16,), (10, 6)])
def test_the_output_error_falls_below_that_of_nearest(bits, sizes):
    torch.manual_seed(bits)
    layer = quant_layer(nn.Conv2d(16, 8, 3, padding=1), bits, sizes)
    weight = layer.weight.clone()
    x = correlated_inputs((8, 16, 8, 8))
    moments = second_moments([layer], lambda: layer(x), 1, torch.Generator().manual_seed(0))
    codes = gptq_levels(layer, moments[layer].clone())
    layer.round_weight()
    nearest = output_error(weight, layer.weight, moments[layer])
    assert output_error(weight, scaled(layer, codes), moments[layer]) < 0.6 * nearest


def test_it_is_close_to_the_best_of_all_codes():
    torch.manual_seed(3)
    layer = quant_layer(nn.Linear(5, 1), 2)
    x = correlated_inputs((64, 5))
    moment = SecondMoment(layer, torch.Generator(), per_batch=100)
    moment.add(x)
    moment = moment.mean()
    zero = float(layer.weight_zero_point)
    choices = torch.cartesian_prod(*[torch.arange(4.0) - zero] * 5)
    errors = [output_error(layer.weight, scaled(layer, c[None]), moment) for c in choices]
    found = output_error(layer.weight, scaled(layer, gptq_levels(layer, moment)), moment)
    assert min(errors) <= found + 1e-12
    assert sum(error < found - 1e-12 for error in errors) <= 0.01 * len(errors)


def test_codes_are_whole_and_on_the_grid():
    layer = quant_layer(nn.Conv1d(6, 4, 3), 3, (2, 4))
    moment = SecondMoment(layer, torch.Generator(), per_batch=100)
    moment.add(correlated_inputs((4, 6, 20)))
    codes = gptq_levels(layer, moment.mean())
    unsigned = codes + torch.cat(layer.column_grids().zero_point, dim=1)
    assert torch.equal(unsigned, unsigned.round())
    assert unsigned.min() >= 0 and unsigned.max() <= 7


def test_inputs_that_are_all_zero_do_no_harm():
    layer = quant_layer(nn.Linear(4, 2), 4)
    codes = gptq_levels(layer, torch.zeros(4, 4, dtype=torch.float64))
    assert torch.isfinite(codes).all()


def test_the_moment_is_that_of_the_patches_and_hooks_are_removed():
    layer = quant_layer(nn.Linear(6, 3))
    x = torch.randn(50, 6)
    moment = second_moments([layer], lambda: layer(x), 1, torch.Generator())[layer]
    torch.testing.assert_close(moment.float(), x.T @ x / 50)
    assert not layer._forward_pre_hooks


def test_the_patches_of_all_batches_together_are_bounded():
    layer, batch = quant_layer(nn.Conv2d(2, 3, 3, padding=1)), torch.ones(2, 2, 4, 4)
    moment = SecondMoment(layer, torch.Generator(), per_batch=20)
    for _ in range(3):
        moment.add(batch)  # has 32 patches
    assert moment.count == 60


def test_adaround_starts_near_codes_even_beyond_the_two_neighbours():
    weight = torch.tensor([[0.26, -0.4, 0.9]])
    part = AdaRound(weight, torch.tensor([[0.5]]), torch.tensor([[8.0]]), 4)
    codes = torch.tensor([[-1.0, -1.0, 4.0]])  # neighbours of w / s: 0 or 1, -1 or 0, 1 or 2
    part.start_near(codes)
    assert torch.equal(part.decided(), 0.5 * codes)
    assert ((part.h() > 0) & (part.h() < 1)).all()  # every rounding is still open
