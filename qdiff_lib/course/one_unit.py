"""One unit of a network for a short demonstration: its inputs, its error, its roundings."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..calibration.calibration_set import CalibrationSet
from ..graph.hooks import hooked
from ..graph.model_inputs import example_inputs
from ..graph.tracing import trace
from ..modules.activation_quantizer import activation_quantizers
from ..modules.quant_layer import quant_layers
from ..ptq.fitting import reconstruction_loss
from ..ptq.insertion import insert_quantizers
from ..quantizers.adaround import AdaRound
from ..quantizers.grid import Grid
from ..quantizers.observer import ActivationObserver
from ..recipes.recipe import Recipe


@dataclass(frozen=True)
class Caught:
    """args: the unit's arguments, each with N rows. output: its output for them, N rows."""

    args: tuple[Tensor, ...]
    output: Tensor

    def draw(self, n: int, generator: torch.Generator) -> tuple[tuple[Tensor, ...], Tensor]:
        """Arguments and output of ``n`` rows, drawn at random without replacement."""
        index = torch.randperm(len(self.output), generator=generator)[:n].to(self.output.device)
        return tuple(values[index] for values in self.args), self.output[index]


@torch.no_grad()
def catch(unet: nn.Module, name: str, inputs: CalibrationSet, batch_size: int = 64) -> Caught:
    """Run ``unet`` on all inputs, and keep the arguments and the output of the unit ``name``."""
    seen: list[tuple[tuple[Tensor, ...], Tensor]] = []
    unit, device = unet.get_submodule(name), next(unet.parameters()).device
    with hooked(after=[(unit, lambda module, args, kwargs, out: seen.append((args, out)))]):
        for start in range(0, len(inputs), batch_size):
            unet(**inputs.rows(slice(start, start + batch_size), device))
    args = tuple(torch.cat(values) for values in zip(*(args for args, _ in seen), strict=True))
    return Caught(args, torch.cat([out for _, out in seen]))


def quantized_unit(unet: nn.Module, name: str, recipe: Recipe) -> nn.Module:
    """A copy of the unit ``name`` with quantizers. Its weights have ranges and are not rounded yet."""
    found = trace(unet, example_inputs(unet, device=next(unet.parameters()).device))
    unit = insert_quantizers(unet, recipe.grids, found).get_submodule(name)
    for layer in quant_layers(unit):
        layer.find_weight_range(recipe.rounding.weight_range)
    return unit


@torch.no_grad()
def unit_error(unit: nn.Module, caught: Caught) -> float:
    """The reconstruction loss of the unit over all caught inputs."""
    return reconstruction_loss(unit(*caught.args), caught.output).item()


@torch.no_grad()
def observe(unit: nn.Module, caught: Caught, bits: int, generator: torch.Generator) -> None:
    """Give the unit's activations grids of ``bits`` bits that cover all values of the caught inputs."""
    quantizers = activation_quantizers(unit)
    for quantizer in quantizers:
        quantizer.grid, quantizer.observer = Grid(bits), ActivationObserver(generator)
    unit(*caught.args)
    for quantizer in quantizers:
        quantizer.set_observed_range("min_max")


@dataclass(frozen=True)
class Moment:
    """AdaRound at one iteration. h: of all weights, (n,). nearest: whether nearest rounds up, (n,)."""

    iteration: int
    h: Tensor
    nearest: Tensor

    @property
    def flipped(self) -> float:
        """The share of the weights that do not go to their nearest value at this iteration."""
        return ((self.h >= 0.5) != self.nearest).float().mean().item()

    @property
    def undecided(self) -> float:
        """The share of the weights between the two values, more than 5 % of the scale from each."""
        return ((self.h > 0.05) & (self.h < 0.95)).float().mean().item()


def moment(iteration: int, rounds: Sequence[AdaRound], start: "Moment | None" = None) -> Moment:
    """The state of all roundings. ``start``: the state before the first iteration, where h is a fraction."""
    h = torch.cat([part.h().detach().flatten() for part in rounds]).cpu()
    return Moment(iteration, h, h >= 0.5 if start is None else start.nearest)
