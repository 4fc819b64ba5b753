"""Block reconstruction: fit each unit's rounding and step sizes to its full-precision output.

Units are taken in execution order. Each learns on the inputs that the already quantized prefix gives it,
against the output of the full-precision unit on full-precision inputs (Q-Diffusion, section 3.3.1; after
BRECQ).
"""

import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from .calibration import CalibrationSet
from .cost import layer_costs
from .gptq import gptq_levels, second_moments
from .layers import QuantLayer, activation_quantizers, quant_layers
from .progress import UnitsBar
from .ranges import Reservoir
from .recipes import Recipe
from .replay import Replay, UnitInputs
from .resume import UnitReport, WorkFolder
from .store import Rows, RowStore
from .tracing import Trace

OBSERVED = 4096  # activation values that a range finder sees from each batch


def feature_axis(output: Tensor) -> int:
    """The axis of features: 1 for images (N, C, H, W), the last for tokens (N, T, C) and vectors (N, C)."""
    return 1 if output.ndim == 4 else -1


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """Squared error, summed over features and averaged over the rest, whatever the layout."""
    return (output - target).square().sum(feature_axis(output)).mean()


def annealed_beta(iteration: int, recipe: Recipe) -> float:
    """The regularizer's exponent after the warm-up: falls from ``beta[0]`` to ``beta[1]`` along a line."""
    start = recipe.warmup * recipe.iterations
    share = (iteration - start) / max(1.0, recipe.iterations - start)
    return recipe.beta[0] + (recipe.beta[1] - recipe.beta[0]) * share


class UnitFitter:
    """Fits one unit: weights first, then activation ranges, then their step sizes."""

    def __init__(
        self,
        unit: nn.Module,
        inputs: UnitInputs,
        target: Rows,
        batches: list[slice],
        recipe: Recipe,
        seed: int,
        tick: Callable,
    ):
        self.unit, self.inputs, self.target, self.recipe, self.tick = unit, inputs, target, recipe, tick
        self.batches = batches
        self.generator = torch.Generator().manual_seed(seed)
        self.device = next(unit.parameters()).device

    def loss(self, index: Tensor | slice) -> Tensor:
        """The reconstruction loss on these rows."""
        args, kwargs = self.inputs.batch(index, self.device)
        return reconstruction_loss(self.unit(*args, **kwargs), self.target[index].to(self.device))

    def draw(self) -> Tensor:
        """Row numbers of one batch."""
        n = self.target.shape[0]
        return torch.randperm(n, generator=self.generator)[: self.recipe.batch_size]

    def minimize(
        self, optimizer, iterations: int, penalty: Callable[[int], Tensor | float], schedule=None
    ) -> None:
        """Run the optimizer on random batches; ``penalty(iteration)`` is added to the loss."""
        for iteration in range(iterations):
            with torch.enable_grad():
                loss = self.loss(self.draw()) + penalty(iteration)
                optimizer.zero_grad()
                loss.backward()
            optimizer.step()
            if schedule:
                schedule.step()
            self.tick()

    def fit_weights(self) -> None:
        """Learn every rounding variable of the unit (AdaRound), both halves of split layers included.

        With ``learn_affine`` the weights' log(scale) and the biases are learned along with them.
        """
        layers = [layer for layer in quant_layers(self.unit) if layer.weight_grid]
        if not layers:
            return
        levels = self.compensated_levels(layers) if self.recipe.rounding_start == "gptq" else {}
        rounds = [part for layer in layers for part in layer.start_rounding(levels.get(layer))]
        groups = [{"params": [part.v for part in rounds], "lr": self.recipe.lr}]
        if self.recipe.learn_affine:
            scales = [part.learn_scale() for part in rounds]
            affine = [*scales, *(bias.requires_grad_(True) for bias in biases_of(layers))]
            groups.append({"params": affine, "lr": self.recipe.lr_steps})
        optimizer = torch.optim.Adam(groups)

        def regularizer(iteration: int) -> Tensor | float:
            if iteration < self.recipe.warmup * self.recipe.iterations:
                return 0.0
            beta = annealed_beta(iteration, self.recipe)
            return self.recipe.regularization * sum(part.regularizer(beta) for part in rounds)

        self.minimize(optimizer, self.recipe.iterations, regularizer)
        decide(layers)

    def compensated_levels(self, layers: list[QuantLayer]) -> dict[QuantLayer, Tensor]:
        """Where GPTQ would round each layer's weight, from the inputs that the unit gives it."""
        moments = second_moments(layers, self.run, len(self.batches), self.generator)
        return {layer: gptq_levels(layer, moment) for layer, moment in moments.items()}

    @torch.no_grad()
    def run(self) -> None:
        """Send all rows through the unit, in order, for those who look on."""
        for rows in self.batches:
            args, kwargs = self.inputs.batch(rows, self.device)
            self.unit(*args, **kwargs)

    def observe(self) -> None:
        """Set the activation ranges from all calibration inputs, which are in random order of time."""
        quantizers = activation_quantizers(self.unit)
        for quantizer in quantizers:
            quantizer.reservoir = Reservoir(OBSERVED, self.generator)
        self.run()
        for quantizer in quantizers:
            quantizer.range_from_reservoir(self.recipe.activation_range)

    def fit_steps(self) -> None:
        """Learn log(scale) of every activation quantizer of the unit (LSQ, Esser et al., ICLR 2020)."""
        quantizers = activation_quantizers(self.unit)
        optimizer = torch.optim.Adam([q.start_learning() for q in quantizers], lr=self.recipe.lr_steps)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.recipe.step_iterations)
        self.minimize(optimizer, self.recipe.step_iterations, lambda _: 0.0, schedule)
        for quantizer in quantizers:
            quantizer.finish_learning()


