"""The reference of integer execution: each product spelt out in whole numbers. Slow and exact.

A quantized layer computes with ``x^ = s_x (q_x - z_x)`` and ``w^ = s_w (q_w - z_w)``. Both scales are common
factors, so one output is one integer sum, scaled once (Q-Diffusion, eq. 8 for a split layer):

    y = bias + sum over parts of s_x s_w * sum over inputs of (q_x - z_x) (q_w - z_w)

Here q - z is called a *level*. A padded input has level 0, so its code is the zero point. Other engines are
tested against these sums. They must be equal.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..graph.sharing import copy_sharing_tensors
from ..modules.activation_quantizer import ActivationQuantizer
from ..modules.attention import QuantAttention
from ..modules.quant_layer import Convolution, QuantLayer
from ..quantizers.grid import quantize


def is_integer(layer: nn.Module) -> bool:
    """Return whether a layer multiplies integers: its weight and its input both have codes."""
    inputs = getattr(layer, "inputs", ())
    return getattr(layer, "codes", None) is not None and len(inputs) > 0 and inputs[0].scale is not None


def input_levels(quantizer: ActivationQuantizer, x: Tensor) -> Tensor:
    """Return the levels q - z of an activation, int64, of the shape of ``x``."""
    codes = quantize(x.to(quantizer.scale.dtype), quantizer.scale, quantizer.zero_point, quantizer.grid.bits)
    return codes.long() - quantizer.zero_point.long()


def weight_levels(layer: QuantLayer) -> list[Tensor]:
    """Return the levels q - z of the weight, int64, (C_out, C_in of the part, ...) for each part."""
    pieces = layer.integer_codes().long().split(layer.sizes, dim=1)
    return [piece - layer.part_grid(i).zero_point.long() for i, piece in enumerate(pieces)]


def integer_sums(layer: QuantLayer, x: Tensor) -> list[Tensor]:
    """Return the integer sums of a layer, int64, in the shape of its output; one tensor for each part.

    Args:
        layer: a layer for which ``is_integer`` is True.
        x: its input, (B, C_in, ...), or (..., C_in) if the layer is linear.
    """
    pieces = x.split(layer.sizes, layer.channel_axis)
    levels = [input_levels(quantizer, piece) for quantizer, piece in zip(layer.inputs, pieces, strict=True)]
    return [multiply(layer.operation, a, w) for a, w in zip(levels, weight_levels(layer), strict=True)]


def in_whole_numbers(product: Callable[..., Tensor], *integers: Tensor) -> Tensor:
    """Return ``product(*integers)``, int64, a sum of products of integers, without any rounding.

    Processors multiply matrices of int64 slowly, so the numbers are held in float64. It holds each integer up
    to 2^53 exactly, and a sum of a million products of levels of 16 bits is smaller.
    """
    return product(*(x.double() for x in integers)).long()


def multiply(operation: Convolution | object, levels: Tensor, weight: Tensor) -> Tensor:
    """Return the integer convolution or matrix product of two tensors of levels, int64."""
    if not isinstance(operation, Convolution):
        return in_whole_numbers(F.linear, levels, weight)
    axes = "hwd"[: weight.ndim - 2]
    rule = f"nc{axes}{axes.upper()},oc{axes.upper()}->no{axes}"

    def convolve(x: Tensor, weight: Tensor) -> Tensor:
        pieces = operation.pad(x).chunk(operation.groups, 1), weight.chunk(operation.groups, 0)
        groups = zip(*pieces, strict=True)
        return torch.cat([torch.einsum(rule, windows(operation, piece), w) for piece, w in groups], dim=1)

    return in_whole_numbers(convolve, levels, weight)


def windows(operation: Convolution, x: Tensor) -> Tensor:
    """Return the inputs of each output: (B, C, ...) becomes (B, C, outputs along each axis, kernel)."""
    for axis, (size, stride, dilation) in enumerate(
        zip(operation.kernel_size, operation.stride, operation.dilation, strict=True), start=2
    ):
        x = x.unfold(axis, (size - 1) * dilation + 1, stride)[..., ::dilation]
    return x


def layer_output(layer: QuantLayer, x: Tensor) -> Tensor:
    """Return a layer's output from its integer sums, in float64: scaled once, with the bias."""
    shape = (-1,) + (1,) * (x.ndim - 2) if isinstance(layer.operation, Convolution) else (-1,)
    total = 0.0 if layer.bias is None else layer.bias.double().view(shape)
    for i, sums in enumerate(integer_sums(layer, x)):
        scale = layer.inputs[i].scale.double() * layer.weight_scale[:, i].double()
        total = total + scale.view(shape) * sums
    return total


class ReferenceLayer(nn.Module):
    """A quantized layer that computes its integer sums without rounding."""

    def __init__(self, layer: QuantLayer):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output, in the type of ``x``. The shapes are those of ``QuantLayer``."""
        return layer_output(self.layer, x).to(x.dtype)


def attention_products(attention: QuantAttention, query: Tensor, key: Tensor, value: Tensor, mask) -> Tensor:
    """Return ``Q(softmax(q k^T)) v`` from two integer products. It replaces ``QuantAttention.products``.

    Args:
        query, key, value: quantized values, (heads, tokens, width). Their levels are found again exactly.
        mask: added to the scores, or None.
    """
    quantizers = (attention.quantize_q, attention.quantize_k, attention.quantize_v)
    levels = [input_levels(q, x) for q, x in zip(quantizers, (query, key, value), strict=True)]
    scales = [q.scale.double() for q in (*quantizers, attention.quantize_softmax)]
    scores = attention.scale * scales[0] * scales[1] * in_whole_numbers(torch.matmul, levels[0], levels[1].mT)
    weights = F.softmax(scores if mask is None else scores + mask, dim=-1).to(query.dtype)
    product = in_whole_numbers(torch.matmul, input_levels(attention.quantize_softmax, weights), levels[2])
    return (scales[3] * scales[2] * product).to(query.dtype)


def reference_network(unet: nn.Module) -> nn.Module:
    """Return a copy of a network whose integer layers and attention products are computed in whole numbers.

    The copy shares the tensors of ``unet``. Layers in floating point stay as they are.
    """
    network = copy_sharing_tensors(unet)
    for name, module in list(network.named_modules()):
        if isinstance(module, QuantLayer) and is_integer(module):
            network.set_submodule(name, ReferenceLayer(module))
        elif isinstance(module, QuantAttention) and module.quantize_q.scale is not None:
            module.products = attention_products.__get__(module)
    return network
