"""GPTQ as a start for AdaRound: rounding that compensates its own error (Frantar et al., ICLR 2023).

This is not in the paper. Take a layer with weight W (C_out, K) and input patches x (K,). A rounded weight W^
has the output error ``tr((W - W^) H (W - W^)^T)`` with ``H = E[x x^T]``. GPTQ rounds the columns of W one
after the other. After each column it changes the columns that are not rounded yet, to compensate the error.
The change has a closed form in the Cholesky factor of H's inverse. GPTQ takes seconds, AdaRound takes
minutes. AdaRound starts from GPTQ's codes and then minimizes the error of the whole unit's output.
"""

from collections.abc import Callable
from math import prod

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..graph.hooks import hooked
from ..modules.quant_layer import QuantLayer

PATCHES = 16_384  # random input patches of each layer: many times K, but a limited time
DAMPING = 0.01  # added to the diagonal of H, as a share of its mean, as H may be singular
BLOCK = 64  # columns that are rounded before all later columns are changed


def windows(operation: Callable, x: Tensor) -> Tensor:
    """The input patch of each output position of a convolution or linear layer, as a view without a copy.

    operation: an ``nn.Conv1d``, ``nn.Conv2d`` or ``Convolution``; anything else is a linear layer. x: its
    input. Returns (N, H_out, W_out, C, K_h, K_w) for a 2-d convolution, (n, C) for a linear layer.

    Raises ValueError for grouped convolutions, and for padding other than a fixed number of zeros.
    """
    if not hasattr(operation, "kernel_size"):
        return x.reshape(-1, x.shape[-1])
    if operation.groups != 1 or operation.padding_mode != "zeros" or isinstance(operation.padding, str):
        raise ValueError(f"rounding_start='gptq' does not support {operation}; use rounding_start='fraction'")
    x = pad(x, [size for size in reversed(operation.padding) for _ in range(2)])
    for axis, (size, gap, stride) in enumerate(
        zip(operation.kernel_size, operation.dilation, operation.stride, strict=True), 2
    ):
        x = x.unfold(axis, gap * (size - 1) + 1, stride)[..., ::gap]
    return x.movedim(1, len(operation.kernel_size) + 1)


class SecondMoment:
    """H = E[x x^T] of a layer's input patches, (K, K) in float64, summed batch by batch.

    per_batch: most patches taken from one batch. generator: draws the patches.
    """

    def __init__(self, layer: QuantLayer, generator: torch.Generator, per_batch: int):
        self.layer, self.generator, self.per_batch = layer, generator, per_batch
        self.total, self.count = 0.0, 0

    def add(self, x: Tensor) -> None:
        """Add at most ``per_batch`` random patches of one input of the layer."""
        seen = windows(self.layer.operation, x)
        positions = seen.shape[: seen.ndim - self.layer.weight.ndim + 1]
        index = torch.randperm(prod(positions), generator=self.generator)[: self.per_batch]
        rows = seen[torch.unravel_index(index.to(x.device), positions)].flatten(1)
        self.total = self.total + (rows.T @ rows).double()
        self.count += len(rows)

    def mean(self) -> Tensor:
        """H, (K, K)."""
        return self.total / self.count


@torch.no_grad()
def second_moments(
    layers: list[QuantLayer], run: Callable[[], None], batches: int, generator: torch.Generator
) -> dict[QuantLayer, Tensor]:
    """H of each layer, (K, K), over the inputs that it gets while ``run()`` runs.

    batches: how many times ``run()`` calls each layer.
    """
    per_batch = -(-PATCHES // batches)
    moments = {layer: SecondMoment(layer, generator, per_batch) for layer in layers}

    def observe(layer: QuantLayer, args: tuple, kwargs: dict) -> None:
        moments[layer].add(args[0])

    with hooked(before=[(layer, observe) for layer in layers]):
        run()
    return {layer: moment.mean() for layer, moment in moments.items()}


@torch.no_grad()
def gptq_levels(layer: QuantLayer, moment: Tensor) -> Tensor:
    """GPTQ's integers q - z for the weight of a layer, in the weight's shape.

    layer: its weight range is set. moment: H, (K, K). Columns are rounded in descending order of H's
    diagonal.
    """
    weight = layer.weight
    scale, zero_point = (torch.cat(part, dim=1).flatten(1).double() for part in layer.column_grids())
    order = moment.diagonal().argsort(descending=True)
    codes = _round_in_order(
        weight.flatten(1).double()[:, order], scale[:, order], zero_point[:, order],
        2**layer.weight_grid.bits - 1, _compensation(moment[order][:, order]),
    )  # fmt: skip
    return codes[:, order.argsort()].to(weight.dtype).view_as(weight)


def _compensation(moment: Tensor) -> Tensor:
    """The upper Cholesky factor U of H^-1: an error e in column i changes column j > i by -e U_ij / U_ii."""
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
