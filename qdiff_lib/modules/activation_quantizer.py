"""Quantization of an activation, with one scale for the whole tensor."""

import torch
from torch import Tensor, nn

from ..quantizers.grid import Grid, code_type, fake_quantize
from ..quantizers.observer import ActivationObserver
from ..quantizers.range_finders import find_activation_range
from .integers import HoldsIntegers


class ActivationQuantizer(HoldsIntegers):
    """Quantizes an activation with one scale for the whole tensor.

    Until the range is set, the input passes through unchanged. While ``observer`` is set, the input passes
    through it too. ``scale`` is float32 and ``zero_point`` an integer. Both are 0-dimensional buffers, and
    None until the range is set.
    """

    def __init__(self, grid: Grid):
        super().__init__()
        self.grid = grid
        self.observer: ActivationObserver | None = None
        self.log_scale: nn.Parameter | None = None  # set only while the step size is learned
        self.fixed_zero: int | None = None  # meanwhile the zero point, as a number: nothing waits to read it
        self.register_buffer("scale", None)
        self.register_buffer("zero_point", None)

    def hold_integers(self, device: torch.device | str = "cpu") -> None:
        """Make room for a scale and zero point that are then loaded."""
        if self.scale is None:
            self.set_range(torch.ones((), device=device), torch.zeros((), device=device))

    def set_range(self, scale: Tensor, zero_point: Tensor) -> None:
        """Set the grid's ``scale`` and ``zero_point``, both 0-dimensional."""
        self.scale, self.zero_point = scale.float(), zero_point.to(code_type(self.grid.bits))

    def set_observed_range(self, range_name: str) -> None:
        """Set the range from the observed values, and stop observing. ``range_name``: a key of ``RANGES``."""
        self.set_range(*find_activation_range(self.observer.values(), self.grid, range_name))
        self.observer = None

    def start_learning(self) -> nn.Parameter:
        """Make log(scale) a parameter and return it. The learned step size is then always positive."""
        self.log_scale = nn.Parameter(self.scale.log())
        self.fixed_zero = 0 if self.zero_point.is_meta else int(self.zero_point)
        return self.log_scale

    def finish_learning(self) -> None:
        """Keep the learned step size as the scale."""
        self.scale = self.log_scale.detach().exp()
        self.log_scale = self.fixed_zero = None

    def forward(self, x: Tensor) -> Tensor:
        """Return the quantized activation, in the shape and type of ``x``."""
        if self.observer is not None:
            self.observer.add(x)
            return x
        if self.scale is None:
            return x
        if self.log_scale is None:
            scale, zero_point = self.scale, self.zero_point
        else:
            scale, zero_point = self.log_scale.exp(), self.fixed_zero
        if x.dtype == scale.dtype:
            return fake_quantize(x, scale, zero_point, self.grid.bits)
        wide = x.to(torch.promote_types(x.dtype, scale.dtype))  # float16 cannot represent 2^16 codes
        return fake_quantize(wide, scale, zero_point, self.grid.bits).to(x.dtype)


def activation_quantizers(module: nn.Module) -> list[ActivationQuantizer]:
    """Return every activation quantizer at or below ``module``, in the order of its submodules."""
    return [m for m in module.modules() if isinstance(m, ActivationQuantizer)]
