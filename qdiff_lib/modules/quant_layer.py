"""Quantized convolutions and linear layers, which hold integers, and the shortcut split.

A layer quantizes its input and its weight, and then computes its usual operation. It *holds* its weight as
packed integer codes, with a scale and a zero point for each output channel. The weight that it computes with
is derived from them: ``w^ = s (q - z)``. The codes stay the same when the layer is moved, cast, copied, saved
or loaded.

A shortcut layer reads ``concat(deep X1, skip X2)``. It has several *parts* along its input channels, and each
part has its own grids (Q-Diffusion, section 3.3.2, eq. 6-8):

    Q(X) = Q1(X1) (+) Q2(X2),  Q(W) = Q1(W1) (+) Q2(W2),  Q(X) Q(W) = Q1(X1) Q1(W1) + Q2(X2) Q2(W2)

Here (+) is the concatenation. An ordinary layer has one part.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..quantizers.adaround import AdaRound
from ..quantizers.grid import Grid, PerAxis, ScaleZero, code_type, dequantize
from ..quantizers.packing import pack, packed_bytes, unpack
from ..quantizers.range_finders import RANGES
from ..quantizers.rounding import ROUNDINGS
from ..quantizers.soft_weights import soft_weights
from ..quantizers.straight_through import StraightThrough
from ..utils.constants import FLOAT_BITS
from .activation_quantizer import ActivationQuantizer
from .integers import HoldsIntegers

QUANTIZABLE = (nn.Conv1d, nn.Conv2d, nn.Linear)


@dataclass(frozen=True)
class Convolution:
    """A convolution without its weight: the settings of an ``nn.Conv1d`` or ``nn.Conv2d``.

    pads: how much is added before and after each axis, the last axis first, as ``F.pad`` takes it. It serves
    every padding of torch: a number, "same" (which may differ before and after), circular, reflect.
    """

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    padding_mode: str
    pads: tuple[int, ...]

    @classmethod
    def of(cls, layer: nn.Module) -> "Convolution":
        """Return the settings of a convolution layer."""
        fixed = (layer.kernel_size, layer.stride, layer.dilation, layer.groups, layer.padding_mode)
        return cls(*fixed, tuple(layer._reversed_padding_repeated_twice))

    def pad(self, x: Tensor) -> Tensor:
        """Return ``x`` (B, C_in, ...) with its padding."""
        return F.pad(x, self.pads, mode="constant" if self.padding_mode == "zeros" else self.padding_mode)

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the convolution of ``x`` (B, C_in, ...) with ``weight`` (C_out, C_in / groups, ...)."""
        function = {3: F.conv1d, 4: F.conv2d}[weight.ndim]
        before, after = self.pads[::2], self.pads[1::2]
        if self.padding_mode == "zeros" and before == after:
            padding = before[::-1]
        else:
            x, padding = self.pad(x), 0
        return function(x, weight, bias, self.stride, padding, self.dilation, self.groups)


