"""Fitting the whole network after the last unit: all quantized layers learn together (not in the paper).

Block reconstruction fits each unit to its own output. The remaining errors of the units add up along the
network, and no unit is fitted to the sum. In this stage the loss is the error of the network's output, so
that one unit can compensate the error of another. These parameters are learned: the codes and scales of
weights, the scales of activations, and the biases of layers with quantized weights.

The error is much larger at the clean end of the trajectory than at the noisy end, so the clean end would
dominate a plain mean. Therefore the error of each input is divided by the mean error of its denoising step
before this stage. Then the relative improvement counts equally at all steps.
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from ..calibration.calibration_set import CalibrationSet
from ..graph.model_inputs import nested_inputs
from ..graph.tracing import Trace
from ..io.quantization import UnitReport
from ..modules.activation_quantizer import activation_quantizers
from ..modules.quant_layer import QuantLayer
from ..recipes.parts import WholeNetwork
from ..utils.progress import progress_bar
from .activation_store import Rows, RowStore
from .adam import cosine_rates
from .fitting import Batch, Fitter, biases_of, decide, unit_seed
from .reconstruction import check_learned, mean_loss
from .replay import InputRows, UnitInputs, row_batches
from .run import Run
from .share import Share

NAME = "network"  # the name in this stage's report
SMALLEST_LOSS = 1e-12  # so that a denoising step without any error has a finite weight


class Whole(nn.Module):
    """A noise network in the form of one unit: takes keyword arguments, returns a tensor."""

    def __init__(self, unet: nn.Module):
        super().__init__()
        self.unet = unet

    def forward(self, **inputs: Tensor) -> Tensor:
        """The output of the network, (N, C, H, W)."""
        return self.unet(**inputs).sample


class NetworkFitter(Fitter):
    """Fits codes, scales and biases of all quantized layers of a network (not in the paper).

    whole: the quantized network. full: the full-precision network. loss_weights: the weight of each row in
    the loss, (N,). The other arguments are those of ``Fitter``.
    """

    def __init__(
        self,
        whole: Whole,
        full: nn.Module,
        inputs: UnitInputs,
        target: Rows,
        loss_weights: Tensor,
        settings: WholeNetwork,
        batch_size: int,
        seed: int,
        tick: Callable,
        share: Share | None = None,
    ):
        super().__init__(whole, inputs, target, batch_size, seed, tick, share=share)
        self.full, self.loss_weights, self.settings = full, loss_weights.to(self.device), settings

    def loss(self, batch: Batch) -> Tensor:
        """The mean squared error of each row of the batch, times its loss weight, averaged."""
        errors = (self.unit(*batch.args, **batch.kwargs) - batch.target).square()
        return (errors.flatten(1).mean(1) * self.loss_weights[batch.index]).mean()

    def fit(self) -> None:
        """Learn all parameters by Adam with cosine decay; without quantized layers, do nothing."""
        modules = self.unit.unet.named_modules()
        layers = {name: m for name, m in modules if isinstance(m, QuantLayer) and m.weight_grid}
        quantizers = activation_quantizers(self.unit)
        weights = [self.full.get_parameter(f"{name}.weight") for name in layers]
        started = [layer.start_tuning(w) for layer, w in zip(layers.values(), weights, strict=True)]
        parts = [part for layer in started for part in layer]
        learned = [part.log_scale for part in parts]
        learned += [bias.requires_grad_(True) for bias in biases_of(layers.values())]
        learned += [quantizer.start_learning() for quantizer in quantizers]
        if not learned:  # weights and activations in floating point
            return
        groups = [learned, [part.u for part in parts]]
        rates = [self.settings.lr_network, self.settings.lr_codes]
        self.minimize(groups, [cosine_rates(rate, self.settings.network_iterations) for rate in rates])
        decide(layers.values())
        for quantizer in quantizers:
            quantizer.finish_learning()


def fit_network(
    full: nn.Module,
    quantized: nn.Module,
    trace: Trace,
    inputs: CalibrationSet,
    settings: WholeNetwork,
    batch_size: int,
    run: Run,
) -> UnitReport:
    """Fit all layers of ``quantized`` together, in place, after its units are finished (not in the paper).

    full: the full-precision network. inputs: the calibration set. batch_size: inputs in each iteration.
    Returns a report; its error is the reconstruction loss of the network's output.

    This stage keeps nothing in the work folder. After a kill it starts again from the finished units.
    """
    start, store, index = time.monotonic(), run.store(), len(trace.units)
    share = Share.of(run.processes, len(inputs), trace.batch_size)
    own = share.inputs(inputs)
    batches = row_batches(len(own), share.size)
    bar = progress_bar(total=settings.network_iterations, desc="whole network", shown=run.progress)
    try:
        whole, given = Whole(quantized), all_inputs(own)
        target, before = (outputs(unit, given, batches, store) for unit in (Whole(full), whole))
        losses = share.all_kept([[row_losses(before, target, [rows]) for rows in batches]])
        weights = loss_weights_of(torch.cat(losses[0]), inputs.step)[share.rows]
        store.free(before)
        learning = (settings, batch_size, unit_seed(run.seed, index), bar.update)
        NetworkFitter(whole, full, given, target, weights, *learning, share).fit()
        run.align(quantized)
        error = mean_loss(outputs(whole, given, batches, store), target, batches, share)
        check_learned(error, "the whole network")
    finally:
        bar.close()
        store.close()
    return run.finished(UnitReport(NAME, index, error, time.monotonic() - start))


def all_inputs(inputs: CalibrationSet) -> UnitInputs:
    """The inputs of the network, in the form of the arguments of a unit."""
    leaves, spec = tree_flatten(
        ((), nested_inputs({name: InputRows(inputs, name) for name in inputs.inputs}))
    )
    return UnitInputs(leaves, spec)


@torch.no_grad()
def outputs(unit: nn.Module, inputs: UnitInputs, batches: list[slice], store: RowStore) -> Rows:
    """The output of the unit for all rows, kept in the store; ``batches`` covers all rows."""
    rows, device = None, next(unit.parameters()).device
    for batch in batches:
        args, kwargs = inputs.batch(batch, device)
        output = unit(*args, **kwargs)
        if rows is None:
            rows = store.allocate((batches[-1].stop, *output.shape[1:]))
        rows[batch] = output
    return rows


def row_losses(output: Rows, target: Rows, batches: list[slice]) -> Tensor:
    """The mean squared error of each row, (N,), on the CPU; ``batches`` covers all rows."""
    losses = [(output[rows] - target[rows]).square().flatten(1).mean(1) for rows in batches]
    return torch.cat(losses).cpu()


def loss_weights_of(losses: Tensor, step: Tensor) -> Tensor:
    """The loss weight of each row, (N,): 1 / (mean loss of all rows with the same denoising step).

    losses: the mean squared error of each row, (N,). step: the denoising step of each row, (N,), on the CPU.
    """
    _, index = step.unique(return_inverse=True)
    means = torch.zeros(int(index.max()) + 1).scatter_reduce(0, index, losses, "mean", include_self=False)
    return 1 / means.clamp(min=SMALLEST_LOSS)[index]
