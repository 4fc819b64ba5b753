"""GPTQ as a start for AdaRound: rounding that compensates its own error (Frantar et al., ICLR 2023).

This is not in the paper. Take a layer with weight W (C_out, K) and input patches x (K,). A rounded weight W^
has the output error ``tr((W - W^) H (W - W^)^T)`` with ``H = E[x x^T]``. GPTQ rounds the columns of W one
after the other. After each column it changes the columns that are not rounded yet, to compensate the error.
The change has a closed form in the Cholesky factor of H's inverse. GPTQ takes seconds, AdaRound takes
minutes. AdaRound starts from GPTQ's codes and then minimizes the error of the whole unit's output.
"""

from collections.abc import Callable
from itertools import product
from math import prod

import numpy as np
import torch
from torch import Tensor, nn

from ..graph.hooks import hooked
from ..modules.quant_layer import Convolution, QuantLayer
from ..utils.processes import ALONE, Processes

PATCHES = 16_384  # random input patches of each layer: many times K, but a limited time
DAMPING = 0.01  # added to the diagonal of H, as a share of its mean, as H may be singular
MOST_BYTES = 2**30  # of the second moments that are held at once, unless one alone is larger
BLOCK = 64  # columns that are rounded before all later columns are changed


def windows(operation: Callable, x: Tensor) -> Tensor:
    """The input patch of each output position of a convolution or linear layer, as a view without a copy.

    operation: a ``Convolution`` or a layer of torch, with one group; anything else is a linear layer. x: its
    input. Returns (N, H_out, W_out, C, K_h, K_w) for a 2-d convolution, (n, C) for a linear
    layer.
    """
    if isinstance(operation, nn.Conv1d | nn.Conv2d):
        operation = Convolution.of(operation)
    if not isinstance(operation, Convolution):
        return x.reshape(-1, x.shape[-1])
    x = operation.pad(x)
    for axis, (size, gap, stride) in enumerate(
        zip(operation.kernel_size, operation.dilation, operation.stride, strict=True), 2
    ):
        x = x.unfold(axis, gap * (size - 1) + 1, stride)[..., ::gap]
    return x.movedim(1, len(operation.kernel_size) + 1)


class SecondMoment:
    """H = E[x x^T] of a layer's input patches, (K, K) in float64, summed batch by batch.

    per_batch: most patches taken from one batch. generator: draws the patches. total: the sum, with the
    channels of one place of the kernel side by side.
    """

    def __init__(self, layer: QuantLayer, generator: torch.Generator, per_batch: int):
        self.layer, self.generator, self.per_batch = layer, generator, per_batch
        self.total, self.count = None, 0

    def add(self, x: Tensor) -> None:
        """Add at most ``per_batch`` random patches of one input of the layer."""
        if x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)  # the channels of a pixel side by side
        seen = windows(self.layer.operation, x)
        positions = seen.shape[: seen.ndim - self.layer.weight.ndim + 1]
        index = torch.randperm(prod(positions), generator=self.generator)[: self.per_batch]
        place = torch.unravel_index(index.to(x.device), positions)
        taps = product(*map(range, seen.shape[len(positions) + 1 :]))  # one by one is faster on a CPU
        rows = torch.cat([seen[(..., *tap)][place] for tap in taps], dim=1)
        if self.total is None:
            width = rows.shape[1]
            self.total = torch.zeros(width, width, dtype=torch.float64, device=rows.device)
        self.total += rows.T @ rows
        self.count += len(rows)

    def add_up(self, processes: Processes) -> None:
        """Add the patches of all processes."""
        count = torch.tensor([self.count], dtype=torch.float64, device=self.total.device)
        self.total, count = processes.added([self.total, count])
        self.count = int(count)

    def mean(self) -> Tensor:
        """H, (K, K), in the order of the flattened weight. It is then no longer held here."""
        total, self.total = self.total, None
        channels = self.layer.weight.shape[1]
        order = torch.arange(len(total), device=total.device).view(-1, channels).T.flatten()
        total = total[order]
        return total[:, order].div_(self.count)


