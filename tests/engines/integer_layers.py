"""Quantized layers with random codes, and inputs that reach both ends of their grids."""

import torch
from torch import nn

from qdiff_lib.modules.quant_layer import QuantLayer
from qdiff_lib.quantizers.grid import Grid, code_type
from qdiff_lib.quantizers.packing import pack


def integer_layer(layer, weight_bits=4, input_bits=8, sizes=None, zero="any", seed=0, powers=False):
    """A quantized layer with random codes, zero points and scales.

    zero: where zero points lie: "low" (the first code), "high" (the last), "ends" (one of both) or "any".
    powers: scales and biases are powers of two, so that products of levels are exact in float32.
    """
    generator = torch.Generator().manual_seed(seed)
    made = QuantLayer(layer, weight_bits, Grid(input_bits), sizes or (layer.weight.shape[1],))
    made.hold_integers()
    top, shape = 2**weight_bits - 1, (made.shape[0], len(made.sizes))
    codes = torch.randint(top + 1, made.shape, generator=generator)
    codes.flatten(1)[:, :2] = torch.tensor([0, top])  # each channel has both ends
    made.codes = pack(codes.to(code_type(weight_bits)), weight_bits)
    made.weight_scale = scales(shape, powers, generator)
    made.weight_zero_point = zero_points(zero, top, shape, generator).to(code_type(weight_bits))
    for quantizer in made.inputs:
        zero_point = zero_points(zero, 2**input_bits - 1, (), generator)
        quantizer.set_range(scales((), powers, generator), zero_point)
    made.derive_weight(torch.float32)
    if powers and made.bias is not None:
        made.bias = nn.Parameter(scales(made.bias.shape, powers, generator), requires_grad=False)
    return made.eval()


def scales(shape, powers, generator):
    """Scales of one size: 2^-4 and 2^-3, or anything between 0.03 and 0.05."""
    if powers:
        return 2.0 ** torch.randint(-4, -2, shape, generator=generator)
    return 0.03 + 0.02 * torch.rand(shape, generator=generator)


def zero_points(where, top, shape, generator):
    """Zero points at the lowest code, at the highest, at one of both, or anywhere."""
    if where == "ends":
        return torch.randint(2, shape, generator=generator) * top
    low, high = {"low": (0, 1), "high": (top, top + 1), "any": (0, top + 1)}[where]
    return torch.randint(low, high, shape, generator=generator)


def inputs_of(layer, *shape, seed=0):
    """An input that lies on the layer's grids, a quarter step beside, and beyond both of their ends."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.empty(shape)
    for piece, quantizer in zip(x.split(layer.sizes, layer.channel_axis), layer.inputs, strict=True):
        top = 2**quantizer.grid.bits
        levels = torch.randint(-top // 8, top + top // 8 + 1, piece.shape, generator=generator)
        beside = torch.randint(-1, 2, piece.shape, generator=generator) / 4
        piece.copy_((levels + beside - quantizer.zero_point.long()) * quantizer.scale)
    return x
