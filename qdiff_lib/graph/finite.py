"""Values that are not finite (nan, inf) are errors that name where they are."""

import torch
from torch import Tensor, nn


def is_finite(x: Tensor) -> bool:
    """Whether every value of a tensor is finite; True for a tensor without data, on the meta device."""
    return x.is_meta or not x.is_floating_point() or bool(torch.isfinite(x).all())


def check_weights(network: nn.Module, what: str = "the network") -> None:
    """Check every parameter and buffer.

    Raises:
        ValueError: one holds nan or inf; the message names it.
    """
    for name, value in network.state_dict().items():
        if not is_finite(value):
            raise ValueError(
                f"{what} has values that are not finite in {name!r}: load other weights (a training that "
                "diverged, or an overflow in half precision, leaves such values)"
            )