@torch.no_grad()
def second_moments(
    layers: list[QuantLayer],
    run: Callable[[], None],
    batches: int,
    generator: torch.Generator,
    processes: Processes = ALONE,
) -> dict[QuantLayer, Tensor]:
    """H of each layer, (K, K), over the inputs that it gets while ``run()`` runs.

    batches: how many times ``run()`` calls each layer, in all processes together.
    """
    per_batch = -(-PATCHES // batches)
    moments = {layer: SecondMoment(layer, generator, per_batch) for layer in layers}

    def observe(layer: QuantLayer, args: tuple, kwargs: dict) -> None:
        moments[layer].add(args[0])

    with hooked(before=[(layer, observe) for layer in layers]):
        run()
    for moment in moments.values():
        moment.add_up(processes)
    return {layer: moment.mean() for layer, moment in moments.items()}


def is_compensable(layer: QuantLayer) -> bool:
    """Whether GPTQ can start this layer.

    All its output channels must read the same inputs. And it must have no more columns than patches are
    taken: the second moment of a wider layer is not determined by them, and takes gigabytes.
    """
    grouped = isinstance(layer.operation, Convolution) and layer.operation.groups > 1
    return not grouped and layer.weight[0].numel() <= PATCHES


def moment_bytes(layer: QuantLayer) -> int:
    """Bytes of the layer's second moment."""
    return 8 * layer.weight[0].numel() ** 2


def in_groups(layers: list[QuantLayer]) -> list[list[QuantLayer]]:
    """The layers in order, in groups whose second moments take ``MOST_BYTES`` together, or a single layer."""
    groups: list[list[QuantLayer]] = []
    for layer in layers:
        if groups and sum(map(moment_bytes, [*groups[-1], layer])) <= MOST_BYTES:
            groups[-1].append(layer)
        else:
            groups.append([layer])
    return groups


@torch.no_grad()
def gptq_levels(layer: QuantLayer, moment: Tensor) -> Tensor:
    """GPTQ's integers q - z for the weight of a layer, in the weight's shape.

    layer: its weight range is set. moment: H, (K, K), which is changed. Columns are rounded in descending
    order of H's diagonal.
    """
    weight = layer.weight
    scale, zero_point = (torch.cat(part, dim=1).flatten(1).double() for part in layer.column_grids())
    order = moment.diagonal().argsort(descending=True)
    codes = _round_in_order(
        weight.flatten(1).double()[:, order], scale[:, order], zero_point[:, order],
        2**layer.weight_grid.bits - 1, _compensation(moment, order),
    )  # fmt: skip
    return codes[:, order.argsort()].to(weight.dtype).view_as(weight)


def _compensation(moment: Tensor, order: Tensor) -> Tensor:
    """The upper Cholesky factor U of H^-1: an error e in column i changes column j > i by -e U_ij / U_ii.

    H's rows and columns are taken in this order. Nothing is held longer than needed: at most two (K, K).
    """
    moment.diagonal().add_(DAMPING * moment.diagonal().mean().clamp(min=1e-12))
    factor = moment[order]
    moment.copy_(factor[:, order])
    torch.linalg.cholesky(moment, out=factor)
    torch.cholesky_inverse(factor, out=moment)
    return torch.linalg.cholesky(moment, upper=True, out=factor)


def _round_in_order(weight: Tensor, scale: Tensor, zero_point: Tensor, top: int, factor: Tensor) -> Tensor:
    codes = torch.empty_like(weight)
    for start in range(0, weight.shape[1], BLOCK):
        block = slice(start, start + BLOCK)
        columns = (x[:, block].T.cpu().numpy() for x in (weight, scale, zero_point))
        found, errors = _round_block(*columns, top, factor[block, block].cpu().numpy())
        codes[:, block] = torch.from_numpy(found).T.to(codes)
        later = slice(start + BLOCK, None)
        weight[:, later] -= torch.from_numpy(errors).T.to(weight) @ factor[block, later]
    return codes


def _round_block(
    weight: np.ndarray, scale: np.ndarray, zero_point: np.ndarray, top: int, factor: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Round the columns of a block in order; returns their levels, and their errors divided by U_ii.

    All arrays have one row for each column of the layer's weight. numpy is faster than torch here, as each
    operation is small.
    """
    weight, levels, errors = weight.copy(), np.empty(weight.shape), np.empty(weight.shape)
    for i, (s, z) in enumerate(zip(scale, zero_point, strict=True)):
        code = np.rint(weight[i] / s) + z
        levels[i] = np.minimum(np.maximum(code, 0), top) - z
        errors[i] = (weight[i] - levels[i] * s) / factor[i, i]
        weight[i:] -= errors[i] * factor[i, i:, None]
    return levels, errors