def biases_of(layers: list[QuantLayer]) -> list[nn.Parameter]:
    """The biases of these layers, of those that have one."""
    return [layer.bias for layer in layers if layer.bias is not None]


def decide(layers: list[QuantLayer]) -> None:
    """End the learning of these layers' weights and biases."""
    for layer in layers:
        layer.finish_rounding()
    for bias in biases_of(layers):
        bias.requires_grad_(False).grad = None


def unit_seed(seed: int, index: int) -> int:
    """The seed of one unit's batches: a resumed run draws what the uninterrupted one would have drawn."""
    return seed * 1_000_003 + index


def reconstruct(
    full: nn.Module,
    quantized: nn.Module,
    trace: Trace,
    inputs: CalibrationSet,
    recipe: Recipe,
    work: Path | None = None,
    files: WorkFolder | None = None,
    memory_gb: float = 4.0,
    progress: bool = True,
    callback: Callable[[UnitReport], None] | None = None,
) -> list[UnitReport]:
    """Fit every unit of ``quantized`` in turn; it is changed in place.

    work: folder for spilled activations. files: where finished units are kept, and taken from (none: nothing
    is saved). memory_gb: most RAM, in 2^30 bytes, for cached activations; the rest goes to files. callback:
    called with the report of each unit. Raises ValueError for a damaged file of a unit.
    """
    store = RowStore(int(memory_gb * 2**30), work)
    original = Replay(full, trace, inputs, store)
    replaced = Replay(quantized, trace, inputs, store)
    bar = UnitsBar(unit_macs(full, trace), recipe.iterations + recipe.step_iterations, progress)
    reports = []
    try:
        for k, unit in enumerate(trace.units):
            bar.begin(unit.name)
            start = time.monotonic()
            target, given = original.advance(k), replaced.collect(k)
            report = files.load_unit(k, replaced.modules[k]) if files else None
            if report is None:
                fit_unit(k, replaced, given, target, recipe, bar.tick)
            output = replaced.advance(k, given)
            if report is None:
                error = mean_loss(output, target, replaced.batches())
                report = UnitReport(unit.name, k, error, time.monotonic() - start)
                if files:
                    files.save_unit(report, replaced.modules[k])
            given.free(store)
            original.finish(k)
            replaced.finish(k)
            bar.end(k)
            reports.append(report)
            if callback:
                callback(report)
    finally:
        bar.close()
        store.close()
    return reports


def unit_macs(unet: nn.Module, trace: Trace) -> list[int]:
    """Multiply-accumulates of each unit for one input, at least 1."""
    macs = {cost.name: cost.macs for cost in layer_costs(unet)}
    return [1 + sum(macs.get(name, 0) for name in unit.layers) for unit in trace.units]


def mean_loss(output: Rows, target: Rows, batches: list[slice]) -> float:
    """The reconstruction loss over all rows."""
    losses = [reconstruction_loss(output[rows], target[rows]) * (rows.stop - rows.start) for rows in batches]
    return float(sum(losses)) / target.shape[0]


def fit_unit(
    k: int, replay: Replay, inputs: UnitInputs, target: Rows, recipe: Recipe, tick: Callable
) -> None:
    """Quantize unit ``k``: its weights' ranges and rounding, then its activations' ranges and step sizes."""
    unit = replay.modules[k]
    seed = unit_seed(recipe.seed, k)
    fitter = UnitFitter(unit, inputs, target, replay.batches(), recipe, seed, tick)
    for layer in quant_layers(unit):
        if layer.weight_grid:
            layer.find_weight_range(recipe.weight_range)
    fitter.fit_weights()
    if activation_quantizers(unit):
        fitter.observe()
        if recipe.step_iterations:
            fitter.fit_steps()
