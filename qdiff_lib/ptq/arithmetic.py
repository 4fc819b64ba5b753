"""The arithmetic in which a network is quantized: float32 throughout, and the same sums in every run."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

SETTINGS = (
    (torch.backends.cuda.matmul, "fp32_precision", "ieee"),
    (torch.backends.cudnn.conv, "fp32_precision", "ieee"),
    (torch.backends.cudnn, "deterministic", True),
    (torch.backends.cudnn, "benchmark", False),
)
"""Of GPUs: no TF32, whose 10 bits of mantissa are fewer than those of a 16-bit grid; and cuDNN's algorithms
whose sums do not depend on the order in which threads end, chosen without trials."""


@contextmanager
def float32_arithmetic(device: torch.device) -> Iterator[None]:
    """Within the block: no autocast, and ``SETTINGS``. Afterwards all is as it was."""
    before = [getattr(owner, name) for owner, name, _ in SETTINGS]
    try:
        for owner, name, value in SETTINGS:
            setattr(owner, name, value)
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for (owner, name, _), value in zip(SETTINGS, before, strict=True):
            setattr(owner, name, value)
