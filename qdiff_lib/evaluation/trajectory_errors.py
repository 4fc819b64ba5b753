"""The errors of trajectories and images against those of the full-precision model."""

from collections.abc import Iterable

import torch
from torch import Tensor

from ..utils.typed import check_type


def trajectory_mse(reference: Tensor, other: Tensor) -> Tensor:
    """Mean squared error of each denoising step of two trajectories, float64 (T,), as in the paper's Fig. 3.

    reference, other: x_t of all steps, (T, N, C, H, W). Raises ValueError if the shapes differ or have fewer
    than 2 dimensions, and TypeError for what is no tensor.
    """
    for name, given in (("reference", reference), ("other", other)):
        check_type(name, given, Tensor, "the trajectory of sample(..., record=True)")
    if reference.shape != other.shape or reference.ndim < 2:
        raise ValueError(
            f"reference is {tuple(reference.shape)}, other is {tuple(other.shape)}: give two trajectories "
            "(T, N, C, H, W) of the same steps and samples"
        )
    return mean_squares(a.to(torch.float64, copy=True).sub_(b) for a, b in zip(reference, other, strict=True))


def mean_squares(steps: Iterable[Tensor]) -> Tensor:
    """The mean square of each tensor, which may be changed, float64 (T,): one is held at a time."""
    return torch.tensor([step.square_().mean().item() for step in steps], dtype=torch.float64)


def trajectory_snr(reference: Tensor, other: Tensor) -> Tensor:
    """Signal-to-noise ratio of each denoising step in dB, float64 (T,); inf where both are equal.

    ``10 log10(mean(reference^2) / MSE)``. Arguments and errors are those of ``trajectory_mse``.
    """
    error = trajectory_mse(reference, other)
    return 10 * (mean_squares(step.to(torch.float64, copy=True) for step in reference) / error).log10()


def image_psnr(reference: Tensor, other: Tensor) -> float:
    """Peak signal-to-noise ratio of uint8 images of one shape, in dB; inf if they are equal.

    ``10 log10(255^2 / MSE)``. Raises ValueError if the shapes differ.
    """
    if reference.shape != other.shape:
        shapes = tuple(reference.shape), tuple(other.shape)
        raise ValueError(f"reference is {shapes[0]}, other is {shapes[1]}: give images of one shape")
    error = (reference.double() - other.double()).square().mean()
    return (10 * (255**2 / error).log10()).item()
