"""Lesson 7: a unit of a network as a function of its weights, its layers, and what the library learns."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_flatten

from ..modules.quant_layer import QuantLayer, quant_layers
from ..ptq.activation_store import Rows
from ..ptq.fitting import UnitFitter, reconstruction_loss
from ..ptq.replay import UnitInputs
from ..recipes.recipe import Recipe
from .checks import Outcome
from .one_unit import Caught, quantized_unit
from .unit_layers import Layer

BITS = 4


def as_layer(layer: QuantLayer) -> Layer:
    """Weight, scale and zero point of a layer with weight ranges; those of several parts side by side."""
    if len(layer.sizes) == 1:
        return Layer(layer.weight.detach(), *layer.part_grid(0))
    scales, zero_points = layer.column_grids()
    return Layer(layer.weight.detach(), torch.cat(list(scales), dim=1), torch.cat(list(zero_points), dim=1))


@dataclass(frozen=True)
class UnitFunction:
    """A unit of a network as a function of its weights. names: of its layers."""

    block: nn.Module
    names: tuple[str, ...]

    def __call__(self, weights: Sequence[Tensor], *inputs: Tensor) -> Tensor:
        """The unit's output, with these weights in the place of its own."""
        named = {f"{name}.weight": weight for name, weight in zip(self.names, weights, strict=True)}
        return functional_call(self.block, named, inputs)

    @torch.no_grad()
    def error(self, weights: Sequence[Tensor], caught: Caught) -> float:
        """The reconstruction loss over all caught inputs."""
        return reconstruction_loss(self(weights, *caught.args), caught.output).item()


def take_apart(unet: nn.Module, name: str, recipe: Recipe) -> tuple[UnitFunction, list[Layer]]:
    """The unit ``name`` as a function of its weights, and its layers with the recipe's weight ranges."""
    quantized = quantized_unit(unet, name, recipe)
    names = tuple(key for key, part in quantized.named_modules() if isinstance(part, QuantLayer))
    return UnitFunction(unet.get_submodule(name), names), list(map(as_layer, quant_layers(quantized)))


def nearest_weights(layers: Sequence[Layer]) -> list[Tensor]:
    """The weights, rounded to the nearest value of their grids."""
    return [s * ((torch.round(w / s) + z).clamp(0, 2**BITS - 1) - z) for w, s, z in layers]


def random_batches(rows: int, size: int, iterations: int, seed: int) -> Tensor:
    """The row numbers of each iteration's batch, (iterations, size), as the library draws them."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(rows, generator=generator)[:size] for _ in range(iterations)])


def in_rows(values: Tensor) -> Rows:
    """The values as rows in memory, which the library's fitting reads."""
    rows = Rows(values.shape, device=values.device)
    rows[0 : len(values)] = values
    return rows


def library_weights(
    unet: nn.Module, name: str, recipe: Recipe, caught: Caught, seed: int, strength: float | None = None
) -> list[Tensor]:
    """The weights of the unit's layers after the library's own AdaRound.

    seed: of the batches. strength: of the penalty; None: that of the recipe.
    """
    if strength is not None:
        recipe = recipe.replace(regularization=strength)
    unit = quantized_unit(unet, name, recipe)
    every, (leaves, form) = [slice(0, len(caught.output))], tree_flatten((caught.args, {}))
    inputs, target = UnitInputs(list(map(in_rows, leaves)), form), in_rows(caught.output)
    fitter = UnitFitter(unit, inputs, target, every, recipe.rounding, recipe.step_sizes, seed, lambda: None)
    fitter.fit_weights()
    return [layer.weight for layer in quant_layers(unit)]


def attempt(outcome: Outcome, learn: Callable, *arguments: object) -> list[Tensor] | None:
    """The weights that the learner's function returns, once its check is right; else None, and a line."""
    if not outcome.right:
        print("Your loop does not run here yet: first make its check right.")
        return None
    _, weights = learn(*arguments)
    return [torch.as_tensor(weight).detach() for weight in weights]
