"""Quantized layers: convolutions and linear maps, and the shortcut split.

A layer quantizes its input and its weight, then computes what it always did. A shortcut layer, which reads
``concat(deep X1, skip X2)``, has several *parts* along its input channels, each with grids of its own
(Q-Diffusion, section 3.3.2, eq. 6-8):

    Q(X) = Q1(X1) (+) Q2(X2),  Q(W) = Q1(W1) (+) Q2(W2),  Q(X) Q(W) = Q1(X1) Q1(W1) + Q2(X2) Q2(W2)

An ordinary layer is the case of one part.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .grid import Grid, PerAxis, ScaleZero, fake_quantize
from .limits import FLOAT_BITS
from .ranges import RANGES, Reservoir, find_activation_range
from .rounding import ROUNDINGS, AdaRound, StraightThrough

QUANTIZABLE = (nn.Conv1d, nn.Conv2d, nn.Linear)


class ActivationQuantizer(nn.Module):
    """Quantizes an activation with one scale for the whole tensor.

    Until a range is set it passes its input through, and while ``reservoir`` is set it also samples it.
    """

    def __init__(self, grid: Grid):
        super().__init__()
        self.grid = grid
        self.reservoir: Reservoir | None = None
        self.log_scale: nn.Parameter | None = None  # set only while the step size is learned
        self.register_buffer("scale", None)
        self.register_buffer("zero_point", None)

    def set_range(self, scale: Tensor, zero_point: Tensor) -> None:
        """Fix the grid: ``scale`` and ``zero_point`` are 0-dimensional."""
        self.scale, self.zero_point = scale, zero_point

    def range_from_reservoir(self, range_name: str) -> None:
        """Set the range from what was sampled, and stop sampling."""
        self.set_range(*find_activation_range(self.reservoir.values(), self.grid, range_name))
        self.reservoir = None

    def start_learning(self) -> nn.Parameter:
        """Make log(scale) a parameter: the step size stays positive whatever the optimizer does."""
        self.log_scale = nn.Parameter(self.scale.log())
        return self.log_scale

    def finish_learning(self) -> None:
        """Keep the learned step size as the scale."""
        self.scale, self.log_scale = self.log_scale.detach().exp(), None

    def forward(self, x: Tensor) -> Tensor:
        if self.reservoir is not None:
            self.reservoir.add(x)
            return x
        if self.scale is None:
            return x
        scale = self.scale if self.log_scale is None else self.log_scale.exp()
        wide = x.to(torch.promote_types(x.dtype, scale.dtype))
        return fake_quantize(wide, scale, self.zero_point, self.grid.bits).to(x.dtype)

    def _apply(self, fn: Callable, recurse: bool = True) -> nn.Module:
        """Go where the network goes, but never to a narrower type: float16 cannot count 2^16 codes."""

        def moved(value: Tensor) -> Tensor:
            changed = fn(value)
            narrower = changed.dtype.itemsize < value.dtype.itemsize
            return value.to(changed.device) if narrower else changed

        return super()._apply(moved, recurse)


class QuantLayer(nn.Module):
    """A convolution or linear layer with a quantized weight and a quantized input.

    layer: the layer to wrap; its weight is (C_out, C_in, ...) and is replaced by its values on the grid.
    weight_bits: 32 keeps the weight in floating point. input_grid: None keeps the input so.
    sizes: input channels of each part; they sum to C_in, and more than one means a shortcut split.
    weight_scale, weight_zero_point: (C_out, parts), None until ``find_weight_range``.
    """

    def __init__(self, layer: nn.Module, weight_bits: int, input_grid: Grid | None, sizes: tuple[int, ...]):
        super().__init__()
        if sum(sizes) != layer.weight.shape[1]:
            raise ValueError(f"sizes={sizes} must sum to the layer's {layer.weight.shape[1]} input channels")
        self.layer = layer.requires_grad_(False)
        self.sizes = tuple(sizes)
        self.channel_axis = -1 if isinstance(layer, nn.Linear) else 1
        self.weight_grid = None if weight_bits == FLOAT_BITS else Grid(weight_bits, granularity=PerAxis(0))
        self.inputs = nn.ModuleList(ActivationQuantizer(input_grid) for _ in sizes if input_grid)
        self.rounding: nn.ModuleList | None = None  # set only while rounding or scales are learned
        self.register_buffer("weight_scale", None)
        self.register_buffer("weight_zero_point", None)

    def weight_parts(self) -> tuple[Tensor, ...]:
        """The weight cut along its input channels, one piece for each part."""
        return self.layer.weight.split(self.sizes, dim=1)

    def part_grid(self, part: int) -> ScaleZero:
        """Scale and zero point of one part, shaped to broadcast against its weight."""
        shape = (-1,) + (1,) * (self.layer.weight.ndim - 1)
        return ScaleZero(self.weight_scale[:, part].view(shape), self.weight_zero_point[:, part].view(shape))

    def column_grids(self) -> ScaleZero:
        """Scales and zero points of all parts, each a list of tensors of the parts' shapes."""
        pairs = [(self.part_grid(i), w) for i, w in enumerate(self.weight_parts())]
        return ScaleZero(*([grid[field].expand_as(w) for grid, w in pairs] for field in (0, 1)))

    def find_weight_range(self, range_name: str) -> None:
        """Choose a scale and zero point for each output channel and part."""
        found = [RANGES[range_name](part, self.weight_grid) for part in self.weight_parts()]
        self.weight_scale = torch.cat([f.scale.flatten(1) for f in found], dim=1)
        self.weight_zero_point = torch.cat([f.zero_point.flatten(1) for f in found], dim=1)

    def round_weight(self, rounding: str = "nearest") -> None:
        """Round without data; ``rounding`` is a key of ``rounding.ROUNDINGS``."""
        parts, rounded = enumerate(self.weight_parts()), ROUNDINGS[rounding]
        self.set_weight([rounded(w, *self.part_grid(i), self.weight_grid.bits) for i, w in parts])

    def start_rounding(self, codes: Tensor | None = None) -> nn.ModuleList:
        """Replace the weight by soft ones whose rounding can be learned: one AdaRound for each part.

        codes: integers to start near, of the weight's shape; None starts at the full-precision weight.
        """
        parts = enumerate(self.weight_parts())
        self.rounding = nn.ModuleList(
            AdaRound(w, *self.part_grid(i), self.weight_grid.bits) for i, w in parts
        )
        if codes is not None:
            for part, near in zip(self.rounding, codes.split(self.sizes, dim=1), strict=True):
                part.start_near(near)
        return self.rounding

    def start_tuning(self, full: Tensor) -> nn.ModuleList:
        """Make codes and scales of a rounded weight parameters: one ``StraightThrough`` for each part.

        full: the full-precision weight, of the weight's shape.
        """
        pairs = enumerate(zip(self.weight_parts(), full.split(self.sizes, dim=1), strict=True))
        bits = self.weight_grid.bits
        self.rounding = nn.ModuleList(StraightThrough(w, f, *self.part_grid(i), bits) for i, (w, f) in pairs)
        return self.rounding

    def finish_rounding(self) -> None:
        """Keep the decided weight, and the scales on which it lies."""
        self.weight_scale = torch.cat([part.step().detach().flatten(1) for part in self.rounding], dim=1)
        self.set_weight([part.decided() for part in self.rounding])
        self.rounding = None

    def set_weight(self, parts: list[Tensor]) -> None:
        """Put the parts together as the layer's weight."""
        self.layer.weight = nn.Parameter(torch.cat(parts, dim=1), requires_grad=False)

    def quantize_input(self, x: Tensor) -> Tensor:
        """Quantize each part of the input with its own grid."""
        if not self.inputs:
            return x
        if len(self.inputs) == 1:
            return self.inputs[0](x)
        pieces = zip(self.inputs, x.split(self.sizes, self.channel_axis), strict=True)
        return torch.cat([quantizer(piece) for quantizer, piece in pieces], self.channel_axis)

    def forward(self, x: Tensor) -> Tensor:
        x = self.quantize_input(x)
        if self.rounding is None:
            return self.layer(x)
        weight = torch.cat([part() for part in self.rounding], dim=1)
        return functional_call(self.layer, {"weight": weight}, (x,))


