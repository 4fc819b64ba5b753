"""Integer grids: how a tensor becomes integers of b bits, and back.

A grid maps a real number w to an integer code ``q = clip(round(w / s) + z, 0, 2^b - 1)`` and back to
``w^ = s (q - z)``, with scale s and zero point z (Q-Diffusion, section 2). There is one formula for all
grids: a symmetric grid is the affine one with its zero point in the middle. The range that a grid covers
always contains 0, so that 0 is represented exactly.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..utils.constants import ALLOWED_BITS

SMALLEST_SCALE = 1e-8  # an all-zero channel keeps a finite scale


@dataclass(frozen=True)
class PerTensor:
    """One scale for the whole tensor."""


@dataclass(frozen=True)
class PerAxis:
    """One scale for each index along ``axis``, for example ``PerAxis(0)`` for a weight's output channels."""

    axis: int


Granularity = PerTensor | PerAxis


@dataclass(frozen=True)
class Grid:
    """The shape of an integer grid, before a scale is chosen.

    bits: width of a code, 2 to 8 or 16. symmetric: the zero point is fixed to the middle code, 2^(b-1).
    granularity: which elements share a scale. Raises ValueError for other widths.
    """

    bits: int
    symmetric: bool = False
    granularity: Granularity = PerTensor()

    def __post_init__(self):
        if self.bits not in ALLOWED_BITS:
            raise ValueError(f"bits={self.bits!r} is not supported; use one of {ALLOWED_BITS}")

    @property
    def top(self) -> int:
        """The largest code, 2^b - 1."""
        return 2**self.bits - 1


class ScaleZero(NamedTuple):
    """Scale s (> 0) and zero point z (a whole number), both broadcastable against the tensor."""

    scale: Tensor
    zero_point: Tensor


def shared_axes(x: Tensor, granularity: Granularity) -> tuple[int, ...]:
    """The axes of ``x`` over which one scale is shared."""
    if isinstance(granularity, PerTensor):
        return tuple(range(x.ndim))
    if not -x.ndim <= granularity.axis < x.ndim:
        raise ValueError(f"axis={granularity.axis} does not exist in a tensor of shape {tuple(x.shape)}")
    if x.ndim == 1:
        raise ValueError(
            f"granularity={granularity} gives each of {len(x)} elements a scale; use PerTensor()"
        )
    return tuple(i for i in range(x.ndim) if i != granularity.axis % x.ndim)


def scale_for_range(low: Tensor, high: Tensor, grid: Grid) -> ScaleZero:
    """The scale and zero point that cover [low, high], widened to contain 0."""
    low, high = low.clamp(max=0), high.clamp(min=0)
    if grid.symmetric:
        middle = 2 ** (grid.bits - 1)
        scale = torch.maximum(-low / middle, high / (middle - 1))
        zero_point = torch.full_like(scale, middle)
    else:
        scale = (high - low) / grid.top
        zero_point = (-low / scale.clamp(min=SMALLEST_SCALE)).round().clamp(0, grid.top)
    return ScaleZero(scale.clamp(min=SMALLEST_SCALE), zero_point)


def quantize(x: Tensor, scale: Tensor, zero_point: Tensor, bits: int) -> Tensor:
    """Codes ``clip(round(x / s) + z, 0, 2^b - 1)``: uint8 up to 8 bits, else int32; shape of ``x``."""
    return (torch.round(x / scale) + zero_point).clamp(0, 2**bits - 1).to(code_type(bits))


def code_type(bits: int) -> torch.dtype:
    """The type that holds codes and zero points of b bits: uint8 up to 8 bits, else int32."""
    return torch.uint8 if bits <= 8 else torch.int32


def dequantize(codes: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Real values ``s (q - z)``, in the type of ``scale``."""
    return scale * (codes.to(scale.dtype) - zero_point.to(scale.dtype))


def fake_quantize(x: Tensor, scale: Tensor, zero_point: Tensor, bits: int) -> Tensor:
    """``dequantize(quantize(x))`` in floating point: the grid value nearest to each element.

    Differentiable in ``x`` and ``scale``, see ``FakeQuantize``.
    """
    if torch.is_grad_enabled() and (x.requires_grad or scale.requires_grad):
        return FakeQuantize.apply(x, scale, zero_point, bits)
    return clip_codes((x / scale).round_(), zero_point, bits).mul_(scale)


def clip_codes(codes: Tensor, zero_point: Tensor, bits: int) -> Tensor:
    """Clip to [-z, 2^b - 1 - z], in place: before z is added takes the fewest passes over memory.

    ``clip(round(x / s) + z, 0, n) - z = clip(round(x / s), -z, n - z)``.
    """
    top = 2**bits - 1
    if zero_point.ndim == 0 and zero_point.device.type == "cpu" and not torch.compiler.is_compiling():
        zero_point = zero_point.item()  # between numbers, clamp is four times faster than between tensors
    else:
        zero_point = zero_point.to(codes.dtype)
    return codes.clamp_(-zero_point, top - zero_point)


class FakeQuantize(torch.autograd.Function):
    """``fake_quantize`` with LSQ's gradients (Esser et al., ICLR 2020, eq. 3), straight through rounding.

    With v = x / s, inside of the grid: d x^ / d x = 1 and d x^ / d s = round(v) - v. Outside: 0, and the end
    code minus the zero point.
    """

    @staticmethod
    def forward(ctx, x, scale, zero_point, bits):
        ratio = x / scale
        codes = ratio.round()
        clipped = clip_codes(codes.clone(), zero_point, bits)
        inside = codes.eq_(clipped)  # 1 inside, 0 outside
        slope = torch.addcmul(clipped, ratio, inside, value=-1)
        ctx.save_for_backward(inside, slope)
        ctx.scale_shape = scale.shape
        return clipped.mul_(scale)

    @staticmethod
    def backward(ctx, gradient):
        inside, slope = ctx.saved_tensors
        return gradient * inside, (gradient * slope).sum_to_size(ctx.scale_shape), None, None
