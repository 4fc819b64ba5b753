"""What checks share: drawing inputs, reading the learner's numbers, comparing them, naming the mistake."""

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ..checks import Curve, Wrong
from ..plain import Other, plain

FLOAT32 = 2**-24  # relative error of one rounding in float32


def sources(exercise: str, seed: int) -> tuple[random.Random, torch.Generator]:
    """Where an exercise's inputs come from: the same for the same exercise and seed."""
    dice = random.Random(f"{exercise} {seed}")
    return dice, torch.Generator().manual_seed(dice.getrandbits(32))


def describe(value: object) -> str:
    """What the learner returned, in a few words."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, str):
        return f"the text {value[:30]!r}"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {value.kind if isinstance(value, Other) else type(value).__name__}"


def numbers(answer: object, shape: tuple[int, ...], what: str) -> Tensor:
    """The learner's answer as float64 of that shape; any single number fits the shape (). Raises Wrong."""
    value = plain(answer)
    if value is None:
        raise Wrong("your function returned None: end it with `return ...`.")
    try:
        found = as_float64(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise Wrong(f"return {what}; you returned {describe(value)}.") from None
    if found.numel() == 1 and not shape:
        return found.reshape(())
    if tuple(found.shape) != shape:
        raise Wrong(f"return {what}, shape {shape}; yours has shape {tuple(found.shape)}.")
    return found


def as_float64(value: object) -> Tensor:
    """Plain data as float64. Raises TypeError, ValueError, OverflowError or RuntimeError where it is none."""
    if isinstance(value, Tensor):
        if value.is_complex():
            raise TypeError("complex numbers")
        return value.double()
    if isinstance(value, bool | int | float):
        return torch.tensor(value, dtype=torch.float64)
    if not isinstance(value, list | tuple):
        raise TypeError(f"no number: {value!r}")
    parts = [as_float64(item) for item in value]
    if all(part.numel() == 1 for part in parts):
        return torch.tensor([part.item() for part in parts], dtype=torch.float64)
    return torch.stack(parts)


def compare(
    found: Tensor, right: Tensor, slack: float, why: str, mistakes: dict[str, Tensor], case: str = ""
) -> None:
    """Raise Wrong unless ``found`` is within ``slack`` of ``right``; name the mistake that gives it.

    mistakes: what likely mistakes give, by the message for each. case: the inputs, or what a vector's entries
    are, as in "step": the message names the first entry that is wrong.
    """
    off = ~((found - right).abs() <= slack)  # NaN is off, too
    if off.any():
        with shown(found, right, case.rpartition(" ")[2] or "entry"):
            explain(found, right, off, slack, why, mistakes, case)


@contextmanager
def shown(found: Tensor, right: Tensor, axis: str) -> Iterator[None]:
    """Give a ``Wrong`` that the body raises the curve of both rows of numbers, (n,), for a figure."""
    try:
        yield
    except Wrong as mistake:
        if found.dim() == 1 and found.shape == right.shape and len(found) > 1 and right.isfinite().all():
            finite = tuple(value if math.isfinite(value) else None for value in found.tolist())
            mistake.curve = Curve(axis, finite, tuple(right.tolist()))
        raise


def explain(
    found: Tensor, right: Tensor, off: Tensor, slack: float, why: str, mistakes: dict, case: str
) -> None:
    """Raise Wrong with the message of the mistake, or with the first of the entries ``off``."""
    for message, value in mistakes.items():
        if value.shape == found.shape and torch.allclose(
            found, value.double(), rtol=1e-5, atol=1e-12, equal_nan=True
        ):
            raise Wrong(message)
    place = ""
    if found.dim():
        first = int(off.flatten().nonzero()[0])
        place = f"{case or 'entry'} {first}, the first of {int(off.sum())} that are wrong: "
        found, right = found.flatten()[first], right.flatten()[first]
    elif case:
        place = f"{case}: "
    allowed = f"allowed difference {float(slack):.2g}: {why}"
    hint = " NaN is what a root, power or logarithm of a negative number gives." if found.isnan() else ""
    raise Wrong(f"{place}expected {right:.6g} where you have {found:.6g} ({allowed}).{hint}")


def whole(value: Tensor) -> str:
    """A number for a message: a whole one with all of its digits."""
    number = value.item()
    return f"{int(number):,}" if number.is_integer() else f"{number:.6g}"
