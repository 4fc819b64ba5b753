"""What checks share: reading the learner's numbers, comparing them, naming the likely mistake."""

from collections.abc import Iterable

import torch
from torch import Tensor

from ..checks import Wrong

FLOAT32 = 2**-24  # relative error of one rounding in float32


def numbers(answer: object, shape: tuple[int, ...], what: str) -> Tensor:
    """The learner's answer as float64 of that shape. Raises Wrong where it is something else."""
    if answer is None:
        raise Wrong("your function returned None: end it with `return ...`.")
    if isinstance(answer, Iterable) and not isinstance(answer, Tensor) and shape:
        answer = list(answer)
    try:
        found = torch.as_tensor(answer).detach().double()
    except (TypeError, ValueError, RuntimeError):
        raise Wrong(f"return {what}; you returned a {type(answer).__name__}.") from None
    if found.numel() == 1 and not shape:
        return found.reshape(())
    if tuple(found.shape) != shape:
        raise Wrong(f"return {what}, shape {shape}; yours has shape {tuple(found.shape)}.")
    return found


def compare(found: Tensor, right: Tensor, slack: float, why: str, mistakes: dict[str, Tensor]) -> None:
    """Raise Wrong unless ``found`` is within ``slack`` of ``right``; name the mistake that gives it."""
    if ((found - right).abs() <= slack).all():
        return
    for message, value in mistakes.items():
        if value.shape == found.shape and torch.allclose(found, value.double(), rtol=1e-5, atol=1e-12):
            raise Wrong(message)
    worst = (found - right).abs().argmax()
    raise Wrong(
        f"expected {right.flatten()[worst]:.6g} where you have {found.flatten()[worst]:.6g} "
        f"(allowed difference {float(slack):.2g}: {why})."
    )
