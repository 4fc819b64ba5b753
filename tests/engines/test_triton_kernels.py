"""The GPU's kernels against the 64-bit reference: their integer sums are equal bit for bit.

Without a GPU the same kernels run on the CPU under Triton's interpreter.
"""

import copy
import zlib

import pytest
import torch
from integer_layers import inputs_of, integer_layer
from torch import nn
from triton_devices import INTERPRETED, on_each_device

from qdiff_lib import load
from qdiff_lib.engines.reference import input_levels, integer_sums, layer_output
from qdiff_lib.modules.quant_layer import quant_layers

pytest.importorskip("triton", reason="Triton is not installed: torch for CUDA on Linux brings it")

from qdiff_lib.engines import triton_blocks  # noqa: E402
from qdiff_lib.engines.triton_kernels import product_kernel, quantize_input  # noqa: E402
from qdiff_lib.engines.triton_layer import BF16Layer, TritonLayer, why_float  # noqa: E402

U = 2**-24  # unit roundoff of float32
U16 = 2**-7  # largest relative distance of neighbours in bf16
CROP = 9  # pixels along each axis of a shipped layer's input: enough for every border, quick to interpret

LAYERS = {  # the layer and the shape of its input; no channels are a multiple of a block
    "1x1": (lambda: nn.Conv2d(6, 5, 1), (2, 6, 5, 4)),
    "3x3": (lambda: nn.Conv2d(7, 5, 3, padding=1), (2, 7, 5, 4)),
    "wide": (lambda: nn.Conv2d(70, 67, 3, padding=1, bias=False), (1, 70, 4, 5)),
    "no-padding": (lambda: nn.Conv2d(6, 8, 3), (2, 6, 7, 5)),
    "stride": (lambda: nn.Conv2d(6, 5, 3, padding=1, stride=2), (2, 6, 7, 8)),
    "strides": (lambda: nn.Conv2d(6, 5, (3, 2), padding=(2, 1), stride=(1, 3)), (1, 6, 5, 9)),
    "dilation": (lambda: nn.Conv2d(6, 5, 3, padding=2, dilation=(2, 1)), (1, 6, 7, 6)),
    "same-uneven": (lambda: nn.Conv2d(6, 5, (2, 4), padding="same"), (2, 6, 5, 6)),
    "one-output": (lambda: nn.Conv2d(6, 1, 3, padding=1), (1, 6, 4, 4)),
    "conv1d": (lambda: nn.Conv1d(6, 5, 4, stride=2, dilation=2), (2, 6, 15)),
    "linear": (lambda: nn.Linear(6, 5), (3, 6)),
    "tokens": (lambda: nn.Linear(70, 33, bias=False), (2, 3, 4, 70)),
}
each_layer = pytest.mark.parametrize("kind", LAYERS)


@pytest.fixture(autouse=True)
def one_block_size(request, monkeypatch):
    """On a GPU each test runs one of the autotuner's block sizes, so that all get their turn."""
    if not INTERPRETED:
        chosen = zlib.crc32(request.node.nodeid.encode()) % len(product_kernel.configs)
        monkeypatch.setattr(product_kernel, "configs", product_kernel.configs[chosen : chosen + 1])
        monkeypatch.setattr(product_kernel, "cache", {})


def on(device, kind, layer):
    """A layer of the engine on a device. It shares its bias with the quantized layer, so that is copied."""
    return kind(copy.deepcopy(layer)).to(device)


def make(kind, **settings):
    """An integer layer of this kind and an input for it."""
    build, shape = LAYERS[kind]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = integer_layer(build(), **settings)
    return layer, inputs_of(layer, *shape)


def assert_exact(layer, x, device):
    """The sums of the kernel are those of the reference, and its output is these sums, scaled in float32."""
    with torch.no_grad():
        wanted, exact = integer_sums(layer, x), layer_output(layer, x)
        made = on(device, TritonLayer, layer)
        found = [part.cpu() for part in made.integer_sums(x.to(device))]
        out = made(x.to(device)).cpu()
    assert len(found) == len(wanted)
    for first, second in zip(found, wanted, strict=True):
        assert first.dtype == torch.int32 and torch.equal(first.long(), second)
    assert out.dtype == x.dtype and out.shape == exact.shape
    assert ((out - exact).abs() <= 6 * U * magnitude(layer, wanted)).all()  # at most six roundings


