"""Rounding of weights without data, by name; AdaRound, which learns it, is in ``adaround``."""

from torch import Tensor

from .grid import clip_codes
from .squant import squant_levels


def round_nearest(weight: Tensor, scale: Tensor, zero_point: Tensor, bits: int) -> Tensor:
    """Integers q - z of the weight's shape, each element rounded to the nearest code."""
    return clip_codes((weight / scale).round(), zero_point, bits)


ROUNDINGS = {"nearest": round_nearest, "squant": squant_levels}
"""Roundings that need no data, by name: ``(weight, scale, zero_point, bits) -> levels``, integers q - z."""
