"""A quantized network in the form that inference engines read: layers of torch's own fake quantization.

Engines recognize an integer layer by its pattern: the input passes through a fake quantization with 256
codes, the weight has at most 256 levels with one scale for each output channel, and then they are multiplied.
Here every ``QuantLayer`` and ``ActivationQuantizer`` is replaced by modules of that pattern. They compute the
same values.
"""

import torch
import torch.ao.quantization.fx._decomposed  # defines the operations in OPS
from torch import Tensor, nn

from ..graph.model_inputs import nested_inputs
from ..graph.sharing import copy_sharing_tensors
from ..modules.activation_quantizer import ActivationQuantizer
from ..modules.attention import QuantAttention
from ..modules.quant_layer import QuantLayer
from .reference import is_integer, weight_levels

OPS = torch.ops.quantized_decomposed
CODE_BITS = 8  # bits of the integers that engines multiply
INT8 = (-128, 127)
LARGEST_LEVEL = 64  # of a weight: with codes of 8 bits, two products fit in 16 bits


class ExportedActivation(nn.Module):
    """The quantization of an activation, spelt with an operation that engines know.

    With fewer than 8 bits, the value is clipped first. Then 256 codes of the same scale hold all its codes.
    With more than 8 bits it is computed in floating point, because no engine multiplies such integers.
    """

    def __init__(self, quantizer: ActivationQuantizer):
        super().__init__()
        self.scale, self.zero_point = float(quantizer.scale), int(quantizer.zero_point)
        self.bits = quantizer.grid.bits

    def forward(self, x: Tensor) -> Tensor:
        """Return the quantized activation, of the shape of ``x``."""
        low, high = -self.zero_point, 2**self.bits - 1 - self.zero_point
        if self.bits > CODE_BITS:
            return (x / self.scale).round().clamp(low, high) * self.scale
        if self.bits < CODE_BITS:
            x = x.clamp(low * self.scale, high * self.scale)
        return on_uint8_grid(x, self.scale, self.zero_point)


def on_uint8_grid(x: Tensor, scale: float, zero_point: int) -> Tensor:
    """Return the values of ``x`` on a grid of 256 codes, of the shape of ``x``."""
    grid = (scale, zero_point, 0, 2**CODE_BITS - 1, torch.uint8)
    return OPS.dequantize_per_tensor(OPS.quantize_per_tensor(x, *grid), *grid)


class ExportedWeight(nn.Module):
    """One part of an integer weight, as int8 levels with one scale for each output channel.

    CPUs without VNNI instructions add two products in 16 bits: ``2 * 255 * 64`` is the most that fits. So
    levels beyond 64 are moved to the middle, channel by channel. What is missing is the sum of the inputs,
    times how far they were moved. Levels of 8 bits are then still too large. They are written as ``2 h + l``
    with l = 0 or 1, and make two products.
    """

    def __init__(self, levels: Tensor, scale: Tensor):
        super().__init__()
        shape = (-1,) + (1,) * (levels.ndim - 1)
        self.moved = bool(levels.abs().amax() > LARGEST_LEVEL)
        move = torch.zeros_like(scale)
        if self.moved:
            flat = levels.flatten(1)
            move = ((flat.amin(1) + flat.amax(1)) / 2).ceil()
        centered = levels - move.view(shape)
        halves = torch.zeros_like(centered)
        if centered.abs().amax() > LARGEST_LEVEL:
            halves = (centered / 2).floor()
        self.divided = bool(halves.any())
        self.register_buffer("move", move * scale)
        self.register_buffer("halves", 2 * halves * scale.view(shape))
        self.register_buffer("values", (centered - 2 * halves) * scale.view(shape))
        self.register_buffer("scale", scale)
        self.register_buffer("ones", torch.ones_like(self.values[:1]))

    def pieces(self) -> list[Tensor]:
        """Return the weights whose sum is the moved weight, each (C_out, C_in of the part, ...)."""
        found = [on_int8_grid(self.values, self.scale)]
        return [*found, on_int8_grid(self.halves, 2 * self.scale)] if self.divided else found

    def sum_weight(self) -> Tensor:
        """Return the weight of ones whose output is the sum of the inputs: (1, C_in of the part, ...)."""
        return on_int8_grid(self.ones, torch.ones_like(self.scale[:1]))


