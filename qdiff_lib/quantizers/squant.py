"""SQuant: rounding without data whose errors cancel in sums (Guo et al., ICLR 2022).

Rounding leaves an error ``q - w / s`` in each weight, in steps. SQuant looks at its sums: over each kernel,
the weights of one output and one input channel, and over each output channel. It makes the sums small by
flipping roundings, from the nearest code to the one on the other side of w / s, and goes from small to large
(the paper's Algorithm 1): round each element to nearest, then flip by kernel, then by output channel.
"""

import torch
from torch import Tensor


@torch.no_grad()
def squant_levels(weight: Tensor, scale: Tensor, zero_point: Tensor, bits: int) -> Tensor:
    """Integers q - z of the weight's shape, (C_out, C_in, ...).

    scale, zero_point: (C_out, 1, ...), one for each output channel. Flips stop at the grid's ends. Where no
    end is in the way, the errors of an output channel sum to at most half a step. Those of a kernel do after
    the second stage; the third moves some of them by one element, to at most a whole step: the two sums
    cannot both be held to half a step. In linear layers and 1x1 convolutions a kernel is one element, so that
    only channels flip.
    """
    exact = (weight / scale).reshape(*weight.shape[:2], -1)  # (C_out, C_in, K)
    low, high = (end.view(-1, 1, 1) for end in (-zero_point, 2**bits - 1 - zero_point))
    codes = exact.round().clamp(low, high)
    codes, movable = flip(codes, exact, low, high, torch.ones_like(codes, dtype=torch.bool))
    channels = (x.flatten(1) for x in (codes, exact))  # (C_out, C_in K)
    codes, _ = flip(*channels, low[..., 0], high[..., 0], movable.flatten(1))
    return codes.view_as(weight)


def flip(codes: Tensor, exact: Tensor, low: Tensor, high: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """Bring each row's summed error to at most half a step, with as few flips (the paper's Algorithm 2).

    codes, exact, allowed: (..., n); only what is allowed may flip. low, high: the least and the largest code.
    Of a row whose errors sum to E, the round(|E|) elements flip that have the largest errors of E's sign.

    Returns the codes, and as (..., n) of bool the element of each row that a larger sum may move: the next in
    that order where less than |E| was taken away; the last one, back again, where more was.
    """
    error = codes - exact
    total = error.sum(-1, keepdim=True)
    sign = total.sign()
    flipped = codes - sign
    allowed = allowed & (error * sign > 0) & (low <= flipped) & (flipped <= high)
    order = torch.where(allowed, error.abs(), 0).argsort(dim=-1, descending=True, stable=True)
    rank = order.argsort(dim=-1)  # of each element in its row; those that may not flip come last
    chosen = allowed & (rank < total.abs().round())
    codes = torch.where(chosen, flipped, codes)
    overshot = (codes - exact).sum(-1, keepdim=True) * sign < 0
    return codes, allowed & (rank == chosen.sum(-1, keepdim=True) - overshot.long())
