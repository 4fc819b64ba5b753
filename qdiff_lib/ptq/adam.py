"""Adam (Kingma and Ba, ICLR 2015), whose numbers for each iteration are computed before the first one.

The results are those of ``torch.optim.Adam``, bit for bit on the CPU. But the numbers of an iteration may be
tensors: then an iteration does the same whatever its number, and a graph can record it.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8


def cosine_rates(rate: float, iterations: int) -> list[float]:
    """The learning rate of each iteration with cosine decay, from ``rate`` towards 0."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    rates = []
    for _ in range(iterations):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def adam_numbers(rates: Sequence[Sequence[float]]) -> list[list[float]]:
    """The numbers that ``Adam.update`` needs: a row of 1 + groups for each iteration.

    rates: the learning rates of each group of parameters, one for each iteration. The first number of a row
    corrects the bias of the second moment, the others are the negative rates with the first moment's
    correction.
    """
    rows = []
    for i, now in enumerate(zip(*rates, strict=True), start=1):
        rows.append([(1 - BETA_2**i) ** 0.5, *(-(rate / (1 - BETA_1**i)) for rate in now)])
    return rows


def on_device(rows: Sequence[Sequence[float]], device: torch.device) -> Iterator[Sequence[Tensor | float]]:
    """The numbers of each iteration, in turn: on the CPU as they are, elsewhere as tensors on the device.

    The device gets all of them at once. rows: a row for each iteration.
    """
    if device.type == "cpu":
        yield from rows
        return
    widest = max(map(len, rows))
    table = torch.tensor([[*row, *[0.0] * (widest - len(row))] for row in rows], device=device)
    for numbers, row in zip(table, rows, strict=True):
        yield numbers.unbind()[: len(row)]


class Adam:
    """The parameters of several groups, each with a rate of its own, and their moments."""

    def __init__(self, groups: Sequence[Sequence[Tensor]]):
        self.sizes = [len(group) for group in groups]
        self.parameters = [parameter for group in groups for parameter in group]
        self.first = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.second = [torch.zeros_like(parameter) for parameter in self.parameters]

    @torch.no_grad()
    def update(self, gradients: Sequence[Tensor], numbers: Sequence[Tensor | float]) -> None:
        """Change the parameters. numbers: a row of ``adam_numbers``, as numbers or as tensors."""
        correction, *rates = numbers
        torch._foreach_lerp_(self.first, gradients, 1 - BETA_1)
        torch._foreach_mul_(self.second, BETA_2)
        torch._foreach_addcmul_(self.second, gradients, gradients, 1 - BETA_2)
        roots = torch._foreach_sqrt(self.second)
        torch._foreach_div_(roots, correction)
        torch._foreach_add_(roots, EPSILON)
        start = 0
        for size, rate in zip(self.sizes, rates, strict=True):
            group = slice(start, start := start + size)
            changes = torch._foreach_mul(self.first[group], rate)
            torch._foreach_addcdiv_(self.parameters[group], changes, roots[group])