def on_int8_grid(values: Tensor, scale: Tensor) -> Tensor:
    """Return a weight unchanged, marked as int8 levels with one ``scale`` for each output channel."""
    grid = (scale, torch.zeros(len(scale), dtype=torch.int64), 0, *INT8, torch.int8)
    return OPS.dequantize_per_channel(OPS.quantize_per_channel(values, *grid), *grid)


class ExportedLayer(nn.Module):
    """An integer layer in the pattern that engines compute in integers; one product for each part."""

    def __init__(self, layer: QuantLayer):
        super().__init__()
        self.operation, self.sizes, self.axis = layer.operation, layer.sizes, layer.channel_axis
        self.bias = layer.bias
        self.inputs = nn.ModuleList(map(ExportedActivation, layer.inputs))
        scales = layer.weight_scale.float().unbind(1)
        self.weights = nn.ModuleList(map(ExportedWeight, weight_levels(layer), scales))

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output. The shapes are those of ``QuantLayer``."""
        pieces = x.split(self.sizes, self.axis) if len(self.sizes) > 1 else (x,)
        total, bias = None, self.bias
        for piece, quantize, weight in zip(pieces, self.inputs, self.weights, strict=True):
            piece = quantize(piece)
            first, *others = weight.pieces()
            out, bias = self.operation(piece, first, bias), None
            for other in others:
                out = out + self.operation(piece, other, None)
            if weight.moved:
                move = weight.move if self.axis == -1 else weight.move.view((-1,) + (1,) * (x.ndim - 2))
                out = out + self.operation(piece, weight.sum_weight(), None) * move
            total = out if total is None else total + out
        return total


class FloatLayer(nn.Module):
    """A layer that is computed in floating point, with quantized values where it has them."""

    def __init__(self, layer: QuantLayer):
        super().__init__()
        self.operation, self.sizes, self.axis = layer.operation, layer.sizes, layer.channel_axis
        self.weight, self.bias = layer.weight, layer.bias
        quantizers = [q for q in layer.inputs if q.scale is not None]
        self.inputs = nn.ModuleList(map(ExportedActivation, quantizers))

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output. The shapes are those of ``QuantLayer``."""
        if len(self.inputs) == 1:
            x = self.inputs[0](x)
        elif self.inputs:
            pieces = zip(self.inputs, x.split(self.sizes, self.axis), strict=True)
            x = torch.cat([quantize(piece) for quantize, piece in pieces], self.axis)
        return self.operation(x, self.weight, self.bias)


def runs_in_integers(layer: QuantLayer) -> bool:
    """Return whether an engine computes a layer in integers: weight and input have at most 8 bits."""
    bits = [layer.weight_grid.bits, *(q.grid.bits for q in layer.inputs)] if is_integer(layer) else [32]
    return max(bits) <= CODE_BITS


def exported_network(unet: nn.Module) -> nn.Module:
    """Return a copy of a network in the form that engines read. It shares the tensors of ``unet``.

    A network that is not quantized stays as it is.
    """
    from .exported_attention import export_attention  # it needs this module

    network = copy_sharing_tensors(unet)
    for name, module in list(network.named_modules()):
        if isinstance(module, QuantLayer):
            kind = ExportedLayer if runs_in_integers(module) else FloatLayer
            network.set_submodule(name, kind(module))
        elif isinstance(module, QuantAttention):
            export_attention(module)
    return network


class PositionalNetwork(nn.Module):
    """A network whose inputs are tensors in a fixed order, and whose output is one tensor.

    Args:
        unet: a diffusers UNet.
        names: the names of its inputs in the flat form of ``graph.model_inputs``, in this order.
    """

    def __init__(self, unet: nn.Module, names: tuple[str, ...]):
        super().__init__()
        self.unet, self.names = unet, names

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the predicted noise, (B, C, H, W)."""
        named = nested_inputs(dict(zip(self.names, inputs, strict=True)))
        return self.unet(**named, return_dict=False)[0]
