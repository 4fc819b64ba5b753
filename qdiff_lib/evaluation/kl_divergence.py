"""The KL divergence between the values of two tensors, from histograms."""

import torch
from torch import Tensor

BINS, PSEUDOCOUNT = 256, 0.5  # defaults of the KL divergence
COUNTED = 2**23  # most values that one torch.histc counts: its float32 counts are exact up to 2^24


def kl_divergence(
    reference: Tensor, other: Tensor, bins: int = BINS, pseudocount: float = PSEUDOCOUNT
) -> float:
    """KL(P || Q) in nats between the values of ``reference`` (P) and ``other`` (Q), from histograms.

    Both histograms have ``bins`` equal bins over the joint range of both tensors, which may have different
    shapes. ``pseudocount`` is added to the count of each bin before the counts are normalized (0.5:
    Krichevsky and Trofimov). So a bin that is empty in Q adds a finite amount, without an arbitrary epsilon.

    Raises:
        ValueError: a tensor is empty or has values that are not finite; ``bins`` or ``pseudocount`` is not
            positive.
    """
    if bins < 1 or pseudocount <= 0:
        raise ValueError(f"bins={bins} and pseudocount={pseudocount} must be positive")
    values = [tensor.detach().float().flatten().cpu() for tensor in (reference, other)]
    if not all(len(v) and v.isfinite().all() for v in values):
        raise ValueError("reference and other must hold values, all finite: look for nan, inf or no elements")
    low = min(v.min().item() for v in values)
    high = max(v.max().item() for v in values)
    return kl_of_counts(*(histogram(v, bins, low, high) for v in values), pseudocount)


def histogram(values: Tensor, bins: int, low: float, high: float) -> Tensor:
    """The number of values in each of ``bins`` equal bins from ``low`` to ``high``: float64 (bins,), CPU."""
    parts = values.detach().float().flatten().split(COUNTED)
    return sum(torch.histc(part, bins, low, high).double().cpu() for part in parts)


def kl_of_counts(p: Tensor, q: Tensor, pseudocount: float = PSEUDOCOUNT) -> float:
    """KL(P || Q) in nats of two histograms, each (bins,); ``pseudocount`` is added to each count."""
    p, q = ((counts + pseudocount) / (counts + pseudocount).sum() for counts in (p, q))
    return (p * (p / q).log()).sum().item()
