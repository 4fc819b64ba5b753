"""Layers for NVIDIA GPUs made from quantized layers: integers multiplied by Triton, or by torch in bf16.

This module can be imported without Triton. Running its layers needs it.
"""

from math import prod

import torch
from torch import Tensor
from torch.nn import functional as F

from ..modules.integers import HoldsIntegers
from ..modules.quant_layer import Convolution, QuantLayer
from .exported import CODE_BITS, runs_in_integers
from .reference import is_integer, weight_levels

PACKED_BITS = 4  # weights of at most these bits share a byte
MOST_PARTS = 2
MIDDLE = 128  # what is taken from 8-bit codes so that they fit in int8


def why_float(layer: QuantLayer) -> str:
    """Return why a layer stays in floating point on this engine, or "" if it runs in integers."""
    if not is_integer(layer):
        return "its weight or its input is in floating point"
    if not runs_in_integers(layer):
        return f"its weight or its input has more than {CODE_BITS} bits"
    if isinstance(layer.operation, Convolution):
        if layer.operation.groups != 1:
            return f"it has {layer.operation.groups} groups"
        if layer.operation.padding_mode != "zeros" and any(layer.operation.pads):
            return f"its padding is {layer.operation.padding_mode}"
    if len(layer.sizes) > MOST_PARTS:
        return f"its input has {len(layer.sizes)} parts"
    largest = max(q.grid.top for q in layer.inputs) * layer.weight_grid.top
    if prod(layer.shape[1:]) * largest >= 2**31:
        return f"a sum of {prod(layer.shape[1:])} products can exceed 32 bits"
    return ""


