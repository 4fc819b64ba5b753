"""Half of a shortcut layer, as integers: what the exercise of equation 8 works on."""

from typing import NamedTuple

from torch import Tensor


class Half(NamedTuple):
    """One half of a shortcut layer, in codes.

    x_codes: (N, C). x_scale, x_zero: 0-dimensional. w_codes: (O, C). w_scale, w_zero: (O,). Scales are
    float32, codes and zero points uint8.
    """

    x_codes: Tensor
    x_scale: Tensor
    x_zero: Tensor
    w_codes: Tensor
    w_scale: Tensor
    w_zero: Tensor


def integer_product(half: Half) -> Tensor:
    """``(qx - zx) (qw - zw)^T`` (N, O) in int32: exact."""
    x = half.x_codes.int() - half.x_zero.int()
    return x @ (half.w_codes.int() - half.w_zero.int()[:, None]).T
