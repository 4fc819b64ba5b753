"""Observing an activation batch by batch. The range finders read the result."""

import torch
from torch import Tensor

OBSERVED = 4096  # values that are kept from each batch


class ActivationObserver:
    """A random sample of an activation that arrives batch by batch. Its memory is bounded.

    The observer keeps ``per_batch`` random elements of each batch, and the batch's minimum and maximum. So
    the range finder ``min_max`` is exact on the sample, and the other range finders see all batches alike,
    and so all denoising steps.

    Args:
        generator: the source of the random draws, on the CPU.
    """

    def __init__(self, generator: torch.Generator, per_batch: int = OBSERVED):
        self.generator, self.per_batch, self.kept = generator, per_batch, []

    def add(self, x: Tensor) -> None:
        """Take elements from one batch of any shape."""
        flat = x.detach().flatten()
        index = torch.randint(flat.numel(), (min(self.per_batch, flat.numel()),), generator=self.generator)
        self.kept.append(torch.cat([flat[index.to(flat.device)], flat.amin()[None], flat.amax()[None]]))

    def values(self) -> Tensor:
        """Return all elements that were kept, shape (n,)."""
        return torch.cat(self.kept)
