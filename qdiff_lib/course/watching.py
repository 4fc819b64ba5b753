"""Looking into a network while it runs: forward hooks on a few layers."""

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from ..calibration.calibration_set import CalibrationSet
from ..diffusion.sampling import Samples, sample
from ..graph.hooks import watched_inputs, watched_outputs
from ..quantizers.observer import ActivationObserver

BATCH = 8  # inputs at a time: a lesson has little memory


def sampled_inputs(
    pipe: DiffusionPipeline, layers: list[str], n: int, steps: int, kept: int = 1024, progress: bool = False
) -> tuple[dict[str, Tensor], Samples]:
    """Values of each layer's input at each step of n runs, (steps, values), and the runs themselves.

    Of each batch, ``kept`` values drawn at random and the two extremes. ``n`` is a multiple of ``BATCH``.
    """
    if n % BATCH:
        raise ValueError(f"n={n} must be a multiple of {BATCH}")
    generator = torch.Generator().manual_seed(0)
    seen = {layer: ActivationObserver(generator, kept) for layer in layers}
    with watched_inputs(pipe.unet, layers, lambda layer, x: seen[layer].add(x)):
        runs = sample(pipe, n, steps, batch_size=BATCH, record=True, progress=progress)
    shape = (n // BATCH, steps, -1)
    return {
        layer: torch.stack(part.kept).view(shape).transpose(0, 1).flatten(1).cpu()
        for layer, part in seen.items()
    }, runs


def range_table(values: dict[str, Tensor], n: int) -> dict:
    """The ranges of ``sampled_inputs``, in the form of the recorded result "activation_ranges"."""
    rows = list(values.values())
    return {
        "steps": len(rows[0]),
        "n": n,
        "layers": list(values),
        "min": [v.amin(1).tolist() for v in rows],
        "max": [v.amax(1).tolist() for v in rows],
        "low": [v.quantile(0.01, dim=1).tolist() for v in rows],
        "high": [v.quantile(0.99, dim=1).tolist() for v in rows],
    }


def histograms(values: dict[str, Tensor], bins: int = 60) -> dict[str, Tensor]:
    """Counts of each step's values in equal bins over the layer's range, (steps, bins)."""
    return {
        layer: torch.stack([torch.histc(row, bins, v.min().item(), v.max().item()) for row in v])
        for layer, v in values.items()
    }


@torch.no_grad()
def layer_outputs(unet: nn.Module, layers: list[str], inputs: CalibrationSet) -> dict[str, Tensor]:
    """All values that each layer puts out over these inputs of the UNet, flattened."""
    kept: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    device = next(unet.parameters()).device
    with watched_outputs(unet, layers, lambda layer, x: kept[layer].append(x.flatten().cpu())):
        for i in range(0, len(inputs), BATCH):
            unet(**inputs.rows(slice(i, i + BATCH), device))
    return {layer: torch.cat(parts) for layer, parts in kept.items()}


def chosen(inputs: CalibrationSet, rows: Tensor, count: int) -> CalibrationSet:
    """The first ``count`` of the inputs for which ``rows``, (N,) of bool, holds; they are in random order."""
    index = rows.nonzero().flatten()[:count]
    if len(index) < count:
        raise ValueError(f"count={count}, but only {len(index)} inputs fit")
    return CalibrationSet(inputs.columns(index), inputs.step[index], inputs.made_by)
