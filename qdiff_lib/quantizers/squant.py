"""SQuant: rounding without data, whose errors cancel in sums (Guo et al., ICLR 2022).

Rounding a weight leaves an error q - w / s, in units of the scale. SQuant makes two kinds of sums of these
errors small. One is the sum over a kernel: the weights of one output channel and one input channel. The other
is the sum over an output channel. SQuant flips roundings: a weight moves from its nearest code to the code on
the other side of w / s. The order is that of SQuant's Algorithm 1: round each weight to nearest, then flip by
kernel, then flip by output channel.
"""

import torch
from torch import Tensor


@torch.no_grad()
def squant_levels(weight: Tensor, scale: Tensor, zero_point: Tensor, bits: int) -> Tensor:
    """Round a weight by SQuant and return the integers q - z, of the weight's shape.

    All errors are in units of the scale. Flips never leave the grid. Where the ends of the grid prevent no
    flip, the errors of an output channel sum to at most 0.5. The errors of a kernel sum to at most 0.5 after
    the flips by kernel, and to at most 1 after the flips by output channel, which move some kernels by one
    element. In general, no rounding holds both sums to 0.5. In linear layers and 1x1 convolutions a kernel is
    one element, so that only the flips by output channel act.

    Args:
        weight: (C_out, C_in, ...).
        scale, zero_point: (C_out, 1, ...), one for each output channel.
        bits: bits of a code.
    """
    exact = (weight / scale).reshape(*weight.shape[:2], -1)  # (C_out, C_in, K)
    low, high = (end.view(-1, 1, 1) for end in (-zero_point, 2**bits - 1 - zero_point))
    codes = exact.round().clamp(low, high)
    codes, movable = flip(codes, exact, low, high, torch.ones_like(codes, dtype=torch.bool))
    channels = (x.flatten(1) for x in (codes, exact))  # (C_out, C_in K)
    codes, _ = flip(*channels, low[..., 0], high[..., 0], movable.flatten(1))
    return codes.view_as(weight)


def flip(codes: Tensor, exact: Tensor, low: Tensor, high: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """Bring the summed error of each row to at most 0.5 with the fewest flips (SQuant's Algorithm 2).

    In a row whose errors sum to E, the round(|E|) elements with the largest errors of E's sign flip.

    Args:
        codes, exact: integers q - z and w / s, (..., n). Their difference is the error, in units of the
            scale.
        low, high: the least and the largest integer, which broadcast against ``codes``.
        allowed: bool (..., n), the elements that may flip.

    Returns:
        The new codes; and bool (..., n), the one element of each row that a later flip may move. If the flips
        took less than |E|, it is the next element in the order of errors. If they took more, it is the last
        flipped element, which may flip back.
    """
    error = codes - exact
    total = error.sum(-1, keepdim=True)
    sign = total.sign()
    flipped = codes - sign
    allowed = allowed & (error * sign > 0) & (low <= flipped) & (flipped <= high)
    order = torch.where(allowed, error.abs(), 0).argsort(dim=-1, descending=True, stable=True)
    rank = order.argsort(dim=-1)  # of each element in its row; elements that may not flip come last
    chosen = allowed & (rank < total.abs().round())
    codes = torch.where(chosen, flipped, codes)
    overshot = (codes - exact).sum(-1, keepdim=True) * sign < 0
    return codes, allowed & (rank == chosen.sum(-1, keepdim=True) - overshot.long())
