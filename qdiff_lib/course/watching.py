"""Measurements on networks and runs: forward hooks on a few layers, errors along a run."""

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from ..calibration.calibration_set import CalibrationSet
from ..diffusion.sampling import Samples, sample
from ..evaluation.trajectory_errors import trajectory_mse, trajectory_snr
from ..graph.hooks import watched_inputs, watched_outputs
from ..quantizers.grid import ScaleZero, quantize
from ..quantizers.observer import ActivationObserver

BATCH = 8  # inputs at a time: a lesson has little memory


def sampled_inputs(
    pipe: DiffusionPipeline, layers: list[str], n: int, steps: int, kept: int = 1024, progress: bool = False
) -> tuple[dict[str, Tensor], Samples]:
    """Values of each layer's input at each step of n runs, (steps, values), and the runs themselves.

    Each batch gives ``kept`` values drawn at random, and its two extremes. ``n`` is a multiple of ``BATCH``.
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


def errors_along(runs: dict[str, Samples]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """MSE and SNR in dB against the first run, after each step: (steps,) for the label of each other run.

    The runs have recorded trajectories that start from the same noise.
    """
    exact, *others = runs.items()
    mse = {label: trajectory_mse(exact[1].trajectory, run.trajectory) for label, run in others}
    return mse, {label: trajectory_snr(exact[1].trajectory, run.trajectory) for label, run in others}


def shares_of_codes(values: Tensor, found: ScaleZero, bits: int) -> Tensor:
    """The share of the 2^bits codes from the lowest to the highest code of each row, (steps,).

    values: (steps, n). found: scale and zero point.
    """
    codes = quantize(values, *found, bits).int()
    return (codes.amax(1) - codes.amin(1) + 1) / 2**bits


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
    """All output values of each layer for these inputs of the UNet, flattened."""
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
