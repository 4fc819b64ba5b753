"""Rounding of weights: to nearest, or learned (AdaRound)."""

import torch
from torch import Tensor, nn

from .grid import fake_quantize

GAMMA, ZETA = -0.1, 1.1  # stretch of the sigmoid, so that h reaches 0 and 1


class AdaRound(nn.Module):
    """A weight whose rounding is learned (Nagel et al., ICML 2020; Q-Diffusion, section 4).

    The soft weight is ``s (clip(floor(w / s) + h(V) + z, 0, 2^b - 1) - z)`` with the rectified sigmoid
    ``h(V) = clip(sigmoid(V) (zeta - gamma) + gamma, 0, 1)``. V starts where h equals the fractional part of
    w / s, so that the soft weight starts at the full-precision one, but for clipping.
    """

    def __init__(self, weight: Tensor, scale: Tensor, zero_point: Tensor, bits: int):
        super().__init__()
        weight = weight.detach()
        floor = torch.floor(weight / scale)
        fraction = weight / scale - floor
        self.bits = bits
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", zero_point)
        self.register_buffer("floor", floor)
        self.v = nn.Parameter(-torch.log((ZETA - GAMMA) / (fraction - GAMMA) - 1))

    def h(self) -> Tensor:
        """How much of a step is added to the floor: in [0, 1], of the weight's shape."""
        return (torch.sigmoid(self.v) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)

    def _on_grid(self, up: Tensor) -> Tensor:
        low, high = -self.zero_point, 2**self.bits - 1 - self.zero_point
        return self.scale * (self.floor + up).clamp(low, high)

    def forward(self) -> Tensor:
        """The soft weight."""
        return self._on_grid(self.h())

    def regularizer(self, beta: float) -> Tensor:
        """``sum 1 - |2 h(V) - 1|^beta``: 0 where every rounding is decided."""
        return (1 - (2 * self.h() - 1).abs().pow(beta)).sum()

    @torch.no_grad()
    def decided(self) -> Tensor:
        """The hard weight, on the grid: up where h is at least one half."""
        return self._on_grid((self.h() >= 0.5).to(self.floor.dtype))


def round_nearest(weight: Tensor, scale: Tensor, zero_point: Tensor, bits: int) -> Tensor:
    """The weight on its grid, each element rounded to the nearest code."""
    return fake_quantize(weight, scale, zero_point, bits)