def activation_quantizers(module: nn.Module) -> list[ActivationQuantizer]:
    """Every activation quantizer below ``module``, in the order of its submodules."""
    return [m for m in module.modules() if isinstance(m, ActivationQuantizer)]


def quant_layers(module: nn.Module) -> list[QuantLayer]:
    """Every quantized layer at or below ``module``."""
    return [m for m in module.modules() if isinstance(m, QuantLayer)]


def quantized_state(module: nn.Module) -> dict[str, Tensor]:
    """The tensors that quantization decided: weights on their grids, biases, scales, zero points, by name."""
    state = {}
    for name, part in module.named_modules():
        prefix = f"{name}." if name else ""
        if isinstance(part, QuantLayer) and part.weight_scale is not None:
            state[f"{prefix}weight"] = part.layer.weight
            if part.layer.bias is not None:  # it may have been learned
                state[f"{prefix}bias"] = part.layer.bias
            state[f"{prefix}weight_scale"] = part.weight_scale
            state[f"{prefix}weight_zero_point"] = part.weight_zero_point
        if isinstance(part, ActivationQuantizer) and part.scale is not None:
            state |= {f"{prefix}scale": part.scale, f"{prefix}zero_point": part.zero_point}
    return {name: value.detach().contiguous() for name, value in state.items()}


def restore_state(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Put back what ``quantized_state`` gave, bit for bit."""
    for name, value in state.items():
        path, _, field = name.rpartition(".")
        part = module.get_submodule(path)
        if field in ("weight", "bias"):
            device = part.layer.weight.device
            setattr(part.layer, field, nn.Parameter(value.to(device), requires_grad=False))
        else:
            setattr(part, field, value.to(next(module.parameters()).device))
