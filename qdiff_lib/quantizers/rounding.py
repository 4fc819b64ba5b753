"""Rounding of weights without data, by name. ``adaround`` has the rounding that is learned from data."""

from torch import Tensor

from .grid import clip_codes
from .squant import squant_levels


def round_nearest(weight: Tensor, scale: Tensor, zero_point: Tensor, bits: int) -> Tensor:
    """Round each element to the nearest code. The result holds integers q - z of the weight's shape."""
    return clip_codes((weight / scale).round(), zero_point, bits)


ROUNDINGS = {"nearest": round_nearest, "squant": squant_levels}
"""Roundings without data, by name: ``(weight, scale, zero_point, bits) -> levels``, the integers q - z."""
