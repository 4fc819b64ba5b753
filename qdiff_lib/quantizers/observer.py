"""Observing an activation batch by batch, for the range finders."""

import torch
from torch import Tensor

OBSERVED = 4096  # values that are kept of each batch


class ActivationObserver:
    """A bounded random sample of an activation that is seen batch by batch.

    Keeps ``per_batch`` elements drawn at random from every batch, and the batch's extremes, so that
    ``min_max`` over the sample is exact and the other range finders see all time steps alike.
    """

    def __init__(self, generator: torch.Generator, per_batch: int = OBSERVED):
        self.generator, self.per_batch, self.kept = generator, per_batch, []

    def add(self, x: Tensor) -> None:
        """Look at one batch, of any shape."""
        flat = x.detach().flatten()
        index = torch.randint(flat.numel(), (min(self.per_batch, flat.numel()),), generator=self.generator)
        self.kept.append(torch.cat([flat[index.to(flat.device)], flat.amin()[None], flat.amax()[None]]))

    def values(self) -> Tensor:
        """All kept elements, shape (n,)."""
        return torch.cat(self.kept)
