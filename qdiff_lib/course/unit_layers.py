"""Lesson 7: a layer as plain tensors, and a small unit for the checks."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Layer(NamedTuple):
    """A layer whose rounding is learned. w: its weight, (C_out, ...). s, z: scale and zero point.

    s and z broadcast against w. Codes have 4 bits.
    """

    w: Tensor
    s: Tensor
    z: Tensor


def toy_unit(weights: Sequence[Tensor], x: Tensor, bias: Tensor) -> Tensor:
    """A small unit of two layers, for the checks.

    weights: (H, C) and (O, H). x: (N, C, P), with P pixels. bias: (N, H), as from a time step. Returns
    (N, O, P).
    """
    first, second = weights
    hidden = F.silu(torch.einsum("hc,ncp->nhp", first, x) + bias[:, :, None])
    return torch.einsum("oh,nhp->nop", second, hidden)
