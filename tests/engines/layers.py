"""Random quantized layers whose scales are powers of two: products of levels are then exact in float32."""

import torch
from torch import nn

from qdiff_lib.modules.quant_layer import QuantLayer
from qdiff_lib.quantizers.grid import Grid, code_type
from qdiff_lib.quantizers.packing import pack


def power(generator: torch.Generator, count: int | None = None) -> torch.Tensor:
    """The powers of two 2^-4 and 2^-3: one, or ``count`` of them."""
    shape = () if count is None else (count,)
    return 2.0 ** torch.randint(-4, -2, shape, generator=generator)


def quantized(
    layer: nn.Module, weight_bits: int, input_bits: int, sizes: tuple[int, ...], seed: int, ends: bool = False
) -> QuantLayer:
    """The layer with random codes. ends: zero points are the first or the last code."""
    generator = torch.Generator().manual_seed(seed)
    found = QuantLayer(layer, weight_bits, Grid(input_bits), sizes)
    parts, channels = len(sizes), layer.weight.shape[0]
    found.hold_integers()
    codes = torch.randint(0, 2**weight_bits, layer.weight.shape, generator=generator)
    codes.flatten(1)[:, :2] = torch.tensor([0, 2**weight_bits - 1])  # each channel has both ends
    found.codes = pack(codes.to(code_type(weight_bits)), weight_bits)
    found.weight_scale = torch.stack([power(generator, channels) for _ in range(parts)], 1)
    top = 2**weight_bits - 1
    zero = torch.randint(0, 2, (channels, parts), generator=generator) * top
    if not ends:
        zero = torch.randint(0, top + 1, (channels, parts), generator=generator)
    found.weight_zero_point = zero.to(code_type(weight_bits))
    for quantizer in found.inputs:
        last = 2**input_bits - 1
        zero = torch.randint(0, 2, (), generator=generator) * last
        if not ends:
            zero = torch.randint(0, last + 1, (), generator=generator)
        quantizer.set_range(power(generator), zero.float())
    found.derive_weight(torch.float32)
    if found.bias is not None:
        found.bias = nn.Parameter(power(generator, channels), requires_grad=False)
    return found.eval()


def inputs_of(layer: QuantLayer, *shape: int, seed: int = 0) -> torch.Tensor:
    """An input whose values lie on the layer's grids and beyond both of their ends."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.empty(shape)
    for piece, quantizer in zip(x.split(layer.sizes, layer.channel_axis), layer.inputs, strict=True):
        top = 2**quantizer.grid.bits
        levels = torch.randint(-top // 8, top + top // 8 + 1, piece.shape, generator=generator)
        piece.copy_((levels - quantizer.zero_point.long()) * quantizer.scale)
    return x
