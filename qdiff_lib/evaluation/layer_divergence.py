"""A check of a calibration: how far quantization moves what each layer puts out, at each denoising step."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..calibration.calibration_set import CalibrationSet
from ..graph.hooks import watched_outputs
from ..graph.networks import evaluating
from ..modules.quant_layer import QuantLayer
from .kl_divergence import BINS, PSEUDOCOUNT, histogram, kl_of_counts


@dataclass(frozen=True)
class Divergences:
    """KL divergences in nats: ``values`` is float64, (steps, layers). steps: as in ``CalibrationSet``."""

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
    """KL(P || Q) of each layer at each step: P are its outputs in ``full``, Q those in ``quantized``.

    Both networks get the same inputs, so that the value tells what quantization does within one step, not
    what has added up along a trajectory. Take inputs that were not calibrated on. The estimator is that of
    ``kl_divergence``, over all values that a layer puts out at a step: ``bins`` equal bins over the
    joint range of both networks, ``pseudocount`` added to each.

    No output is kept: each step runs twice, first for the ranges, then for the counts. So memory does not
    grow with the number of inputs.

    Args:
        layers: names of modules that both networks have and that return one tensor; by default the quantized
            ones.

    Raises:
        ValueError: no layer, no inputs, outputs that are not finite, counts that are not positive.
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
    """The names of all quantized layers."""
    return [name for name, module in network.named_modules() if isinstance(module, QuantLayer)]


def _counts(
    networks: tuple[nn.Module, nn.Module], layers: Sequence[str], batches: list[dict[str, Tensor]], bins: int
) -> dict[str, list[Tensor]]:
    """Of each layer, a histogram from each network over the range of both, (bins,)."""
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
def _run(network: nn.Module, layers: Sequence[str], batches: list[dict[str, Tensor]], look: Callable) -> None:
    """Send the batches through the network; ``look(layer, output)`` sees what the layers put out."""
    device = next(network.parameters()).device
    with watched_outputs(network, layers, look):
        for batch in batches:
            network(**{name: value.to(device) for name, value in batch.items()})
