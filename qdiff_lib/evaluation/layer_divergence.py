"""A check of a calibration: how much quantization changes each layer's outputs at each denoising step."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from ..calibration.calibration_set import CalibrationSet
from ..graph.hooks import watched_outputs
from ..graph.networks import evaluating
from ..modules.quant_layer import QuantLayer
from .kl_divergence import BINS, PSEUDOCOUNT, histogram, kl_of_counts


@dataclass(frozen=True)
class Divergences:
    """KL divergences of layers at denoising steps.

    layers: names. steps: denoising steps, counted as in ``CalibrationSet``. values: the divergences in nats,
    float64, (steps, layers).
    """

    layers: list[str]
    steps: list[int]
    values: Tensor


def layer_divergences(
    full: nn.Module,
    quantized: nn.Module,
    inputs: CalibrationSet,
    layers: Sequence[str] | None = None,
    bins: int = BINS,
    pseudocount: float = PSEUDOCOUNT,
    batch_size: int = 64,
) -> Divergences:
    """KL(P || Q) of each layer at each denoising step; P: its outputs in ``full``, Q: those in ``quantized``.

    Both networks get the same inputs. So a value shows the effect of quantization in one denoising step,
    without the error that accumulates along a trajectory. Use inputs that are not in the calibration set. The
    divergence is that of ``kl_divergence``, over all values that a layer outputs at a step.

    Outputs are not kept. Each network runs twice on the inputs of a step, first for the ranges, then for the
    counts. So memory does not grow with the number of inputs.

    Args:
        layers: names of modules that both networks have and that return one tensor; None: the quantized
            layers.
        bins, pseudocount: as in ``kl_divergence``.
        batch_size: inputs in each forward pass.

    Raises:
        ValueError: no layers, no inputs, outputs that are not finite, or ``bins``, ``pseudocount`` or
            ``batch_size`` not positive.
    """
    names = quantized_names(quantized) if layers is None else layers
    if not names or not len(inputs):
        raise ValueError(f"{len(names)} layers and {len(inputs)} inputs: give at least one of both")
    if bins < 1 or pseudocount <= 0 or batch_size < 1:
        raise ValueError(f"bins={bins}, pseudocount={pseudocount}, batch_size={batch_size}: must be positive")
    steps, values = inputs.step.unique().tolist(), []
    with evaluating(full), evaluating(quantized):
        for step in steps:
            rows = (inputs.step == step).nonzero().flatten().split(batch_size)
            counts = _counts((full, quantized), names, [inputs.rows(index) for index in rows], bins)
            values.append([kl_of_counts(*counts[name], pseudocount) for name in names])
    return Divergences(names, steps, torch.tensor(values, dtype=torch.float64))


def quantized_names(network: nn.Module) -> list[str]:
    """The names of all quantized layers of a network."""
    return [name for name, module in network.named_modules() if isinstance(module, QuantLayer)]


def _counts(
    networks: tuple[nn.Module, nn.Module], layers: Sequence[str], batches: list[dict[str, Any]], bins: int
) -> dict[str, list[Tensor]]:
    """For each layer, one histogram (bins,) for each network, over the joint range of both networks."""
    ranges = dict.fromkeys(layers, (math.inf, -math.inf))
    counts = {layer: [torch.zeros(bins, dtype=torch.float64) for _ in networks] for layer in layers}

    def widen(layer: str, x: Tensor) -> None:
        low, high = (end.item() for end in x.aminmax())
        if not math.isfinite(low) or not math.isfinite(high):
            raise ValueError(f"layer {layer!r} puts out values that are not finite: look for nan or inf")
        ranges[layer] = min(low, ranges[layer][0]), max(high, ranges[layer][1])

    for network in networks:
        _run(network, layers, batches, widen)
    for i, network in enumerate(networks):

        def count(layer: str, x: Tensor, i: int = i) -> None:
            counts[layer][i] += histogram(x, bins, *ranges[layer])

        _run(network, layers, batches, count)
    return counts


@torch.no_grad()
def _run(network: nn.Module, layers: Sequence[str], batches: list[dict[str, Any]], look: Callable) -> None:
    """Run the network on the batches; ``look(layer, output)`` is called with each output of the layers."""
    device = next(network.parameters()).device
    with watched_outputs(network, layers, look):
        for batch in batches:
            network(**tree_map(lambda value: value.to(device), batch))
