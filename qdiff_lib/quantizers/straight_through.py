"""A rounded weight whose codes and scale go on learning (Bengio et al., 2013)."""

import torch
from torch import Tensor, nn

WITHIN = 0.45  # of a step, around a code: rounding leads back to it


class StraightThrough(nn.Module):
    """A rounded weight whose codes and scale can still be learned.

    The weight is ``s round(u)``, u in steps of the grid, and the gradient passes the rounding as if it were
    not there (Bengio et al., 2013). u starts at the codes, moved towards the full-precision weight by at most
    ``WITHIN`` of a step: what lay between two codes is the first to change. It stands where AdaRound stands
    while a weight is learned, and has the same ``current_scale`` and ``levels``.
    """

    def __init__(self, weight: Tensor, full: Tensor, scale: Tensor, zero_point: Tensor, bits: int):
        super().__init__()
        codes = torch.round(weight.detach() / scale)  # less the zero point
        self.u = nn.Parameter(codes + (full.detach() / scale - codes).clamp(-WITHIN, WITHIN))
        self.log_scale = nn.Parameter(scale.log())
        self.register_buffer("low", -zero_point)
        self.register_buffer("high", 2**bits - 1 - zero_point)

    def current_scale(self) -> Tensor:
        """The scale as it stands."""
        return self.log_scale.exp()

    def levels(self) -> Tensor:
        """The integers q - z as they stand."""
        return self.u.detach().round().clamp(self.low, self.high)

    def forward(self) -> Tensor:
        """The weight on its grid, with the gradient of u."""
        return self.current_scale() * (self.levels() + (self.u - self.u.detach()))
