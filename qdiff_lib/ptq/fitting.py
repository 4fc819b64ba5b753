"""Fitting to the full-precision output: the loss, and the optimizer's loop over random batches.

For one unit, the rounding of the weights is learned first (AdaRound, with an annealed regularizer). Then the
activations get their ranges, and their step sizes are learned (LSQ). ``ptq.reconstruction`` fits the units
one after the other; ``ptq.whole_network`` fits all layers together.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..modules.activation_quantizer import activation_quantizers
from ..modules.quant_layer import QuantLayer, quant_layers, soft_weights_set
from ..quantizers.observer import ActivationObserver
from ..recipes.parts import Rounding, StepSizes
from .activation_store import Rows
from .adam import Adam, adam_numbers, cosine_rates, on_device
from .feed import Feed
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


def beta_numbers(iteration: int, rounding: Rounding) -> tuple[float, ...]:
    """The regularizer's exponent and the exponent less 1; during the warm-up nothing."""
    if iteration < rounding.warmup * rounding.iterations:
        return ()
    beta = annealed_beta(iteration, rounding)
    return beta, beta - 1


class Batch(NamedTuple):
    """Some rows of what a unit is fitted to, on the device.

    index: their numbers, (B,) or a slice. args, kwargs: the arguments of the unit. target: the full-precision
    output.
    """

    index: Tensor | slice
    args: tuple
    kwargs: dict
    target: Tensor


class Fitter:
    """Learns parameters of ``unit`` from random batches of its inputs.

    inputs: the arguments of the unit for N calibration inputs. target: the full-precision output, N rows.
    batch_size: rows in a batch. seed: of the batches. tick: called after each iteration. power: of the error
    in the loss. share: which rows of all ``inputs`` and ``target`` have; None: all.

    Several processes draw the same batches. Each has its own rows of them, and ``gradients`` is where they
    meet.
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
        self.weight: float | None = None  # of this process's rows in the loss of a batch, if they are not all
        self.unit, self.inputs, self.target, self.tick = unit, inputs, target, tick
        self.batch_size = batch_size
        self.generator = torch.Generator().manual_seed(seed)
        self.device = next(unit.parameters()).device
        self.feed = Feed([*inputs.columns(), target], self.device)

    def rows(self, index: Tensor | slice) -> Batch:
        """The rows that ``index`` selects."""
        return Batch(index, *self.inputs.batch(index, self.device), self.target[index])

    def loss(self, batch: Batch) -> Tensor:
        """The reconstruction loss on these rows."""
        return reconstruction_loss(self.unit(*batch.args, **batch.kwargs), batch.target, self.power)

    def draw(self) -> Tensor:
        """The row numbers of one random batch, (batch_size,)."""
        return torch.randperm(self.share.n, generator=self.generator)[: self.batch_size]

    def minimize(self, groups: list[list[Tensor]], rates: list[list[float]], betas: Sequence = ()) -> None:
        """Minimize the loss by Adam, in one iteration for each learning rate, each on a random batch.

        groups: the learned parameters. rates: of each group, a learning rate for each iteration. betas: for
        each iteration the numbers that ``learning_loss`` takes.
        """
        adam, iterations = Adam(groups), len(rates[0])
        numbers = on_device(adam_numbers(rates), self.device)
        betas = on_device(betas or [()] * iterations, self.device)
        draws, weights = self.share.draws([self.draw() for _ in range(iterations)])
        fed = self.feed.batches(draws)
        for (index, rows), self.weight, now, beta in zip(fed, weights, numbers, betas, strict=True):
            *given, target = rows
            self.iterate(Batch(index, *self.inputs.with_rows(given), target), adam, now, beta)
            self.tick()

    def iterate(self, batch: Batch, adam: Adam, numbers: Sequence, beta: Sequence) -> None:
        """One iteration. All that differs between iterations is in tensors of fixed shapes.

        So nothing here waits for the device, and a graph can record it. (On the CPU ``numbers`` and ``beta``
        are Python's, which costs less.)
        """
        with torch.enable_grad():
            gradients = self.gradients(self.learning_loss(batch, beta), adam.parameters)
        adam.update(gradients, numbers)

    def learning_loss(self, batch: Batch, beta: Sequence) -> Tensor:
        """The loss of an iteration. ``beta``: what differs in it between iterations; here nothing."""
        return self.loss(batch)

    def gradients(self, loss: Tensor, parameters: list[Tensor]) -> Sequence[Tensor]:
        """The gradients of the loss, added up over all processes."""
        loss = loss if self.weight is None else loss * self.weight
        found = torch.autograd.grad(loss, parameters, materialize_grads=True)
        return found if self.weight is None else self.share.processes.added(found)


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
        self.rounded: list[QuantLayer] = []  # the layers whose rounding is being learned

    def find_weight_ranges(self) -> None:
        """Set the scales and zero points of all quantized weights."""
        for layer in quant_layers(self.unit):
            if layer.weight_grid:
                layer.find_weight_range(self.rounding.weight_range)

    def fit_weights(self) -> None:
        """Learn the rounding of all weights of the unit (AdaRound), of both halves of split layers too.

        With ``learn_affine`` the log(scale) of the weights and the biases are learned at the same time.
        """
        self.rounded = [layer for layer in quant_layers(self.unit) if layer.weight_grid]
        if not self.rounded:
            return
        levels = self.compensated_levels(self.rounded) if self.rounding.rounding_start == "gptq" else {}
        parts = [part for layer in self.rounded for part in layer.start_rounding(levels.get(layer))]
        iterations = self.rounding.iterations
        groups, rates = [[part.v for part in parts]], [[self.rounding.lr] * iterations]
        if self.rounding.learn_affine:
            scales = [part.learn_scale() for part in parts]
            groups.append([*scales, *(bias.requires_grad_(True) for bias in biases_of(self.rounded))])
            rates.append([self.step_sizes.lr_step_sizes] * iterations)
        self.minimize(groups, rates, [beta_numbers(i, self.rounding) for i in range(iterations)])
        decide(self.rounded)
        self.rounded = []

    def learning_loss(self, batch: Batch, beta: Sequence) -> Tensor:
        """The loss with the soft weights of all layers whose rounding is learned. beta: ``beta_numbers``."""
        if not self.rounded:
            return self.loss(batch)
        strength = self.rounding.regularization / self.share.processes.count  # each process adds as much
        with soft_weights_set(self.rounded, beta, strength):
            return self.loss(batch)

    def compensated_levels(self, layers: list[QuantLayer]) -> dict[QuantLayer, Tensor]:
        """GPTQ's integers q - z of each layer's weight, computed from the layer's inputs in this unit.

        Layers for which GPTQ is not determined have none, and start at their fractions.
        """
        levels = {}
        for group in in_groups([layer for layer in layers if is_compensable(layer)]):
            calls = len(self.share.parts) if self.share.divided else len(self.batches)
            moments = second_moments(group, self.run, calls, self.generator, self.share.processes)
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
        total = sum(self.loss(self.rows(rows)) * (rows.stop - rows.start) for rows in self.batches)
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
        rates = cosine_rates(self.step_sizes.lr_step_sizes, self.step_sizes.step_size_iterations)
        self.minimize([[quantizer.start_learning() for quantizer in quantizers]], [rates])
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
        bias.requires_grad_(False)


def unit_seed(seed: int, index: int) -> int:
    """The seed of one unit's batches: a resumed run draws the same batches as an uninterrupted run."""
    return seed * 1_000_003 + index
