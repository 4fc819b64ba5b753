"""AdaRound: a weight whose rounding is learned (Nagel et al., ICML 2020)."""

import torch
from torch import Tensor, nn

GAMMA, ZETA = -0.1, 1.1  # limits of the stretched sigmoid: beyond 0 and 1, so that h reaches both
NEARNESS = 0.7  # where ``start_near`` starts: this share of the way towards the given codes


def v_of(h: Tensor) -> Tensor:
    """Return the V for which h(V) equals ``h``: the inverse of the rectified sigmoid on [0, 1]."""
    return -torch.log((ZETA - GAMMA) / (h - GAMMA) - 1)


class AdaRound(nn.Module):
    """A weight whose rounding is learned (Nagel et al., ICML 2020; Q-Diffusion, section 3.3.1).

    The soft weight is ``s (clip(floor(w / s) + h(V) + z, 0, 2^b - 1) - z)``. The rectified sigmoid is
    ``h(V) = clip(sigmoid(V) (zeta - gamma) + gamma, 0, 1)``. At the start, h(V) equals the fractional part of
    w / s. So the soft weight starts at the full-precision weight, except where the grid clips it.

    Args:
        weight: the full-precision weight w, (C_out, ...).
        scale, zero_point: s and z, which broadcast against the weight.
        bits: bits b of a code.
    """

    def __init__(self, weight: Tensor, scale: Tensor, zero_point: Tensor, bits: int):
        super().__init__()
        weight = weight.detach()
        floor = torch.floor(weight / scale)
        fraction = weight / scale - floor
        self.bits = bits
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", zero_point)
        self.register_buffer("low", -zero_point, persistent=False)  # the grid's ends, as integers q - z
        self.register_buffer("high", 2**bits - 1 - zero_point, persistent=False)
        self.register_buffer("floor", floor)
        self.v = nn.Parameter(v_of(fraction))
        self.log_scale: nn.Parameter | None = None  # set only if the scale is learned too

    @torch.no_grad()
    def start_near(self, codes: Tensor) -> None:
        """Start near given codes, which need not be the two neighbours of w / s.

        h starts at ``NEARNESS`` of the way from the fractional part to the code. So every rounding can still
        change.

        Args:
            codes: integers q - z of the weight's shape.
        """
        fraction = self.h()
        floor = torch.minimum(torch.maximum(self.floor, codes - 1), codes)
        fraction = (fraction + self.floor - floor).clamp(0, 1)
        self.floor = floor
        h = (1 - NEARNESS) * fraction + NEARNESS * (codes - floor)
        self.v.copy_(v_of(h.clamp(0.02, 0.98)))  # at 0 and 1 the rectified sigmoid has no gradient

    def learn_scale(self) -> nn.Parameter:
        """Make log(scale) a parameter and return it. The scale is then always positive."""
        self.log_scale = nn.Parameter(self.scale.log())
        return self.log_scale

    def current_scale(self) -> Tensor:
        """Return the current scale, which may be learned."""
        return self.scale if self.log_scale is None else self.log_scale.exp()

    def h(self) -> Tensor:
        """Return h(V), of the weight's shape: the share of s, in [0, 1], that is added to the floor."""
        return (torch.sigmoid(self.v) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)

    def _clipped(self, levels: Tensor) -> Tensor:
        return levels.clamp(self.low, self.high)

    def forward(self) -> Tensor:
        """Return the soft weight, of the weight's shape."""
        return self.current_scale() * self._clipped(self.floor + self.h())

    def regularizer(self, beta: float) -> Tensor:
        """Return ``sum 1 - |2 h(V) - 1|^beta``. It is 0 when every rounding is decided (h is 0 or 1)."""
        return (1 - (2 * self.h() - 1).abs().pow(beta)).sum()

    @torch.no_grad()
    def levels(self) -> Tensor:
        """Return the decided integers q - z, of the weight's shape: rounded up where h is at least 0.5."""
        return self._clipped(self.floor + (self.h() >= 0.5).to(self.floor.dtype))

    def decided(self) -> Tensor:
        """Return the hard weight, which lies on the grid."""
        return self.current_scale().detach() * self.levels()
