"""What an answer returns, as plain data: only this reaches a check, whatever class the answer used."""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from numbers import Rational

import numpy as np
import torch
from torch import Tensor

MOST = 2**21  # items of one iterable: memory
EXACT = (bool, int, float, str, bytes)


@dataclass(frozen=True)
class Other:
    """A value that is no data. kind: the name of its class."""

    kind: str


def plain(value: object) -> object:
    """Copy ``value`` as plain data.

    None, bool, int, float, str, bytes, lists, tuples, dicts and tensors remain what they are, without
    subclasses. Numbers and arrays of numpy become numbers and tensors of the same type, fractions and
    decimals become numbers, other iterables become lists. Everything else becomes ``Other``. Raises what the
    value's own methods raise.
    """
    if value is None or type(value) in EXACT or isinstance(value, Other):
        return value
    if isinstance(value, Tensor):
        return plain_tensor(value)
    if isinstance(value, np.generic | np.ndarray):
        return plain_array(value)
    for kind in EXACT[1:]:
        if isinstance(value, kind):
            return base_value(kind, value)
    if isinstance(value, Rational) or hasattr(value, "as_integer_ratio"):
        ratio = Fraction(*value.as_integer_ratio())
        return int(ratio) if ratio.denominator == 1 else float(ratio)
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(plain(item) for item in value)
    return plain_list(value) if isinstance(value, Iterable) else Other(type(value).__name__)


def base_value(kind: type, value: object) -> object:
    """The number or text of a subclass of ``kind``, without the subclass and its methods."""
    if kind in (str, bytes):
        return kind.__getitem__(value, slice(None)) if kind is bytes else str.__str__(value)[:]
    return kind.__pos__(value)


def plain_tensor(value: Tensor) -> object:
    """A tensor's values: dense, on the CPU, without gradient, sharing no memory with ``value``."""
    value = value.detach()
    if value.device.type == "meta":
        return Other("tensor without values")
    dense = value if value.layout == torch.strided else value.to_dense()
    return torch.Tensor.clone(dense.cpu()).as_subclass(Tensor)


def plain_array(value: np.generic | np.ndarray) -> object:
    """An array of numpy as a tensor of the same type, a single number as a number of Python."""
    if isinstance(value, np.ndarray) and value.ndim:
        if value.dtype.kind not in "biufc":
            return plain(value.tolist()) if value.dtype.kind == "O" else Other(f"array of {value.dtype}")
        return torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("="), order="C"))
    item = value.item()
    return (
        float(item)
        if isinstance(item, np.floating)
        else plain(item)
        if type(item) in EXACT
        else Other(f"number of type {value.dtype}")
    )


def plain_list(value: Iterable) -> object:
    """The items of an iterable."""
    items = [plain(item) for item in islice(value, MOST + 1)]
    return items if len(items) <= MOST else Other(f"{type(value).__name__} of more than {MOST:,} items")
