"""AdaRound: a weight whose rounding is learned (Nagel et al., ICML 2020)."""

import torch
from torch import Tensor, nn

GAMMA, ZETA = -0.1, 1.1  # stretch of the sigmoid, so that h reaches 0 and 1
NEARNESS = 0.7  # how far towards given codes AdaRound starts


def v_of(h: Tensor) -> Tensor:
    """The V for which h(V) = h: the inverse of the rectified sigmoid on [0, 1]."""
    return -torch.log((ZETA - GAMMA) / (h - GAMMA) - 1)


class AdaRound(nn.Module):
    """A weight whose rounding is learned (Nagel et al., ICML 2020; Q-Diffusion, section 3.3.1).

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
        self.v = nn.Parameter(v_of(fraction))
        self.log_scale: nn.Parameter | None = None  # set only where the scale is learned too

    @torch.no_grad()
    def start_near(self, codes: Tensor) -> None:
        """Start at soft codes that lie near ``codes``, integers that may be off the two neighbours of w / s.

        h starts ``NEARNESS`` of the way from the fractional part to the code, so that every rounding is still
        open.
        """
        fraction = self.h()
        floor = torch.minimum(torch.maximum(self.floor, codes - 1), codes)
        fraction = (fraction + self.floor - floor).clamp(0, 1)
        self.floor = floor
        h = (1 - NEARNESS) * fraction + NEARNESS * (codes - floor)
        self.v.copy_(v_of(h.clamp(0.02, 0.98)))  # at 0 and 1 the rectified sigmoid has no slope

    def learn_scale(self) -> nn.Parameter:
        """Make log(scale) a parameter: the scale stays positive whatever the optimizer does."""
        self.log_scale = nn.Parameter(self.scale.log())
        return self.log_scale

    def current_scale(self) -> Tensor:
        """The scale as it stands."""
        return self.scale if self.log_scale is None else self.log_scale.exp()

    def h(self) -> Tensor:
        """How much of a step is added to the floor: in [0, 1], of the weight's shape."""
        return (torch.sigmoid(self.v) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)

    def _clipped(self, levels: Tensor) -> Tensor:
        return levels.clamp(-self.zero_point, 2**self.bits - 1 - self.zero_point)

    def forward(self) -> Tensor:
        """The soft weight."""
        return self.current_scale() * self._clipped(self.floor + self.h())

    def regularizer(self, beta: float) -> Tensor:
        """``sum 1 - |2 h(V) - 1|^beta``: 0 where every rounding is decided."""
        return (1 - (2 * self.h() - 1).abs().pow(beta)).sum()

    @torch.no_grad()
    def levels(self) -> Tensor:
        """The decided integers q - z: up where h is at least one half."""
        return self._clipped(self.floor + (self.h() >= 0.5).to(self.floor.dtype))

    def decided(self) -> Tensor:
        """The hard weight, on the grid."""
        return self.current_scale().detach() * self.levels()