def magnitude(layer, sums):
    """The sum of the absolute values of what is added to an output."""
    axis = layer.channel_axis
    total = 0 if layer.bias is None else layer.bias.detach().abs()
    terms = [
        layer.inputs[i].scale * layer.weight_scale[:, i] * part.abs().movedim(axis, -1)
        for i, part in enumerate(sums)
    ]
    return (total + sum(terms)).movedim(-1, axis)


@on_each_device
@each_layer
@pytest.mark.parametrize(
    ("bits", "zero"),
    [
        (4, "low"),
        (8, "high"),
        pytest.param(4, "high", marks=pytest.mark.exhaustive),
        pytest.param(8, "low", marks=pytest.mark.exhaustive),
    ],
)
def test_sums_are_the_reference_s(kind, bits, zero, device):
    assert_exact(*make(kind, weight_bits=bits, zero=zero), device)


@on_each_device
@pytest.mark.parametrize("kind", ["3x3", "same-uneven", "tokens"])
@pytest.mark.parametrize("bits", [2, 3, 5, 6, 7])
def test_other_bits(kind, bits, device):
    assert_exact(*make(kind, weight_bits=bits, input_bits=bits), device)


@on_each_device
@pytest.mark.parametrize("kind", ["3x3", "stride", "conv1d", "tokens"])
@pytest.mark.parametrize("bits", [4, 7, 8])
def test_split_layers_are_two_sums(kind, bits, device):
    channels = LAYERS[kind][0]().weight.shape[1]
    assert_exact(*make(kind, weight_bits=bits, sizes=(channels - 2, 2)), device)


@on_each_device
@pytest.mark.parametrize("bits", [4, 8])
def test_the_largest_sums_that_32_bits_hold(bits, device):
    """Every input and every weight at one end of its grid, where the sums are largest."""
    layer = integer_layer(nn.Linear(33000 if bits == 8 else 1000, 3), bits, zero="low")
    layer.codes.fill_(255)
    x = torch.full((2, layer.shape[1]), 100.0)
    (sums,) = on(device, TritonLayer, layer).integer_sums(x.to(device))
    assert (sums == layer.shape[1] * 255 * (2**bits - 1)).all()


@on_each_device
def test_layouts_of_the_input_do_not_matter(device):
    layer, x = make("3x3")
    wide = torch.zeros(2, 7, 5, 8).copy_(torch.cat([x, x], -1))
    for same in (x.to(memory_format=torch.channels_last), wide[..., :4], x.flip(3).flip(3)):
        assert_exact(layer, same, device)
    layer, x = make("tokens")
    assert_exact(layer, x.transpose(1, 2).contiguous().transpose(1, 2), device)


@on_each_device
def test_codes_round_half_to_even_and_clip(device):
    """At a scale of a power of two, half of these values lie between two codes."""
    layer = integer_layer(nn.Linear(3, 2))
    layer.inputs[0].set_range(torch.tensor(0.25), torch.tensor(7))
    x = (torch.arange(-300, 2100).view(-1, 3) / 8)[:, :, None].movedim(0, 2).contiguous().view(1, 3, -1)
    made = on(device, TritonLayer, layer)
    codes = quantize_input(x.to(device), made.scale, made.limits, 3, torch.int8).cpu()
    levels = input_levels(layer.inputs[0], x)
    assert torch.equal(codes.long() + 128 - 7, levels.transpose(1, 2))
    assert levels.min() == -7 and levels.max() == 248


