"""Shortcut layers, which read concat(deep, skip): lesson 4 watches, stretches and quantizes them.

A concat split gives the number of channels of both halves.
"""

import copy
from collections.abc import Iterable

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from ..calibration.calibration_set import CalibrationSet
from ..diffusion.pipelines import with_components
from ..graph.hooks import hooked, watched_inputs
from ..graph.tracing import Trace
from ..modules.quant_layer import QuantLayer
from ..ptq.quantize import quantize
from ..quantizers.grid import Grid
from ..quantizers.range_finders import find_activation_range
from ..recipes.recipe import Recipe
from .exercises.lesson_04 import halves_of, shortcut_product, to_real

WATCHED_ROWS = 8  # inputs of one pass: memory
Range = tuple[float, float]


@torch.no_grad()
def watch(unet: nn.Module, names: Iterable[str], inputs: dict) -> dict[str, tuple[Tensor, Tensor]]:
    """One pass of ``unet(**inputs)``: the input and the output of each named layer."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(name: str):
        return lambda layer, args, kwargs, output: seen.update({name: (args[0], output)})

    with hooked(after=[(unet.get_submodule(name), keep(name)) for name in names]):
        unet(**inputs)
    return seen


@torch.no_grad()
def input_ranges(unet: nn.Module, trace: Trace, inputs: CalibrationSet) -> dict[str, list[Range]]:
    """(min, max) of every layer's input in execution order; one pair for each half of a concatenation.

    Hooks keep the extremes alone, so memory does not grow with the number of layers or inputs.
    """
    ranges: dict[str, list[Range]] = {name: [] for unit in trace.units for name in unit.layers}

    def widen(name: str, x: Tensor) -> None:
        parts = x.split(trace.concat_splits[name], 1) if name in trace.concat_splits else [x]
        before = ranges[name] or [(0.0, 0.0)] * len(parts)  # a grid always contains 0
        ranges[name] = [
            (min(low, part.min().item()), max(high, part.max().item()))
            for (low, high), part in zip(before, parts, strict=True)
        ]

    with watched_inputs(unet, ranges, widen):
        for start in range(0, len(inputs), WATCHED_ROWS):
            unet(**inputs.rows(slice(start, start + WATCHED_ROWS), unet.device))
    return ranges


def groups_straddle(unet: nn.Module, layer: str, sizes: tuple[int, ...]) -> bool:
    """Whether a group of the block's first norm has channels of both halves."""
    norm = unet.get_submodule(layer.rpartition(".")[0]).norm1
    return sizes[0] % (sum(sizes) // norm.num_groups) != 0


def stretch_skips(
    pipe: DiffusionPipeline, splits: dict[str, tuple[int, ...]], factors: dict[str, float]
) -> DiffusionPipeline:
    """The same function with wider skip halves: skip channels times a factor, their weights divided by it.

    A residual block reads concat(X1, X2) twice. The shortcut convolution gets ``W2 / factor``, which removes
    the factor. The group norm divides each group by its own size, which also removes the factor. This needs
    groups that have channels of one half only.

    factors: by the shortcut layer's name; 1 or more, so that the norm's epsilon weighs less, not more. Raises
    ValueError for a smaller factor and for a layer whose halves share a group.
    """
    unet = copy.deepcopy(pipe.unet)
    for layer, factor in factors.items():
        deep = splits[layer][0]
        if factor < 1 or groups_straddle(unet, layer, splits[layer]):
            raise ValueError(
                f"{layer!r} cannot be stretched by {factor!r}: choose a factor of at least 1, and a layer "
                "with whole groups of the norm in each half"
            )
        block = unet.get_submodule(layer.rpartition(".")[0])
        block.register_forward_pre_hook(_Stretch(deep, factor))
        with torch.no_grad():
            block.conv_shortcut.weight[:, deep:] /= factor
    return with_components(pipe, unet=unet)


class _Stretch:
    """A forward pre-hook of a residual block: multiplies the channels from ``deep`` on by ``factor``."""

    def __init__(self, deep: int, factor: float):
        self.deep, self.factor = deep, factor

    def __call__(self, block: nn.Module, args: tuple) -> tuple:
        x1, x2 = args[0][:, : self.deep], args[0][:, self.deep :]
        return (torch.cat([x1, self.factor * x2], 1), *args[1:])


def quantize_shortcuts(
    pipe: DiffusionPipeline,
    splits: Iterable[str],
    calibration: CalibrationSet,
    weights: int,
    activations: int,
    split: bool,
) -> DiffusionPipeline:
    """The pipeline with these layers alone quantized by the linear recipe, with two grids or one."""
    recipe = Recipe.linear(weights, activations, split=split, include=tuple(splits))
    return quantize(pipe, recipe, calibration, progress=False)


@torch.no_grad()
def both_sides_of_equation_8(layer: QuantLayer, x: Tensor) -> tuple[Tensor, Tensor]:
    """Q(X) Q(W), and the sum of the halves' integer products in their own scales, in double precision.

    layer: a split 1x1 convolution. x: its input (N, C, H, W). Both results have a row for each pixel.
    """
    halves = halves_of(layer, x)
    joined_x, joined_w = (torch.cat(pair, 1) for pair in zip(*map(to_real, halves), strict=True))
    return joined_x @ joined_w.T, shortcut_product(*halves)


@torch.no_grad()
def layer_error(x: Tensor, weight: Tensor, sizes: tuple[int, ...]) -> float:
    """Relative output error of a linear layer with 4-bit weights (O, C) and 8-bit inputs (N, C).

    sizes: channels of each part; every part has grids of its own.
    """
    layer, expected = nn.Linear(weight.shape[1], len(weight), bias=False), x @ weight.T
    layer.weight.copy_(weight)
    quantized = QuantLayer(layer, 4, Grid(8), sizes)
    for quantizer, part in zip(quantized.inputs, x.split(sizes, 1), strict=True):
        quantizer.set_range(*find_activation_range(part, quantizer.grid, "min_max"))
    quantized.find_weight_range("min_max")
    quantized.round_weight()
    return relative_error(quantized(x), expected)


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Root mean square of the error, over that of the expected values."""
    return ((found - expected).square().mean() / expected.square().mean()).sqrt().item()