class GPULayer(HoldsIntegers):
    """What both kinds of layers share: the geometry, the grids of the input, the scales and the bias.

    Shapes: ``scale`` is (parts,), ``weight_scale`` (parts, C_out) is s_x s_w, ``limits`` (parts, 3) see
    ``triton_kernels.quantize_input``. A kind of layer defines ``product(x, dtype)``: its output, (B, H_out,
    W_out, C_out), for a quantized input.
    """

    held: torch.dtype  # of a quantized input
    middle: int  # what is taken from its codes

    def __init__(self, layer: QuantLayer):
        super().__init__()
        self.shape, self.sizes = layer.shape, layer.sizes
        operation = layer.operation if isinstance(layer.operation, Convolution) else None
        self.linear, self.pads = operation is None, (0, 0, 0, 0)
        self.kernel = self.stride = self.dilation = (1, 1)
        if operation is not None:
            wide = [
                (1,) * (2 - len(v)) + v for v in (operation.kernel_size, operation.stride, operation.dilation)
            ]
            self.kernel, self.stride, self.dilation = wide
            self.pads = operation.pads + (0,) * (4 - len(operation.pads))
        self.bias = layer.bias
        input_scale = torch.stack([q.scale for q in layer.inputs]).double()
        self.register_buffer("scale", input_scale.float())
        product = layer.weight_scale.double().T * input_scale[:, None]
        self.register_buffer("weight_scale", product.float().contiguous())
        zeros = torch.stack([q.zero_point for q in layer.inputs]).int()
        tops = torch.tensor([q.grid.top for q in layer.inputs], device=zeros.device)
        shift = zeros - self.middle if self.middle else torch.zeros_like(zeros)
        self.register_buffer("limits", torch.stack([-zeros, tops - zeros, shift], 1).int())

    @property
    def in_features(self) -> int:
        """The input channels, as ``nn.Linear`` names them. The pipeline of SDXL reads them."""
        return self.shape[1]

    def quantized(self, x: Tensor) -> Tensor:
        """Return the quantized input with the channels last, (B, H, W, C); tokens become (1, 1, N, C)."""
        from .triton_kernels import quantize_input

        if self.linear:
            x = x.reshape(-1, x.shape[-1]).T[None, :, None]
        elif x.ndim == 3:
            x = x[:, :, None]
        codes = quantize_input(x.flatten(2), self.scale, self.limits, self.sizes[0], self.held)
        return codes.unflatten(1, x.shape[2:])

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output, in the type of ``x``. The shapes are those of ``QuantLayer``."""
        out = self.product(self.quantized(x), x.dtype)
        if self.linear:
            return out.reshape(*x.shape[:-1], -1)
        out = out.movedim(-1, 1)
        return out[:, :, 0] if x.ndim == 3 else out


class TritonLayer(GPULayer):
    """A layer that multiplies integers in a Triton kernel. Its weight of up to 4 bits stays packed.

    The buffers are the arguments of ``triton_kernels.integer_product``.

    Args:
        layer: a layer for which ``why_float`` returns "".
    """

    held, middle = torch.int8, MIDDLE

    def __init__(self, layer: QuantLayer):
        super().__init__(layer)
        levels = torch.cat(weight_levels(layer), dim=1)
        parts = range(len(self.sizes))
        zero_points = torch.stack([layer.part_grid(i).zero_point.flatten() for i in parts]).int()
        packed = layer.weight_grid.bits <= PACKED_BITS
        moved = not packed and layer.weight_grid.bits == CODE_BITS
        stored = layer.integer_codes() if packed else levels
        if moved:
            stored = layer.integer_codes().int() - MIDDLE
        stored = self.channels_last(stored)
        self.register_buffer("weight", pack_halves(stored) if packed else stored.to(torch.int8))
        zero = F.pad(zero_points, (0, 2 * len(self.weight) - self.shape[0])) if packed else zero_points
        self.register_buffer("zero", zero.to(torch.int8))
        self.register_buffer("pad", self.limits[:, 2].to(torch.int8))
        totals = torch.stack([piece.flatten(1).sum(1) for piece in levels.split(self.sizes, dim=1)])
        self.register_buffer("constant", (-self.limits[:, 2:] * totals).int())
        self.register_buffer("move", (MIDDLE - zero_points).int() if moved else None)

    def channels_last(self, weight: Tensor) -> Tensor:
        """Return a weight (C_out, C_in, ...) as (C_out, KH, KW, C_in)."""
        return weight.reshape(*self.shape[:2], *self.kernel).movedim(1, -1).contiguous()

    def work(self) -> tuple:
        """Return what decides, beside the input, how long this layer takes."""
        geometry = (self.kernel, self.stride, self.dilation, self.pads)
        return self.shape, self.sizes, geometry, self.weight.dtype, self.move is None, self.bias is None

    def product(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the output (B, H_out, W_out, C_out) in the type ``dtype``.

        int32 returns the integer sums of each part, (parts, B, H_out, W_out, C_out).
        """
        from .triton_kernels import integer_product

        left, right, top, bottom = self.pads
        padded = (x.shape[1] + top + bottom, x.shape[2] + left + right)
        axes = zip(padded, self.kernel, self.dilation, self.stride, strict=True)
        size = [(length - dilation * (taps - 1) - 1) // stride + 1 for length, taps, dilation, stride in axes]
        geometry = [*self.kernel, *self.stride, *self.dilation, top, left, *size]
        operands = (self.weight, self.zero, self.pad, self.constant, self.move, self.weight_scale, self.bias)
        return integer_product(x, *operands, self.sizes[0], geometry, dtype)

    def integer_sums(self, x: Tensor) -> list[Tensor]:
        """Return the integer sums, int32, in the shapes and order of ``reference.integer_sums``."""
        sums = self.product(self.quantized(x), torch.int32)
        if self.linear:
            return [part.reshape(*x.shape[:-1], -1) for part in sums]
        return [part.movedim(-1, 1)[:, :, 0] if x.ndim == 3 else part.movedim(-1, 1) for part in sums]


class BF16Layer(GPULayer):
    """A layer that multiplies the same integers in bf16, which holds levels of up to 8 bits exactly.

    Products are added in float32. The sum of each part is rounded to bf16, and then scaled.
    """

    held, middle = torch.bfloat16, 0
    reason = ""  # why this layer does not run in int8

    def __init__(self, layer: QuantLayer):
        super().__init__(layer)
        weight = torch.cat(weight_levels(layer), dim=1).reshape(*self.shape[:2], *self.kernel)
        weight = weight.to(torch.bfloat16, memory_format=torch.channels_last)
        self.register_buffer("levels", weight)

    def product(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the output (B, H_out, W_out, C_out) in the type ``dtype``."""
        pieces = zip(
            x.split(self.sizes, -1), self.levels.split(self.sizes, 1), self.weight_scale, strict=True
        )
        total = torch.zeros((), device=x.device) if self.bias is None else self.bias.float()
        for i, (piece, weight, scale) in enumerate(pieces, 1):
            sums = self.sums(piece, weight)
            held = torch.empty_like(sums, dtype=dtype if i == len(self.sizes) else torch.float32)
            total = torch.addcmul(total, sums, scale, out=held)  # in float32, in one pass
        return total

    def sums(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return the sums of one part, bf16 (B, H_out, W_out, C_out)."""
        if self.kernel == self.stride == (1, 1) and not any(self.pads):
            return x @ weight.flatten(1).T
        out = F.conv2d(F.pad(x.movedim(-1, 1), self.pads), weight, None, self.stride, 0, self.dilation)
        return out.movedim(1, -1)


def pack_halves(codes: Tensor) -> Tensor:
    """Pack 4-bit codes (N, ...) into uint8 (ceil(N / 2), ...): code n below code ``ceil(N / 2) + n``."""
    rows = -(-len(codes) // 2)
    upper = torch.zeros_like(codes[:rows])
    upper[: len(codes) - rows] = codes[rows:]
    return codes[:rows] | upper << PACKED_BITS