class QuantLayer(HoldsIntegers):
    """A convolution or linear layer with a quantized weight and a quantized input.

    Args:
        layer: the layer to replace; its weight is (C_out, C_in, ...).
        weight_bits: bits of the weight; 32 keeps it in floating point.
        input_grid: the grid of the input; None keeps the input in floating point.
        sizes: input channels of each part. More than one part means a shortcut split.

    The buffers ``codes``, ``weight_scale`` and ``weight_zero_point`` are None at first. ``find_weight_range``
    sets the scales (float32) and the zero points (integers), both (C_out, parts). ``set_levels`` sets
    ``codes``: uint8, packed (see ``quantizers.packing``). ``weight`` is a floating-point parameter until
    ``set_levels``. After that it is derived from ``codes`` and is no longer part of the state.

    Raises:
        ValueError: ``sizes`` do not sum to C_in.
    """

    def __init__(self, layer: nn.Module, weight_bits: int, input_grid: Grid | None, sizes: tuple[int, ...]):
        super().__init__()
        if sum(sizes) != layer.weight.shape[1]:
            raise ValueError(f"sizes={sizes} must sum to the layer's {layer.weight.shape[1]} input channels")
        linear = isinstance(layer, nn.Linear)
        self.operation = F.linear if linear else Convolution.of(layer)
        self.channel_axis = -1 if linear else 1
        self.sizes, self.shape = tuple(sizes), tuple(layer.weight.shape)
        self.weight = layer.weight.requires_grad_(False)
        self.bias = None if layer.bias is None else layer.bias.requires_grad_(False)
        self.weight_grid = None if weight_bits == FLOAT_BITS else Grid(weight_bits, granularity=PerAxis(0))
        self.inputs = nn.ModuleList(ActivationQuantizer(input_grid) for _ in sizes if input_grid)
        self.rounding: nn.ModuleList | None = None  # set only while rounding or scales are learned
        self.soft: Tensor | None = None  # set only in ``soft_weights_set``
        for name in ("codes", "weight_scale", "weight_zero_point"):
            self.register_buffer(name, None)

    @property
    def in_features(self) -> int:
        """The input channels, as ``nn.Linear`` names them. The pipeline of SDXL reads them."""
        return self.shape[1]

    def hold_integers(self, device: torch.device | str | None = None) -> None:
        """Make room for codes that are then loaded. They replace the floating-point weight."""
        if self.codes is None and self.weight_grid:
            channels, device = (self.shape[0], len(self.sizes)), device or self.weight.device
            self.weight_scale = torch.ones(channels, device=device)
            self.weight_zero_point = torch.zeros(
                channels, device=device, dtype=code_type(self.weight_grid.bits)
            )
            count = packed_bytes(prod(self.shape), self.weight_grid.bits)
            self._keep(torch.zeros(count, dtype=torch.uint8, device=device), self.weight.dtype)

    def _keep(self, codes: Tensor, dtype: torch.dtype) -> None:
        """Hold packed codes, and the weight derived from them in the type ``dtype``."""
        self.codes = codes
        if "weight" in self._parameters:
            del self.weight
            self.register_buffer("weight", None, persistent=False)
        self.derive_weight(dtype)

    def derive_weight(self, dtype: torch.dtype) -> None:
        """Compute ``w^ = s (q - z)`` from the codes, and round it once to ``dtype``."""
        if self.codes.is_meta:
            self.weight = torch.empty(self.shape, dtype=dtype, device="meta")
            return
        pieces = self.integer_codes().split(self.sizes, dim=1)
        parts = [dequantize(piece, *self.part_grid(i)) for i, piece in enumerate(pieces)]
        self.weight = torch.cat(parts, dim=1).to(dtype)

    def integer_codes(self) -> Tensor:
        """Return the codes q, unpacked, of the weight's shape: uint8 up to 8 bits, else int32."""
        return unpack(self.codes, self.weight_grid.bits, self.shape)

    def _apply(self, fn: Callable, recurse: bool = True) -> nn.Module:
        before = self.weight.dtype
        super()._apply(fn, recurse)
        if self.codes is not None and self.weight.dtype != before:
            self.derive_weight(self.weight.dtype)
        return self

    def _load_from_state_dict(self, *args) -> None:
        super()._load_from_state_dict(*args)
        if self.codes is not None:
            self.derive_weight(self.weight.dtype)

    def weight_parts(self) -> tuple[Tensor, ...]:
        """Return the weight cut along its input channels, one piece for each part."""
        return self.weight.split(self.sizes, dim=1)

    def part_grid(self, part: int) -> ScaleZero:
        """Return the scale and zero point of one part, both float32, which broadcast against its weight."""
        shape = (-1,) + (1,) * (len(self.shape) - 1)
        zero_point = self.weight_zero_point[:, part].to(self.weight_scale.dtype)
        return ScaleZero(self.weight_scale[:, part].view(shape), zero_point.view(shape))

    def column_grids(self) -> ScaleZero:
        """Return the scales and zero points of all parts, as two lists of tensors in the parts' shapes."""
        pairs = [(self.part_grid(i), w) for i, w in enumerate(self.weight_parts())]
        return ScaleZero(*([grid[field].expand_as(w) for grid, w in pairs] for field in (0, 1)))

    def find_weight_range(self, range_name: str) -> None:
        """Choose a scale and zero point per output channel and part. ``range_name``: a key of ``RANGES``."""
        found = [RANGES[range_name](part, self.weight_grid) for part in self.weight_parts()]
        self.weight_scale = torch.cat([f.scale.flatten(1) for f in found], dim=1).float()
        zero_points = torch.cat([f.zero_point.flatten(1) for f in found], dim=1)
        self.weight_zero_point = zero_points.to(code_type(self.weight_grid.bits))

    def round_weight(self, rounding: str = "nearest") -> None:
        """Round the weight without data. ``rounding``: a key of ``ROUNDINGS``."""
        parts, rounded = enumerate(self.weight_parts()), ROUNDINGS[rounding]
        self.set_levels([rounded(w, *self.part_grid(i), self.weight_grid.bits) for i, w in parts])

    def set_levels(self, parts: list[Tensor]) -> None:
        """Hold the weight as codes from now on.

        Args:
            parts: the integers q - z, one tensor for each part.
        """
        codes = torch.cat([part + self.part_grid(i).zero_point for i, part in enumerate(parts)], dim=1)
        bits = self.weight_grid.bits
        self._keep(pack(codes.to(code_type(bits)), bits), self.weight.dtype)

    def start_rounding(self, levels: Tensor | None = None) -> nn.ModuleList:
        """Replace the weight by soft weights, whose rounding can be learned: one ``AdaRound`` for each part.

        Args:
            levels: integers q - z to start near, of the weight's shape; None: start at the full-precision
                weight.
        """
        parts = enumerate(self.weight_parts())
        self.rounding = nn.ModuleList(
            AdaRound(w, *self.part_grid(i), self.weight_grid.bits) for i, w in parts
        )
        if levels is not None:
            for part, near in zip(self.rounding, levels.split(self.sizes, dim=1), strict=True):
                part.start_near(near)
        return self.rounding

    def start_tuning(self, full: Tensor) -> nn.ModuleList:
        """Make the codes and scales of a rounded weight learnable: one ``StraightThrough`` for each part.

        Args:
            full: the full-precision weight, of the weight's shape.
        """
        pairs = enumerate(zip(self.weight_parts(), full.split(self.sizes, dim=1), strict=True))
        bits = self.weight_grid.bits
        self.rounding = nn.ModuleList(StraightThrough(w, f, *self.part_grid(i), bits) for i, (w, f) in pairs)
        return self.rounding

    def finish_rounding(self) -> None:
        """Keep the decided codes and the learned scales."""
        scales = [part.current_scale().detach().flatten(1) for part in self.rounding]
        self.weight_scale = torch.cat(scales, dim=1)
        self.set_levels([part.levels() for part in self.rounding])
        self.rounding = None

    def quantize_input(self, x: Tensor) -> Tensor:
        """Quantize each part of the input with its own grid. The shape does not change."""
        if not self.inputs:
            return x
        if len(self.inputs) == 1:
            return self.inputs[0](x)
        pieces = zip(self.inputs, x.split(self.sizes, self.channel_axis), strict=True)
        return torch.cat([quantizer(piece) for quantizer, piece in pieces], self.channel_axis)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the layer with quantized input and weight: (B, C_in, ...), or (..., C_in) if linear."""
        x, weight = self.quantize_input(x), self.weight
        if self.soft is not None:
            weight = self.soft
        elif self.rounding is not None:
            weight = joined([part() for part in self.rounding])
        return self.operation(x, weight, self.bias)


def joined(parts: list[Tensor]) -> Tensor:
    """Return the weight of which these are the parts, along its input channels; one part is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


@contextmanager
def soft_weights_set(
    layers: list[QuantLayer], beta: Sequence[Tensor | float], strength: float
) -> Iterator[None]:
    """Within the block, the layers use their soft weights, which are computed once and all together.

    Args:
        layers: layers after ``start_rounding``.
        beta, strength: the regularizer, as ``soft_weights`` takes it.
    """
    found = iter(soft_weights([part for layer in layers for part in layer.rounding], beta, strength))
    for layer in layers:
        layer.soft = joined([next(found) for _ in layer.rounding])
    yield
    for layer in layers:
        layer.soft = None


def quant_layers(module: nn.Module) -> list[QuantLayer]:
    """Return every quantized layer at or below ``module``."""
    return [m for m in module.modules() if isinstance(m, QuantLayer)]
