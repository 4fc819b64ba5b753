"""Inputs of the checks of lesson 04."""

import torch
from torch import Tensor

LONG = 2**16  # channels whose partial sums of products are above 2^24 in any order of addition


def parts_of_widths(
    sizes: tuple[int, ...], widths: tuple[float, ...], bits: int, generator: torch.Generator
) -> Tensor:
    """Images (2, C, 4, 4): each part uniform between ends of its own, the last on one side of 0.

    Channels and images of a part differ in their ranges. -low / scale of no part is near a half.
    """
    parts = []
    for i, (size, width) in enumerate(zip(sizes, widths, strict=True)):
        unit = torch.rand(2, size, 4, 4, generator=generator)
        unit *= torch.linspace(0.6, 1, size).view(-1, 1, 1) * torch.tensor([1.0, 0.8]).view(-1, 1, 1, 1)
        unit[0, size - 1, 0, 0], unit[0, 0, 1, 1] = 1.0, 0.0
        zero = 0.4 * (2**bits - 1) // 1 + 0.2 + 0.1 * i  # -low / scale
        low = 0.1 if i == len(sizes) - 1 else -zero / (2**bits - 1)
        parts.append(width * (unit + low))
    return torch.cat(parts, 1)


def random_values(generator: torch.Generator, ratio: float) -> list[tuple[Tensor, Tensor]]:
    """Inputs (5, C) and weights (3, C) of two halves of 6 and 4 channels.

    The inputs' ranges differ by ``ratio``, the weights' by its inverse.
    """
    halves = []
    for channels, size in ((6, ratio), (4, 1.0)):
        x = torch.randn(5, channels, generator=generator) + 0.3
        weight = torch.randn(3, channels, generator=generator)
        halves.append((x * size, weight / size))
    return halves


def cancelling_codes(generator: torch.Generator) -> tuple[Tensor, Tensor, int, int]:
    """Codes of inputs (1, LONG) and weights (2, LONG) with zero points, and sums of products that need int32.

    The products of the first output sum to more than 2^29 in their first half, and to nearly the opposite in
    the second half, in another order: a sum in float32 is off by whole units. Those of the second output sum
    to more than 2^30: a sum in int16 overflows.
    """
    x_zero, w_zero, half = 3, 128, LONG // 2
    x = torch.randint(190, 256, (1, half), generator=generator)
    w = torch.randint(80, 128, (2, half), generator=generator)
    order = torch.randperm(half, generator=generator)
    x_codes, w_codes = (
        torch.cat([x, x[:, order]], 1),
        w_zero + torch.cat([w, w[:, order] * torch.tensor([[-1], [1]])], 1),
    )
    w_codes[0, -1] += 1
    return x_codes.byte(), w_codes.byte(), x_zero, w_zero
