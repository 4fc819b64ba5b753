"""Integer grids: how a tensor becomes integers of b bits, and back (Q-Diffusion, section 2).

A grid has a scale s and a zero point z. It maps a real number w to an integer code
``q = clip(round(w / s) + z, 0, 2^b - 1)``, and the code back to ``w^ = s (q - z)``. One formula serves all
grids: a symmetric grid is the affine grid with the zero point in the middle. The range of a grid always
contains 0, so that 0 has an exact code.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..utils.constants import ALLOWED_BITS

SMALLEST_SCALE = 1e-8  # the scale of an all-zero channel must not be 0


@dataclass(frozen=True)
class PerTensor:
    """Per-tensor granularity: one scale for the whole tensor."""


@dataclass(frozen=True)
class PerAxis:
    """Per-channel granularity: one scale for each index along ``axis``.

    ``PerAxis(0)`` gives each output channel of a weight its own scale.
    """

    axis: int


Granularity = PerTensor | PerAxis


@dataclass(frozen=True)
class Grid:
    """The form of an integer grid, before its scale and zero point are known.

    Args:
        bits: bits of a code, 2 to 8 or 16.
        symmetric: whether the zero point is fixed to the middle code, 2^(b-1).
        granularity: which elements share a scale.

    Raises:
        ValueError: ``bits`` is another number.
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
    """Scale s (above 0) and zero point z (a whole number). Both broadcast against the tensor."""

    scale: Tensor
    zero_point: Tensor


def shared_axes(x: Tensor, granularity: Granularity) -> tuple[int, ...]:
    """Return the axes of ``x`` over which elements share one scale.

    Raises:
        ValueError: ``x`` lacks the axis, or has no other axis.
    """
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
    """Return the scale and zero point that cover [low, high], after widening the range to contain 0.

    Args:
        low, high: the ends of the range, one for each scale, in a shape that broadcasts against the tensor.
    """
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
    """Return the codes ``clip(round(x / s) + z, 0, 2^b - 1)`` of the shape of ``x``.

    Their type is uint8 up to 8 bits, else int32.
    """
    return (torch.round(x / scale) + zero_point).clamp(0, 2**bits - 1).to(code_type(bits))


def code_type(bits: int) -> torch.dtype:
    """Return the type of codes and zero points of b bits: uint8 up to 8 bits, else int32."""
    return torch.uint8 if bits <= 8 else torch.int32


def dequantize(codes: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Return the real values ``s (q - z)``, in the type of ``scale``."""
    return scale * (codes.to(scale.dtype) - zero_point.to(scale.dtype))


def fake_quantize(x: Tensor, scale: Tensor, zero_point: Tensor | int, bits: int) -> Tensor:
    """Return ``dequantize(quantize(x))``, computed in floating point: the grid value nearest to each element.

    The result has the shape of ``x``. It has gradients with respect to ``x`` and ``scale``: see
    ``FakeQuantize``.
    """
    if torch.is_grad_enabled() and (x.requires_grad or scale.requires_grad):
        return FakeQuantize.apply(x, scale, zero_point, bits)
    return clip_codes((x / scale).round_(), zero_point, bits).mul_(scale)


def clip_codes(codes: Tensor, zero_point: Tensor | int, bits: int) -> Tensor:
    """Clip integers q - z to [-z, 2^b - 1 - z], in place.

    Clipping before z is added needs the fewest passes over memory:
    ``clip(round(x / s) + z, 0, n) - z = clip(round(x / s), -z, n - z)``.
    """
    top = 2**bits - 1
    if isinstance(zero_point, int):
        pass
    elif zero_point.ndim == 0 and zero_point.device.type == "cpu" and not torch.compiler.is_compiling():
        zero_point = zero_point.item()  # clamp is four times faster with numbers than with tensors
    else:
        zero_point = zero_point.to(codes.dtype)
    return codes.clamp_(-zero_point, top - zero_point)


class FakeQuantize(torch.autograd.Function):
    """``fake_quantize`` with the gradients of LSQ (Esser et al., ICLR 2020, eq. 3).

    Rounding has a straight-through gradient. Let v = x / s. Inside the grid's range, d x^ / d x = 1 and d x^
    / d s = round(v) - v. Outside, d x^ / d x = 0, and d x^ / d s is the first or last code minus the zero
    point.
    """

    @staticmethod
    def forward(ctx, x, scale, zero_point, bits):
        """Quantize, and keep both gradients for ``backward``."""
        ratio = x / scale
        codes = ratio.round()
        clipped = clip_codes(codes.clone(), zero_point, bits)
        inside = codes.eq_(clipped)  # 1 inside the grid's range, 0 outside
        slope = torch.addcmul(clipped, ratio, inside, value=-1)
        ctx.save_for_backward(inside, slope)
        ctx.scale_shape = scale.shape
        return clipped.mul_(scale)

    @staticmethod
    def backward(ctx, gradient):
        """Return the gradients with respect to ``x`` and ``scale``."""
        inside, slope = ctx.saved_tensors
        return gradient * inside, (gradient * slope).sum_to_size(ctx.scale_shape), None, None
