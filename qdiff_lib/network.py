"""After the last unit: all scales and biases of the network learn together (not in the paper).

Block reconstruction fits each unit to its own output. What the units leave adds up along the network, and
none of them is fitted to the sum: near the clean end, for example, the predicted noise is some percent too
small. Here the codes stay as they were decided, and the scales of weights and activations and the biases are
learned at once, against the output of the full-precision network.

Errors near the clean end are up to a hundred times those near the noisy end, and matter least to the picture,
so a plain mean would learn where there is nothing to gain. Each step's error is therefore divided by what it
was before this stage: halving it counts the same at every step.
"""

import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from .calibration import CalibrationSet
from .layers import activation_quantizers, quant_layers
from .progress import progress_bar
from .recipes import Recipe
from .reconstruction import UnitFitter, decide, learned_affine, mean_loss, unit_seed
from .replay import InputRows, UnitInputs, row_batches
from .resume import UnitFiles, UnitReport, fingerprint
from .store import Rows, RowStore

NAME = "network"  # of the report of this stage
SMALLEST_LOSS = 1e-12  # a step without any error keeps a finite weight


class Whole(nn.Module):
    """A noise network as if it were one unit: from keyword arguments to its output, a tensor."""

    def __init__(self, unet: nn.Module):
        super().__init__()
        self.unet = unet

    def forward(self, **inputs: Tensor) -> Tensor:
        return self.unet(**inputs).sample


class NetworkFitter(UnitFitter):
    """Fits the scales and biases of a ``Whole``. weights: what each row's loss counts, (N,)."""

    weights: Tensor

    def loss(self, index: Tensor) -> Tensor:
        """The weighted mean squared error on these rows."""
        args, kwargs = self.inputs.batch(index, self.device)
        errors = (self.unit(*args, **kwargs) - self.target[index].to(self.device)).square().flatten(1).mean(1)
        return (errors * self.weights[index].to(self.device)).mean()

    def fit_affine(self) -> None:
        """Learn all scales and biases by Adam with cosine decay; no code changes."""
        layers = [layer for layer in quant_layers(self.unit) if layer.weight_grid]
        for layer in layers:
            for part in layer.start_rounding():
                part.v.requires_grad_(False)  # it starts at the code that was decided
        quantizers = activation_quantizers(self.unit)
        learned = [*learned_affine(layers), *(quantizer.start_learning() for quantizer in quantizers)]
        optimizer = torch.optim.Adam(learned, self.recipe.lr_network)
        iterations = self.recipe.network_iterations
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
        self.minimize(optimizer, iterations, lambda _: 0.0, schedule)
        decide(layers)
        for quantizer in quantizers:
            quantizer.finish_learning()


def fit_network(
    full: nn.Module,
    quantized: nn.Module,
    inputs: CalibrationSet,
    recipe: Recipe,
    work: Path | None = None,
    memory_gb: float = 4.0,
    progress: bool = True,
) -> UnitReport:
    """Learn the scales and biases of ``quantized``, whose units are finished; it is changed in place.

    work: the folder of ``reconstruct``; this stage is kept there when it ends, and is not done again.
    memory_gb: most RAM for cached outputs, in 2^30 bytes; the rest goes to files.
    """
    found = quantized.quantization.trace
    index = len(found.units)  # of the report: behind those of the units
    files = UnitFiles(work / "units", fingerprint(full, recipe, inputs), resume=True) if work else None
    report = files.load(index, quantized) if files else None
    if report is not None:
        return report
    start, store = time.monotonic(), RowStore(int(memory_gb * 2**30), work)
    batches = row_batches(len(inputs), found.batch_size)
    bar = progress_bar(total=recipe.network_iterations, desc="scales and biases", shown=progress)
    try:
        whole, given = Whole(quantized), all_inputs(inputs)
        target, before = (outputs(unit, given, batches, store) for unit in (Whole(full), whole))
        seed = unit_seed(recipe.seed, index)
        fitter = NetworkFitter(whole, given, target, batches, recipe, seed, bar.update)
        fitter.weights = step_weights(row_losses(before, target, batches), inputs.step)
        fitter.fit_affine()
        error = mean_loss(outputs(whole, given, batches, store), target, batches)
    finally:
        bar.close()
        store.close()
    report = UnitReport(NAME, index, error, time.monotonic() - start)
    if files:
        files.save(report, quantized)
    return report


def all_inputs(inputs: CalibrationSet) -> UnitInputs:
    """The network's own inputs, as the arguments of a unit."""
    leaves, spec = tree_flatten(((), {name: InputRows(inputs, name) for name in inputs.inputs}))
    return UnitInputs(leaves, spec)


@torch.no_grad()
def outputs(unit: nn.Module, inputs: UnitInputs, batches: list[slice], store: RowStore) -> Rows:
    """The unit's output for all rows."""
    rows, device = None, next(unit.parameters()).device
    for batch in batches:
        args, kwargs = inputs.batch(batch, device)
        output = unit(*args, **kwargs)
        if rows is None:
            rows = store.allocate((batches[-1].stop, *output.shape[1:]))
        rows[batch] = output
    return rows


def row_losses(output: Rows, target: Rows, batches: list[slice]) -> Tensor:
    """The mean squared error of each row, (N,)."""
    return torch.cat([(output[rows] - target[rows]).square().flatten(1).mean(1) for rows in batches])


def step_weights(losses: Tensor, step: Tensor) -> Tensor:
    """What each row's loss counts, (N,): one over the mean of ``losses`` (N,) at its ``step`` (N,)."""
    _, index = step.unique(return_inverse=True)
    means = torch.zeros(int(index.max()) + 1).scatter_reduce(0, index, losses, "mean", include_self=False)
    return 1 / means.clamp(min=SMALLEST_LOSS)[index]
