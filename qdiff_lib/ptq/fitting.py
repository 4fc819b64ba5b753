"""Fitting to the full-precision output: the loss, and the optimizer's loop over random batches.

For one unit, the rounding of the weights is learned first (AdaRound, with an annealed regularizer). Then the
activations get their ranges, and their step sizes are learned (LSQ). ``ptq.reconstruction`` fits the units
one after the other; ``ptq.whole_network`` fits all layers together.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from ..modules.activation_quantizer import activation_quantizers
from ..modules.quant_layer import QuantLayer, quant_layers
from ..quantizers.observer import ActivationObserver
from ..recipes.parts import Rounding, StepSizes
from .activation_store import Rows
from .gptq import gptq_levels, in_groups, is_compensable, second_moments
from .replay import UnitInputs
from .share import Share


def feature_axis(output: Tensor) -> int:
    """The axis of the features: 1 for images (N, C, H, W), -1 for tokens (N, T, C) and vectors (N, C)."""
    return 1 if output.ndim == 4 else -1


def reconstruction_loss(output: Tensor, target: Tensor, power: float = 2.0) -> Tensor:
    """``|error|^power``, summed over the feature axis and averaged over all other axes.

    With the squared error this is the loss of block reconstruction (Q-Diffusion, section 3.3.1). Both tensors
    have one shape.
    """
    error = output - target
    powers = error.square() if power == 2 else error.abs().pow(power)
    return powers.sum(feature_axis(output)).mean()


def annealed_beta(iteration: int, rounding: Rounding) -> float:
    """The exponent of AdaRound's regularizer after the warm-up: linear from ``beta[0]`` to ``beta[1]``."""
    start = rounding.warmup * rounding.iterations
    share = (iteration - start) / max(1.0, rounding.iterations - start)
    return rounding.beta[0] + (rounding.beta[1] - rounding.beta[0]) * share


class Fitter:
    """Learns parameters of ``unit`` from random batches of its inputs.

    inputs: the arguments of the unit for N calibration inputs. target: the full-precision output, N rows.
    batch_size: rows in a batch. seed: of the batches. tick: called after each iteration. power: of the error
    in the loss. share: which rows of all these are; None: all.
    """

    def __init__(
        self,
        unit: nn.Module,
        inputs: UnitInputs,
        target: Rows,
        batch_size: int,
        seed: int,
        tick: Callable,
        power: float = 2.0,
        share: Share | None = None,
    ):
        self.power, self.share = power, share or Share.whole(target.shape[0])
        self.unit, self.inputs, self.target, self.tick = unit, inputs, target, tick
        self.batch_size = batch_size
        self.generator = torch.Generator().manual_seed(seed)
        self.device = next(unit.parameters()).device

    def loss(self, index: Tensor | slice) -> Tensor:
        """The reconstruction loss on the rows that ``index`` selects."""
        args, kwargs = self.inputs.batch(index, self.device)
        return reconstruction_loss(self.unit(*args, **kwargs), self.target[index], self.power)

    def draw(self) -> Tensor:
        """The row numbers of one random batch, (batch_size,)."""
        return torch.randperm(self.share.n, generator=self.generator)[: self.batch_size]

    def minimize(
        self, optimizer, iterations: int, penalty: Callable[[int], Tensor | float], schedule=None
    ) -> None:
        """Run the optimizer for ``iterations`` iterations, each on a random batch.

        penalty: called with the number of the iteration; its result is added to the loss. schedule: a
        learning-rate scheduler.
        """
        for iteration in range(iterations):
            with torch.enable_grad():
                loss = self.share.loss(self.loss, self.draw(), partial(penalty, iteration))
                optimizer.zero_grad()
                if loss.requires_grad:  # not if this process has no row of the batch
                    loss.backward()
            self.share.add_gradients(optimizer)
            optimizer.step()
            if schedule:
                schedule.step()
            self.tick()


