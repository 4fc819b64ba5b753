"""The integer reference: equal to a sum of fractions, for every kind of layer, and to the simulated layer."""

from fractions import Fraction
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from integer_layers import inputs_of, integer_layer
from torch import nn

from qdiff_lib import load
from qdiff_lib.engines.reference import (
    input_levels,
    integer_sums,
    is_integer,
    layer_output,
    reference_network,
    weight_levels,
)
from qdiff_lib.modules.quant_layer import quant_layers


def exact(layer, x) -> list[Fraction]:
    """The outputs of a layer without padding or one with zeros, as fractions, from its codes."""
    linear = isinstance(layer.operation, type(nn.functional.linear))
    codes, total = layer.integer_codes().long(), []
    pieces = x.split(layer.sizes, layer.channel_axis)
    starts = [sum(layer.sizes[:i]) for i in range(len(layer.sizes))]
    for outputs in places(layer, x, linear):
        n, o, taps = outputs
        value = Fraction(0) if layer.bias is None else Fraction(layer.bias[o].item())
        for part, (start, piece) in enumerate(zip(starts, pieces, strict=True)):
            quantizer = layer.inputs[part]
            s_x, z_x = Fraction(quantizer.scale.item()), int(quantizer.zero_point)
            s_w, z_w = Fraction(layer.weight_scale[o, part].item()), int(layer.weight_zero_point[o, part])
            for c, (x_index, w_index) in product(range(piece.shape[layer.channel_axis]), taps):
                real = Fraction(piece[(n, c, *x_index)].item())
                code = min(max(round(real / s_x) + z_x, 0), 2**quantizer.grid.bits - 1)
                value += s_x * (code - z_x) * s_w * (int(codes[(o, start + c, *w_index)]) - z_w)
        total.append(value)
    return total


def places(layer, x, linear):
    """For each output: image, output channel, and the pairs of positions (input, kernel) inside the image."""
    if linear:
        yield from ((n, o, [((), ())]) for n, o in product(range(len(x)), range(layer.shape[0])))
        return
    op, size = layer.operation, x.shape[2:]
    before = op.pads[::2][::-1]
    axes = range(len(size))
    counts = [
        (
            size[a]
            + op.pads[::2][::-1][a]
            + op.pads[1::2][::-1][a]
            - (op.kernel_size[a] - 1) * op.dilation[a]
            - 1
        )
        // op.stride[a]
        + 1
        for a in axes
    ]
    for n, o in product(range(len(x)), range(layer.shape[0])):
        for out in product(*map(range, counts)):
            taps = []
            for k in product(*map(range, op.kernel_size)):
                at = tuple(out[a] * op.stride[a] - before[a] + k[a] * op.dilation[a] for a in axes)
                if all(0 <= at[a] < size[a] for a in axes):
                    taps.append((at, k))
            yield n, o, taps


BITS = st.sampled_from([2, 3, 4, 5, 6, 7, 8, 16])
ZERO = st.sampled_from(["any", "ends"])


class TestAgainstFractions:
    @settings(max_examples=40, deadline=None)
    @given(BITS, BITS, st.sampled_from([(3,), (1, 2), (2, 1, 3)]), st.integers(0, 99), ZERO)
    def test_linear(self, weight_bits, input_bits, sizes, seed, zero):
        linear = nn.Linear(sum(sizes), 2)
        layer = integer_layer(linear, weight_bits, input_bits, sizes, zero, seed, powers=True)
        x = inputs_of(layer, 2, sum(sizes), seed=seed)
        assert [Fraction(v) for v in layer_output(layer, x).flatten().tolist()] == exact(layer, x)

    @settings(max_examples=30, deadline=None)
    @given(
        BITS,
        BITS,
        st.sampled_from([(2,), (1, 2)]),
        st.integers(1, 3),
        st.integers(1, 2),
        st.integers(0, 2),
        st.integers(1, 2),
        st.integers(0, 99),
        ZERO,
    )
    def test_convolution(self, weight_bits, input_bits, sizes, kernel, stride, padding, dilation, seed, zero):
        conv = nn.Conv2d(sum(sizes), 2, kernel, stride, padding, dilation, bias=seed % 2 == 0)
        layer = integer_layer(conv, weight_bits, input_bits, sizes, zero, seed, powers=True)
        x = inputs_of(layer, 1, sum(sizes), 5, 6, seed=seed)
        assert [Fraction(v) for v in layer_output(layer, x).flatten().tolist()] == exact(layer, x)

    def test_one_dimension(self):
        layer = integer_layer(nn.Conv1d(3, 2, 3, padding=1), powers=True)
        x = inputs_of(layer, 2, 3, 7)
        assert [Fraction(v) for v in layer_output(layer, x).flatten().tolist()] == exact(layer, x)


class TestAgainstTheSimulation:
    @pytest.mark.parametrize("mode", ["zeros", "circular", "reflect", "replicate"])
    def test_paddings(self, mode):
        layer = integer_layer(nn.Conv2d(4, 6, 3, 2, 1, padding_mode=mode), powers=True)
        x = inputs_of(layer, 2, 4, 6, 6)
        assert torch.equal(layer_output(layer, x), layer(x).double())  # powers of two: nothing is rounded

    def test_sums_are_of_levels(self):
        layer = integer_layer(nn.Linear(4, 3), sizes=(1, 3), powers=True)
        x = inputs_of(layer, 5, 4)
        sums = integer_sums(layer, x)
        assert [s.dtype for s in sums] == [torch.int64] * 2
        for part, piece in enumerate(x.split(layer.sizes, 1)):
            levels = input_levels(layer.inputs[part], piece)
            assert torch.equal(sums[part], levels @ weight_levels(layer)[part].T)

    def test_layers_in_floating_point_are_no_integers(self):
        layers = quant_layers(load("ddpm-fashion-w4a32").unet)
        assert layers and not any(map(is_integer, layers))
        assert not is_integer(nn.Linear(2, 2))

    def test_every_layer_of_a_shipped_model(self):
        """Each layer gives its simulated output, up to the rounding of float32 sums."""
        unet = load("ddpm-fashion-w4a8").unet
        seen = []

        def compare(layer, args, output):
            x = args[0][:1]
            terms = 0.0
            for i, quantizer in enumerate(layer.inputs):
                largest = quantizer.scale * quantizer.grid.top * layer.weight_scale[:, i].max()
                terms += float(largest * layer.weight_grid.top * weight_levels(layer)[i][0].numel())
            found = layer_output(layer, x)
            bias = 0 if layer.bias is None else float(layer.bias.abs().max())
            assert (found - output[:1].double()).abs().max() <= 2**-22 * (terms + bias)
            seen.append(layer)

        handles = [layer.register_forward_hook(compare) for layer in quant_layers(unet) if is_integer(layer)]
        with torch.no_grad():
            unet(torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(0)), 500)
        for handle in handles:
            handle.remove()
        assert len(seen) == len(handles) > 100

    def test_a_network_shares_its_tensors_and_leaves_the_original(self):
        unet = load("ddpm-fashion-w4a8").unet
        x = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            before = unet(x, 500).sample
            network = reference_network(unet)
            found = network(x, 500).sample
            assert torch.equal(unet(x, 500).sample, before)
        assert {p.data_ptr() for p in network.parameters()} <= {p.data_ptr() for p in unet.parameters()}
        assert not torch.equal(found, before)  # rounded once for each layer, not once for each term
        assert (found - before).norm() < 0.05 * before.norm()
