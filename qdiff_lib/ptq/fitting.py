"""Fitting to an output of full precision: the loss, and the optimizer's loop over random batches.

A unit's weights get their rounding (AdaRound, with an annealed regularizer), then its activations their
ranges and their step sizes (LSQ). ``reconstruction`` takes all units in turn, ``network`` all layers at once.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..modules.activation_quantizer import activation_quantizers
from ..modules.quant_layer import QuantLayer, quant_layers
from ..quantizers.observer import ActivationObserver
from ..recipes.parts import Rounding, StepSizes
from .activation_store import Rows
from .gptq import gptq_levels, second_moments
from .replay import UnitInputs


def feature_axis(output: Tensor) -> int:
    """The axis of features: 1 for images (N, C, H, W), the last for tokens (N, T, C) and vectors (N, C)."""
    return 1 if output.ndim == 4 else -1


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """Squared error, summed over features and averaged over the rest, whatever the layout."""
    return (output - target).square().sum(feature_axis(output)).mean()


def annealed_beta(iteration: int, rounding: Rounding) -> float:
    """The regularizer's exponent after the warm-up: falls from ``beta[0]`` to ``beta[1]`` along a line."""
    start = rounding.warmup * rounding.iterations
    share = (iteration - start) / max(1.0, rounding.iterations - start)
    return rounding.beta[0] + (rounding.beta[1] - rounding.beta[0]) * share


class Fitter:
    """Learns parameters of ``unit`` from random batches of its inputs.

    target: the output that it should have, a row for each input. batch_size: rows of a batch. tick: called
    after each iteration.
    """

    def __init__(
        self,
        unit: nn.Module,
        inputs: UnitInputs,
        target: Rows,
        batch_size: int,
        seed: int,
        tick: Callable,
    ):
        self.unit, self.inputs, self.target, self.tick = unit, inputs, target, tick
        self.batch_size = batch_size
        self.generator = torch.Generator().manual_seed(seed)
        self.device = next(unit.parameters()).device

    def loss(self, index: Tensor | slice) -> Tensor:
        """The reconstruction loss on these rows."""
        args, kwargs = self.inputs.batch(index, self.device)
        return reconstruction_loss(self.unit(*args, **kwargs), self.target[index].to(self.device))

    def draw(self) -> Tensor:
        """Row numbers of one batch."""
        return torch.randperm(self.target.shape[0], generator=self.generator)[: self.batch_size]

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


class UnitFitter(Fitter):
    """Fits one unit: weights first, then activation ranges, then their step sizes.

    batches: all rows, in the pieces in which the unit takes them to be looked at.
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
    ):
        super().__init__(unit, inputs, target, rounding.batch_size, seed, tick)
        self.batches, self.rounding, self.step_sizes = batches, rounding, step_sizes

    def find_weight_ranges(self) -> None:
        """Choose the scales and zero points of all weights."""
        for layer in quant_layers(self.unit):
            if layer.weight_grid:
                layer.find_weight_range(self.rounding.weight_range)

    def fit_weights(self) -> None:
        """Learn every rounding variable of the unit (AdaRound), both halves of split layers included.

        With ``learn_affine`` the weights' log(scale) and the biases are learned along with them.
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
            quantizer.observer = ActivationObserver(self.generator)
        self.run()
        for quantizer in quantizers:
            quantizer.set_observed_range(self.step_sizes.activation_range)

    def fit_step_sizes(self) -> None:
        """Learn log(scale) of every activation quantizer of the unit (LSQ, Esser et al., ICLR 2020)."""
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
