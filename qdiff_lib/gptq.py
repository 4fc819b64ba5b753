"""A better start for AdaRound: rounding that compensates its own error (GPTQ, Frantar et al., ICLR 2023).

For one layer with weight W (C_out, K) and input patches x (K,), the output error of a rounded weight W^ is
``tr((W - W^) H (W - W^)^T)`` with ``H = E[x x^T]``. GPTQ rounds one column of W after the other, and each
time moves the columns that are still free so that they make up for the error: a closed form in the Cholesky
factor of H's inverse. It takes seconds where AdaRound takes minutes. AdaRound then goes on from its codes,
judged by the output of the whole unit.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import unfold

from .layers import QuantLayer

PATCHES = 2048  # taken at random from each batch
DAMPING = 0.01  # added to the diagonal of H, as a share of its mean: H may be singular
BLOCK = 64  # columns between two compensations of all later ones


def patches(layer: nn.Module, x: Tensor) -> Tensor:
    """What each output of a convolution or linear layer sees of its input: (n, K), K = weight[0].numel().

    Raises ValueError for grouped convolutions, and for padding that is not a number of zeros.
    """
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, x.shape[-1])
    if layer.groups != 1 or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        raise ValueError(f"rounding_start='gptq' does not support {layer}; use rounding_start='fraction'")
    sizes = [layer.kernel_size, layer.dilation, layer.padding, layer.stride]
    if isinstance(layer, nn.Conv1d):
        x, sizes = x.unsqueeze(2), [(one, *size) for one, size in zip((1, 1, 0, 1), sizes, strict=True)]
    return unfold(x, *sizes).transpose(1, 2).flatten(0, 1)


class SecondMoment:
    """H = E[x x^T] of a layer's input patches, (K, K) in double precision, summed batch by batch."""

    def __init__(self, layer: nn.Module, generator: torch.Generator):
        self.layer, self.generator, self.total, self.count = layer, generator, 0.0, 0

    def add(self, x: Tensor) -> None:
        """Add at most ``PATCHES`` patches of one input, drawn at random."""
        rows = patches(self.layer, x)
        index = torch.randperm(len(rows), generator=self.generator)[:PATCHES]
        rows = rows[index.to(rows.device)]
        self.total = self.total + (rows.T @ rows).double()
        self.count += len(rows)

    def mean(self) -> Tensor:
        return self.total / self.count


@torch.no_grad()
def second_moments(
    layers: list[QuantLayer], run: Callable[[], None], generator: torch.Generator
) -> dict[QuantLayer, Tensor]:
    """H of each layer over all inputs that ``run()`` sends through it."""
    moments = {layer: SecondMoment(layer.layer, generator) for layer in layers}

    def observe(layer: QuantLayer, args: tuple) -> None:
        moments[layer].add(args[0])

    handles = [layer.register_forward_pre_hook(observe) for layer in layers]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return {layer: moment.mean() for layer, moment in moments.items()}


@torch.no_grad()
def gptq_codes(layer: QuantLayer, moment: Tensor) -> Tensor:
    """Integers (w^ / s, without the zero point) for a layer whose weight range is set, of the weight's shape.

    moment: H, (K, K). Columns are taken in falling order of H's diagonal.
    """
    weight = layer.layer.weight
    scale, zero_point = (torch.cat(part, dim=1).flatten(1).double() for part in layer.column_grids())
    order = moment.diagonal().argsort(descending=True)
    codes = _round_in_order(
        weight.flatten(1).double()[:, order], scale[:, order], zero_point[:, order],
        2**layer.weight_grid.bits - 1, _compensation(moment[order][:, order]),
    )  # fmt: skip
    return codes[:, order.argsort()].to(weight.dtype).view_as(weight)


def _compensation(moment: Tensor) -> Tensor:
    """The upper Cholesky factor U of H^-1: rounding column i by e moves column j > i by -e U_ij / U_ii."""
    damping = DAMPING * moment.diagonal().mean().clamp(min=1e-12)
    moment = moment + damping * torch.eye(len(moment), dtype=moment.dtype, device=moment.device)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(moment))
    return torch.linalg.cholesky(inverse, upper=True)


def _round_in_order(weight: Tensor, scale: Tensor, zero_point: Tensor, top: int, factor: Tensor) -> Tensor:
    codes = torch.empty_like(weight)
    for start in range(0, weight.shape[1], BLOCK):
        stop = min(start + BLOCK, weight.shape[1])
        errors = weight.new_empty(len(weight), stop - start)
        for i in range(start, stop):
            code = (weight[:, i] / scale[:, i]).round() + zero_point[:, i]
            codes[:, i] = code.clamp(0, top) - zero_point[:, i]
            errors[:, i - start] = (weight[:, i] - codes[:, i] * scale[:, i]) / factor[i, i]
            weight[:, i:stop] -= errors[:, i - start, None] * factor[i, i:stop]
        weight[:, stop:] -= errors @ factor[start:stop, stop:]
    return codes