class UnitFitter(Fitter):
    """Fits one unit: its weights, then its activation ranges, then its step sizes (section 3.3.1).

    batches: slices that cover all rows, for passes without learning. rounding, step_sizes: the settings.
    The other arguments are those of ``Fitter``.
    """

    def __init__(
        self,
        unit: nn.Module,
        inputs: UnitInputs,
        target: Rows,
        batches: list[slice],
        rounding: Rounding,
        step_sizes: StepSizes,
        seed: int,
        tick: Callable,
        power: float = 2.0,
        share: Share | None = None,
    ):
        super().__init__(unit, inputs, target, rounding.batch_size, seed, tick, power, share)
        self.batches, self.rounding, self.step_sizes = batches, rounding, step_sizes

    def find_weight_ranges(self) -> None:
        """Set the scales and zero points of all quantized weights."""
        for layer in quant_layers(self.unit):
            if layer.weight_grid:
                layer.find_weight_range(self.rounding.weight_range)

    def fit_weights(self) -> None:
        """Learn the rounding of all weights of the unit (AdaRound), of both halves of split layers too.

        With ``learn_affine`` the log(scale) of the weights and the biases are learned at the same time.
        """
        layers = [layer for layer in quant_layers(self.unit) if layer.weight_grid]
        if not layers:
            return
        levels = self.compensated_levels(layers) if self.rounding.rounding_start == "gptq" else {}
        rounds = [part for layer in layers for part in layer.start_rounding(levels.get(layer))]
        groups = [{"params": [part.v for part in rounds], "lr": self.rounding.lr}]
        if self.rounding.learn_affine:
            scales = [part.learn_scale() for part in rounds]
            affine = [*scales, *(bias.requires_grad_(True) for bias in biases_of(layers))]
            groups.append({"params": affine, "lr": self.step_sizes.lr_step_sizes})
        optimizer = torch.optim.Adam(groups)

        def regularizer(iteration: int) -> Tensor | float:
            if iteration < self.rounding.warmup * self.rounding.iterations:
                return 0.0
            beta = annealed_beta(iteration, self.rounding)
            return self.rounding.regularization * sum(part.regularizer(beta) for part in rounds)

        self.minimize(optimizer, self.rounding.iterations, regularizer)
        decide(layers)

    def compensated_levels(self, layers: list[QuantLayer]) -> dict[QuantLayer, Tensor]:
        """GPTQ's integers q - z of each layer's weight, computed from the layer's inputs in this unit.

        Layers for which GPTQ is not determined have none, and start at their fractions.
        """
        levels = {}
        for group in in_groups([layer for layer in layers if is_compensable(layer)]):
            processes = self.share.processes
            calls = len(self.share.parts) if self.share.divided else len(self.batches)
            moments = second_moments(group, self.run, calls, self.generator, processes)
            while moments:
                layer, moment = moments.popitem()
                levels[layer] = gptq_levels(layer, moment)
        return levels

    @torch.no_grad()
    def run(self) -> None:
        """Run the unit on all rows, in order, so that observers and hooks see its activations."""
        for rows in self.share.in_turn(self.batches, self.generator):
            args, kwargs = self.inputs.batch(rows, self.device)
            self.unit(*args, **kwargs)

    @torch.no_grad()
    def mean_loss(self) -> float:
        """The loss over all rows."""
        total = sum(self.loss(rows) * (rows.stop - rows.start) for rows in self.batches)
        return self.share.mean(total)

    def fit_activations(self) -> None:
        """Find the ranges of the unit's activations, then learn their step sizes."""
        if activation_quantizers(self.unit):
            self.observe()
            if self.step_sizes.step_size_iterations:
                self.fit_step_sizes()

    def observe(self) -> None:
        """Set the activation ranges from all calibration inputs, whose time steps are in random order."""
        quantizers = activation_quantizers(self.unit)
        for quantizer in quantizers:
            quantizer.observer = ActivationObserver(self.generator)
        self.run()
        self.share_observed([quantizer.observer for quantizer in quantizers])
        for quantizer in quantizers:
            quantizer.set_observed_range(self.step_sizes.activation_range)

    def share_observed(self, observers: list[ActivationObserver]) -> None:
        """Let the observers of all processes have seen the inputs of all."""
        if self.share.divided:
            kept = self.share.all_kept([[x.cpu() for x in observer.kept] for observer in observers])
            for observer, values in zip(observers, kept, strict=True):
                observer.kept = [x.to(self.device) for x in values]

    def fit_step_sizes(self) -> None:
        """Learn the step sizes of the unit's activations, as log(scale) (LSQ, Esser et al., ICLR 2020)."""
        quantizers = activation_quantizers(self.unit)
        optimizer = torch.optim.Adam(
            [q.start_learning() for q in quantizers], lr=self.step_sizes.lr_step_sizes
        )
        iterations = self.step_sizes.step_size_iterations
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
        self.minimize(optimizer, iterations, lambda _: 0.0, schedule)
        for quantizer in quantizers:
            quantizer.finish_learning()


def biases_of(layers: list[QuantLayer]) -> list[nn.Parameter]:
    """The biases of these layers; layers without bias are skipped."""
    return [layer.bias for layer in layers if layer.bias is not None]


def decide(layers: list[QuantLayer]) -> None:
    """Fix the codes of these layers' weights, and freeze their biases."""
    for layer in layers:
        layer.finish_rounding()
    for bias in biases_of(layers):
        bias.requires_grad_(False).grad = None


def unit_seed(seed: int, index: int) -> int:
    """The seed of one unit's batches: a resumed run draws the same batches as an uninterrupted run."""
    return seed * 1_000_003 + index
