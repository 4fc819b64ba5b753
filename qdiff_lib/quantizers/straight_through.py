"""A rounded weight whose codes and scale are still learned (Bengio et al., 2013)."""

import torch
from torch import Tensor, nn

WITHIN = 0.45  # below 0.5, so that rounding u gives the code where u started


class StraightThrough(nn.Module):
    """A rounded weight whose codes and scale are still learned (not in the paper).

    The weight is ``s round(u)``, so that u is in units of the scale. The gradient passes the rounding
    unchanged (straight-through, Bengio et al., 2013). u starts at the integers q - z, moved by at most
    ``WITHIN`` towards the full-precision weight. So the weights that lie between two codes change first. This
    class takes the place of ``AdaRound`` and has the same ``current_scale`` and ``levels``.

    Args:
        weight: the rounded weight, (C_out, ...).
        full: the full-precision weight, of the same shape.
        scale, zero_point: s and z, which broadcast against the weight.
        bits: bits of a code.
    """

    def __init__(self, weight: Tensor, full: Tensor, scale: Tensor, zero_point: Tensor, bits: int):
        super().__init__()
        codes = torch.round(weight.detach() / scale)  # the integers q - z
        self.u = nn.Parameter(codes + (full.detach() / scale - codes).clamp(-WITHIN, WITHIN))
        self.log_scale = nn.Parameter(scale.log())
        self.register_buffer("low", -zero_point)
        self.register_buffer("high", 2**bits - 1 - zero_point)

    def current_scale(self) -> Tensor:
        """Return the current scale."""
        return self.log_scale.exp()

    def levels(self) -> Tensor:
        """Return the current integers q - z, of the weight's shape."""
        return self.u.detach().round().clamp(self.low, self.high)

    def forward(self) -> Tensor:
        """Return the weight on its grid. Its gradient is that of u and of the scale."""
        return self.current_scale() * (self.levels() + (self.u - self.u.detach()))
