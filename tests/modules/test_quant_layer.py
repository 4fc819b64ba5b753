"""Quantized layers against plain ones and against explicit formulas; the shortcut split; attention."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from qdiff_lib.modules.activation_quantizer import ActivationQuantizer, activation_quantizers
from qdiff_lib.modules.quant_layer import QuantLayer, quant_layers
from qdiff_lib.modules.state import quantized_state, restore_state
from qdiff_lib.quantizers.adaround import AdaRound
from qdiff_lib.quantizers.grid import Grid, dequantize, fake_quantize, quantize, scale_for_range
from qdiff_lib.quantizers.observer import ActivationObserver

U, U64 = 2**-24, 2**-53  # unit roundoffs of float32 and float64

LAYERS = {  # the layer, and the shape of its input
    "conv1d": (lambda: nn.Conv1d(6, 5, 3, padding=1), (2, 6, 9)),
    "conv1d-stride": (lambda: nn.Conv1d(6, 5, 4, stride=2, dilation=2, bias=False), (2, 6, 15)),
    "conv2d": (lambda: nn.Conv2d(6, 5, 3, padding=1), (2, 6, 7, 8)),
    "conv2d-stride": (lambda: nn.Conv2d(6, 5, (3, 2), stride=(2, 1), padding=(0, 2)), (2, 6, 7, 8)),
    "conv2d-same": (lambda: nn.Conv2d(6, 5, 3, padding="same", bias=False), (2, 6, 7, 8)),
    "conv2d-same-uneven": (lambda: nn.Conv2d(6, 5, (2, 4), padding="same"), (2, 6, 7, 8)),
    "conv2d-same-circular": (
        lambda: nn.Conv2d(6, 5, 3, padding="same", padding_mode="circular"),
        (2, 6, 7, 8),
    ),
    "conv2d-reflect": (lambda: nn.Conv2d(6, 5, 3, padding=1, padding_mode="reflect"), (2, 6, 7, 8)),
    "conv2d-circular": (lambda: nn.Conv2d(6, 5, 3, padding=2, padding_mode="circular"), (2, 6, 7, 8)),
    "conv2d-1x1": (lambda: nn.Conv2d(6, 5, 1), (2, 6, 7, 8)),
    "linear": (lambda: nn.Linear(6, 5), (3, 6)),
    "linear-tokens": (lambda: nn.Linear(6, 5, bias=False), (2, 4, 6)),
}
every_layer = pytest.mark.parametrize("kind", LAYERS)
every_split = pytest.mark.parametrize("sizes", [(6,), (4, 2), (1, 2, 3)], ids=["whole", "two", "three"])


def make(kind, seed=0):
    """A layer and an input for it, from a seed."""
    build, shape = LAYERS[kind]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build(), torch.randn(shape)


def set_ranges(module, x, range_name="min_max", seed=0):
    """Set every activation range of ``module`` from what it sees in one pass over ``x``."""
    quantizers = activation_quantizers(module)
    for quantizer in quantizers:
        quantizer.observer = ActivationObserver(torch.Generator().manual_seed(seed), 10_000)
    out = module(x)
    for quantizer in quantizers:
        quantizer.set_observed_range(range_name)
    return out


def quantized_layer(kind, sizes, weight_bits=4, seed=0):
    """A layer rounded to nearest whose inputs have ranges, the original layer, and the input."""
    layer, x = make(kind, seed)
    wrapped = QuantLayer(copy.deepcopy(layer), weight_bits, Grid(8), sizes)
    wrapped.find_weight_range("min_max")
    wrapped.round_weight()
    set_ranges(wrapped, x)
    return wrapped, layer, x


def channel_axis(layer):
    return -1 if isinstance(layer, nn.Linear) else 1


@every_layer
@every_split
def test_without_ranges_the_layer_is_the_original(kind, sizes):
    layer, x = make(kind)
    wrapped = QuantLayer(copy.deepcopy(layer), 4, Grid(8), sizes)
    assert torch.equal(wrapped(x), layer(x))
    assert torch.equal(set_ranges(wrapped, x), layer(x))  # sampling changes nothing either
    assert not torch.equal(wrapped(x), layer(x))


@every_layer
@every_split
def test_quantized_weight_and_input_are_the_explicit_formula(kind, sizes):
    wrapped, layer, x = quantized_layer(kind, sizes)
    weights, inputs = [], []
    for w, piece in zip(
        layer.weight.detach().split(sizes, 1), x.split(sizes, channel_axis(layer)), strict=True
    ):
        rows = w.flatten(1)
        low, high = rows.amin(1).clamp(max=0), rows.amax(1).clamp(min=0)
        scale = ((high - low) / 15).view(-1, *[1] * (w.ndim - 1))
        zero_point = (-low.view_as(scale) / scale).round()
        weights.append(scale * ((w / scale).round().clamp(-zero_point, 15 - zero_point)))
        low, high = piece.min().clamp(max=0), piece.max().clamp(min=0)
        scale = (high - low) / 255
        zero_point = (-low / scale).round()
        inputs.append(scale * (piece / scale).round().clamp(-zero_point, 255 - zero_point))
    layer.weight.data = torch.cat(weights, 1)
    assert torch.equal(wrapped(x), layer(torch.cat(inputs, channel_axis(layer))))


def apply_part(layer, weight, bias, x):
    """``layer`` with the weight of some of its input channels."""
    part = copy.deepcopy(layer)
    part.in_channels = weight.shape[1]
    part.weight, part.bias = nn.Parameter(weight), None if bias is None else nn.Parameter(bias)
    return part(x).detach()


@every_layer
def test_split_is_the_sum_of_its_parts(kind):
    # Equation 8. In double precision, each output is a sum of at most 6 * 9 = 54 products and a bias, in
    # another order: both sides err by at most 60 U64 times the sum of their absolute values.
    sizes = (4, 2)
    wrapped, layer, x = quantized_layer(kind, sizes)
    wrapped, layer, x = wrapped.double(), layer.double(), x.double()
    pieces = x.split(sizes, channel_axis(layer))
    first, second = (quantizer(piece) for quantizer, piece in zip(wrapped.inputs, pieces, strict=True))
    w1, w2 = wrapped.weight_parts()
    total = apply_part(layer, w1, layer.bias, first) + apply_part(layer, w2, None, second)
    bias = None if layer.bias is None else layer.bias.abs()
    size = apply_part(layer, w1.abs(), bias, first.abs()) + apply_part(layer, w2.abs(), None, second.abs())
    assert ((wrapped(x) - total).abs() <= 2 * 60 * U64 * size).all()


def test_split_serves_both_of_two_very_different_ranges():
    # x1 is 100 times x2 and w1 a hundredth of w2, so that both halves matter. Unsplit, the steps of the large
    # parts rule: an input error e and a weight error d each reach the output times 1 from the small part.
    # Split, every part has its own, 100 times finer step: the squared error falls to about 2e-4 of it where
    # the small part caused it; a factor of 50 is left for the draw of the values.
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 32, generator=generator)
    layer = nn.Linear(32, 16, bias=False)
    layer.weight.data = torch.randn(16, 32, generator=generator)
    x[:, :16] *= 100
    layer.weight.data[:, :16] /= 100
    errors = {}
    for sizes in ((32,), (16, 16)):
        wrapped = QuantLayer(copy.deepcopy(layer), 32, Grid(8), sizes)
        set_ranges(wrapped, x)
        errors[sizes] = (wrapped(x) - layer(x)).square().mean().item()
    assert errors[(16, 16)] < 1e-2 * errors[(32,)]


def test_split_weights_keep_the_small_half():
    # With steps of 100 * 2 / 15 = 13 one grid rounds the small half, values up to 1, to 0; two grids do not.
    layer = nn.Conv2d(8, 3, 1, bias=False)
    layer.weight.data = torch.linspace(-1, 1, 24)[torch.randperm(24)].view(3, 8, 1, 1)
    layer.weight.data[:, :4] = torch.tensor([-100.0, 100, -50, 50])[None, :, None, None]
    whole, split = (QuantLayer(copy.deepcopy(layer), 4, None, sizes) for sizes in ((8,), (4, 4)))
    for wrapped in (whole, split):
        wrapped.find_weight_range("min_max")
        wrapped.round_weight()
    assert (whole.weight[:, 4:] == 0).all()
    assert split.weight_scale.shape == split.weight_zero_point.shape == (3, 2)
    small, scale = layer.weight[:, 4:], split.part_grid(1).scale
    # Half a step and the roundings derived in test_grid, at 4 bits: 6 * 15 U of a step.
    assert ((split.weight[:, 4:] - small).abs() <= scale * (0.5 + 90 * U)).all()


@every_layer
@every_split
def test_learned_rounding_covers_every_part(kind, sizes):
    layer, x = make(kind)
    wrapped = QuantLayer(copy.deepcopy(layer), 4, None, sizes)
    wrapped.find_weight_range("min_max")
    parts = wrapped.start_rounding()
    assert [part for part in wrapped.modules() if isinstance(part, AdaRound)] == list(parts)
    assert [part.v.shape[1] for part in parts] == list(sizes)
    with torch.no_grad():
        for part in parts:
            part.v.zero_()
    # Undecided everywhere: each weight counts 1.
    assert sum(part.regularizer(2.0) for part in parts).item() == layer.weight.numel()
    wrapped(x).square().sum().backward()
    assert all((part.v.grad != 0).any() for part in parts)
    trained = {name for name, value in wrapped.named_parameters() if value.requires_grad}
    assert trained == {f"rounding.{i}.v" for i in range(len(sizes))}
    assert wrapped.weight.grad is None


def test_regularizer_decides_both_halves_of_a_split():
    layer, _ = make("conv2d")
    wrapped = QuantLayer(layer, 4, None, (4, 2))
    wrapped.find_weight_range("mse_search")
    parts = wrapped.start_rounding()
    optimizer = torch.optim.Adam([part.v for part in parts], lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        sum(part.regularizer(4.0) for part in parts).backward()
        optimizer.step()
    for part in parts:
        assert ((part.h() == 0) | (part.h() == 1)).all()
        assert torch.equal(part().detach(), part.decided())


@every_layer
@every_split
def test_output_follows_the_soft_weight_then_the_decided_one(kind, sizes):
    layer, x = make(kind)
    wrapped = QuantLayer(copy.deepcopy(layer), 3, None, sizes)
    wrapped.find_weight_range("min_max")
    parts = wrapped.start_rounding()
    for i, part in enumerate(parts):
        part.v.data += torch.randn(part.v.shape, generator=torch.Generator().manual_seed(i))
    layer.weight.data = torch.cat([part().detach() for part in parts], 1)
    assert torch.equal(wrapped(x).detach(), layer(x).detach())
    layer.weight.data = torch.cat([part.decided() for part in parts], 1)
    wrapped.finish_rounding()
    assert wrapped.rounding is None
    assert torch.equal(wrapped.weight, layer.weight)
    assert torch.equal(wrapped(x), layer(x))
    assert not any(parameter.requires_grad for parameter in wrapped.parameters())


@every_layer
@every_split
@pytest.mark.parametrize("bits", [2, 4, 8, 16], ids="{}-bit".format)
def test_rounded_weight_is_its_codes(kind, sizes, bits):
    wrapped, layer, _ = quantized_layer(kind, sizes, bits)
    originals = layer.weight.detach().split(sizes, dim=1)
    codes = [quantize(w, *wrapped.part_grid(i), bits) for i, w in enumerate(originals)]
    assert torch.equal(wrapped.integer_codes(), torch.cat(codes, 1))
    back = torch.cat([dequantize(code, *wrapped.part_grid(i)) for i, code in enumerate(codes)], 1)
    assert torch.equal(wrapped.weight, back)
    assert not torch.equal(wrapped.weight, layer.weight)


def test_float_weight_and_float_input():
    layer, x = make("conv2d")
    wrapped = QuantLayer(copy.deepcopy(layer), 32, None, (6,))
    assert wrapped.weight_grid is None and len(wrapped.inputs) == 0
    assert torch.equal(wrapped(x), layer(x))
    assert quantized_state(wrapped) == {}


@every_layer
@pytest.mark.parametrize("sizes", [(5,), (7,), (3, 2), (6, 6), ()], ids=str)
def test_wrong_sizes(kind, sizes):
    with pytest.raises(ValueError, match=r"sizes=\(.*\) must sum to the layer's 6 input channels"):
        QuantLayer(make(kind)[0], 4, Grid(8), sizes)


# Activation quantizers


def ready(low, high):
    """An 8-bit quantizer with that range."""
    quantizer = ActivationQuantizer(Grid(8))
    quantizer.set_range(*scale_for_range(torch.tensor(float(low)), torch.tensor(float(high)), Grid(8)))
    return quantizer


@given(
    scale=st.floats(1e-6, 1e4),
    gradients=st.lists(st.floats(-1e15, 1e15), min_size=1, max_size=30),
    lr=st.sampled_from([4e-4, 1e-3, 0.1]),
)
@settings(max_examples=50, deadline=None, derandomize=True)
def test_learned_step_size_stays_positive_under_any_gradient(scale, gradients, lr):
    quantizer = ready(0, 255 * scale)
    parameter = quantizer.start_learning()
    optimizer = torch.optim.Adam([parameter], lr=lr)
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient, dtype=torch.float32)
        optimizer.step()
    quantizer.finish_learning()
    assert 0 < quantizer.scale < torch.inf
    assert quantizer(torch.tensor([0.0, 1.0, -1.0])).isfinite().all()


def test_small_step_size_shrinks_where_a_plain_parameter_turns_negative():
    # Adam's first step is lr whatever the gradient: 1e-3, more than a softmax's step of 1e-4.
    plain = nn.Parameter(torch.tensor(1e-4))
    quantizer = ready(0, 255e-4)
    parameter = quantizer.start_learning()
    for value in (plain, parameter):
        value.grad = torch.tensor(1.0)
    torch.optim.Adam([plain, parameter], lr=1e-3).step()
    quantizer.finish_learning()
    assert plain < 0
    assert 0 < quantizer.scale < 1e-4


def test_learned_step_size_is_what_quantizes():
    quantizer = ready(-1, 2)
    x = torch.linspace(-1, 2, 100)
    scale, zero_point = quantizer.scale.clone(), quantizer.zero_point.clone()
    parameter = quantizer.start_learning()
    quantizer(x).square().sum().backward()
    assert parameter.grad != 0
    parameter.data += 0.5
    expected = fake_quantize(x, parameter.detach().exp(), zero_point, 8)
    assert torch.equal(quantizer(x).detach(), expected)
    quantizer.finish_learning()
    assert torch.equal(quantizer(x), expected)
    assert quantizer.scale > scale and torch.equal(quantizer.zero_point, zero_point)
    assert not quantizer.scale.requires_grad and list(quantizer.parameters()) == []


def test_integers_and_scales_are_the_state_whatever_the_type():
    wrapped, _, x = quantized_layer("conv2d", (4, 2))
    scales = {"weight_scale", *(f"inputs.{i}.scale" for i in (0, 1))}
    integers = {"codes", "weight_zero_point", *(f"inputs.{i}.zero_point" for i in (0, 1))}
    state = {name: value.clone() for name, value in wrapped.state_dict().items()}
    assert set(state) == {"bias"} | scales | integers
    other, _, _ = quantized_layer("conv2d", (4, 2), seed=1)
    assert not torch.equal(other(x), wrapped(x))
    other.load_state_dict(state)
    assert torch.equal(other(x), wrapped(x))
    for kind in (torch.float16, torch.float64, torch.bfloat16, torch.float32):
        cast = other.to(kind)
        assert cast.bias.dtype == cast.weight.dtype == kind and cast(x.to(kind)).dtype == kind
        for name in scales | integers:
            assert torch.equal(cast.state_dict()[name], state[name])
            assert cast.state_dict()[name].dtype == (torch.float32 if name in scales else torch.uint8)
    assert torch.equal(other.weight, wrapped.weight)  # derived anew from the codes


# The state of a quantization


class Pair(nn.Module):
    """A split convolution, one with float weights, one with float inputs, and an ordinary linear layer."""

    def __init__(self):
        super().__init__()
        self.shortcut = QuantLayer(make("conv2d", 1)[0], 4, Grid(8), (4, 2))
        self.inner = nn.Sequential(
            QuantLayer(nn.Conv2d(5, 4, 1), 32, Grid(6), (5,)),
            nn.SiLU(),
            QuantLayer(nn.Conv2d(4, 4, 1), 8, None, (4,)),
        )
        self.out = nn.Linear(8, 2)

    def forward(self, x):
        return self.out(self.inner(self.shortcut(x)))


def fresh_pair():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Pair()


def test_quantized_state_comes_back_bit_for_bit():
    x = make("conv2d")[1]
    pair = fresh_pair()
    for layer in quant_layers(pair):
        if layer.weight_grid:
            layer.find_weight_range("mse_search")
            layer.round_weight()
    set_ranges(pair, x)
    state = quantized_state(pair)
    grid = ("codes", "bias", "weight_scale", "weight_zero_point")
    inputs = ("shortcut.inputs.0", "shortcut.inputs.1", "inner.0.inputs.0")
    assert set(state) == {f"{layer}.{field}" for layer in ("shortcut", "inner.2") for field in grid} | {
        f"{quantizer}.{field}" for quantizer in inputs for field in ("scale", "zero_point")
    }
    assert all(value.is_contiguous() and not value.requires_grad for value in state.values())
    again = fresh_pair()
    assert not torch.equal(again(x), pair(x))
    restore_state(again, state)
    assert torch.equal(again(x), pair(x))
    assert not again.shortcut.weight.requires_grad
    for name, value in quantized_state(again).items():
        assert torch.equal(value, state[name]) and value.dtype == state[name].dtype


def test_state_of_a_single_layer():
    wrapped, layer, x = quantized_layer("linear", (6,))
    again = QuantLayer(layer, 4, Grid(8), (6,))
    restore_state(again, quantized_state(wrapped))
    assert torch.equal(again(x), wrapped(x))


def test_lists_of_layers_and_quantizers():
    pair = fresh_pair()
    assert quant_layers(pair) == [pair.shortcut, pair.inner[0], pair.inner[2]]
    assert quant_layers(pair.shortcut) == [pair.shortcut]
    assert activation_quantizers(pair) == [*pair.shortcut.inputs, *pair.inner[0].inputs]


@torch.no_grad()
def test_a_grouped_convolution_is_quantized_as_one_part():
    layer, x = nn.Conv2d(6, 4, 3, padding=1, groups=2), torch.randn(2, 6, 7, 8)
    expected = layer(x)
    quantized = QuantLayer(layer, 4, None, (3,))
    torch.testing.assert_close(quantized(x), expected)
    quantized.find_weight_range("min_max")
    quantized.round_weight()
    expected = nn.functional.conv2d(x, quantized.weight, quantized.bias, padding=1, groups=2)
    torch.testing.assert_close(quantized(x), expected)
    assert quantized.weight.unique().numel() <= 4 * 16