@on_each_device
def test_bf16_networks_get_bf16(device):
    layer, x = make("3x3")
    x = x.to(torch.bfloat16)
    exact = layer_output(layer, x)
    made = on(device, TritonLayer, layer).to(torch.bfloat16)
    out = made(x.to(device))
    assert out.dtype == torch.bfloat16 and made.weight_scale.dtype == torch.float32
    rounded = magnitude(layer, integer_sums(layer, x)) * 1.5 * U16  # the interpreter cuts digits off
    assert ((out.cpu().double() - exact).abs() <= rounded).all()


@on_each_device
@each_layer
def test_bf16_multiplies_the_same_integers(kind, device):
    """What differs is that each part's sum is rounded to bf16."""
    channels = LAYERS[kind][0]().weight.shape[1]
    for bits, sizes in ((4, None), (8, (channels - 2, 2))):
        layer, x = make(kind, weight_bits=bits, sizes=sizes)
        with torch.no_grad():
            out = on(device, BF16Layer, layer)(x.to(device)).cpu()
            exact, sums = layer_output(layer, x), integer_sums(layer, x)
        assert out.shape == exact.shape
        assert ((out - exact).abs() <= U16 * magnitude(layer, sums)).all()


@pytest.mark.parametrize(
    "pixels, columns, channels, wanted",
    [
        (262144, 64, 128, [(128, 64, 128), (128, 64, 64), (64, 64, 64), (128, 32, 64)]),
        (2048, 128, 256, [(64, 64, 64), (128, 32, 64), (64, 32, 64), (128, 16, 32)]),
        (64, 16, 32, [(16, 16, 32)]),
        (1, 1, 1, [(16, 16, 32)]),
    ],
)
def test_block_sizes_fit_the_product(pixels, columns, channels, wanted, monkeypatch):
    monkeypatch.setattr(triton_blocks, "INTERPRETED", False)
    sizes = dict(pixels=pixels, columns=columns, channels=channels)
    found = triton_blocks.worth_trying(triton_blocks.configurations(), sizes)
    assert [tuple(each.kwargs.values()) for each in found] == wanted


def test_four_bits_take_half_a_byte_and_no_other_weight_is_held():
    layer = integer_layer(nn.Conv2d(64, 64, 3))
    assert TritonLayer(layer).weight.numel() == 64 * 64 * 9 // 2
    held = sum(x.numel() * x.element_size() for x in TritonLayer(layer).state_dict().values())
    assert held < 64 * 64 * 9 // 2 + 64 * 20


FLOAT = {
    "groups": (lambda: integer_layer(nn.Conv2d(6, 6, 3, groups=2)), "it has 2 groups"),
    "reflect": (
        lambda: integer_layer(nn.Conv2d(6, 5, 3, padding=1, padding_mode="reflect")),
        "its padding is reflect",
    ),
    "parts": (lambda: integer_layer(nn.Linear(6, 5), sizes=(1, 2, 3)), "its input has 3 parts"),
    "sums": (lambda: integer_layer(nn.Linear(34000, 1), 8), "a sum of 34000 products can exceed 32 bits"),
}


@pytest.mark.parametrize("kind", FLOAT)
def test_what_stays_in_floating_point_and_why(kind):
    build, reason = FLOAT[kind]
    assert why_float(build()) == reason


@pytest.fixture(scope="module")
def shipped():
    """Each distinct integer layer of a shipped model, with the input that it gets there, cropped."""
    unet, found = load("ddpm-fashion-w4a8").unet, {}

    def keep(layer, args, out):
        x = args[0]
        crop = x[:, :, :CROP, :CROP] if x.ndim == 4 else x[..., :CROP, :]
        found.setdefault((layer.shape, layer.sizes, str(layer.operation), *crop.shape[2:]), (layer, crop))

    hooks = [layer.register_forward_hook(keep) for layer in quant_layers(unet) if not why_float(layer)]
    with torch.no_grad():
        unet(torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(0)), 500)
    for hook in hooks:
        hook.remove()
    return list(found.values())


@on_each_device
def test_every_layer_of_the_shipped_model(shipped, device):
    assert len(shipped) > 20 and any(len(layer.sizes) > 1 for layer, _ in shipped)
    for layer, x in shipped:
        assert_exact(layer, x, device)
