"""Values of tensors from a file, checked before a network computes with them.

A right SHA-256 says that a file is the one that was written. It does not say that its numbers make sense.
"""

import torch
from torch import Tensor, nn

from ..modules.activation_quantizer import ActivationQuantizer
from ..modules.integers import SCALES
from ..modules.quant_layer import QuantLayer
from ..quantizers.packing import packed_bytes

LARGEST = 1e6
"""The largest magnitude of a weight, a bias, or an end of a grid.

A product of two such numbers, summed over 10^5 channels and squared by a normalization, is 10^34: a number of
32 bits. Trained networks stay far below.
"""

AGAIN = "copy the files again, or quantize again"
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def check_forms(where: str, model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Check shapes and types of tensors against those of the network that is to hold them.

    Args:
        where: the file, for messages.
        model: the network, with room for its integers; its own values do not matter.
        tensors: all its tensors, or some of them, by name.

    Raises:
        ValueError: a shape or a type differs, or the network has no such tensor.
    """
    state = model.state_dict()
    for name, value in tensors.items():
        if name not in state:
            raise ValueError(f"{where} has no place for {name!r:.80} of this network; quantize again")
        expected = state[name]
        if value.shape != expected.shape:
            raise ValueError(
                f"{where} has {name!r} of shape {tuple(value.shape)}, not {tuple(expected.shape)}: {AGAIN}"
            )
        fixed = not expected.is_floating_point() or name.rpartition(".")[2] in SCALES
        if value.dtype not in ((expected.dtype,) if fixed else FLOATS):
            raise ValueError(f"{where} has {name!r} in {value.dtype}, not {expected.dtype}: {AGAIN}")


def check_values(where: str, model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Check that the tensors of a quantized network are numbers that it can compute with.

    Args: as for ``check_forms``, which comes first.

    Raises:
        ValueError: a number is not finite or larger than ``LARGEST``; a scale is not above 0; a zero point
            needs more bits than its grid has; the unused bits after the last code are not 0.
    """
    for name, value in tensors.items():
        check_numbers(where, name, value)
    for name, module in model.named_modules():
        if isinstance(module, QuantLayer) and module.weight_grid:
            check_grid(where, f"{name}.weight_", tensors, module.weight_grid.top)
            check_padding(where, f"{name}.codes", tensors, module)
        elif isinstance(module, ActivationQuantizer):
            check_grid(where, f"{name}.", tensors, module.grid.top)


def check_numbers(where: str, name: str, value: Tensor) -> None:
    """Raise ValueError if a tensor of floating-point numbers has one that is not finite, or too large."""
    if not value.is_floating_point() or not value.numel() or value.is_meta:
        return
    low, high = (float(end) for end in value.detach().aminmax())
    if not -LARGEST <= low <= high <= LARGEST:  # also for NaN
        worst = high if low >= -LARGEST else low
        raise ValueError(
            f"{where} has {worst:g} in {name!r}, which must be finite and at most {LARGEST:g}: {AGAIN}"
        )


def check_grid(where: str, prefix: str, tensors: dict[str, Tensor], top: int) -> None:
    """Raise ValueError unless scales are above 0, ranges at most ``LARGEST``, zero points 0 to ``top``."""
    scale, zero_point = tensors.get(f"{prefix}scale"), tensors.get(f"{prefix}zero_point")
    if scale is not None and not ((scale > 0) & (scale * top <= LARGEST)).all():
        worst = float(scale.max() if (scale > 0).all() else scale.min())
        raise ValueError(
            f"{where} has a scale of {worst:g} in '{prefix}scale', which must be above 0 and at most "
            f"{LARGEST / top:g} with codes up to {top}: {AGAIN}"
        )
    if zero_point is not None and not ((zero_point >= 0) & (zero_point <= top)).all():
        worst = int(zero_point.max() if (zero_point >= 0).all() else zero_point.min())
        raise ValueError(
            f"{where} has a zero point of {worst} in '{prefix}zero_point', which must be a code from 0 to "
            f"{top}: {AGAIN}"
        )


def check_padding(where: str, name: str, tensors: dict[str, Tensor], layer: QuantLayer) -> None:
    """Raise ValueError if bits after the last code are set. ``tensors[name]``: packed codes, uint8."""
    count, bits = layer.weight.numel(), layer.weight_grid.bits
    unused = 8 * packed_bytes(count, bits) - count * bits
    if name in tensors and unused and int(tensors[name][-1]) >> (8 - unused):
        raise ValueError(
            f"{where} has {int(tensors[name][-1])} as the last byte of {name!r}, of which the upper {unused} "
            f"bits must be 0, as its {count} codes of {bits} bits do not need them: {AGAIN}"
        )
