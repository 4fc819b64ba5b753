"""How far quantization moves trajectories and images from those of the full-precision model."""

from torch import Tensor


def trajectory_mse(reference: Tensor, other: Tensor) -> Tensor:
    """Mean squared error of each step of two trajectories (T, N, C, H, W), float64 (T,): the paper's Fig. 3.

    Raises ValueError when the shapes differ or have fewer than 2 dimensions.
    """
    if reference.shape != other.shape or reference.ndim < 2:
        raise ValueError(
            f"reference is {tuple(reference.shape)}, other is {tuple(other.shape)}: give two trajectories "
            "(T, N, C, H, W) of the same steps and samples"
        )
    return (reference.double() - other.double()).square().flatten(1).mean(dim=1)


def trajectory_snr(reference: Tensor, other: Tensor) -> Tensor:
    """``10 log10(mean(reference^2) / MSE)`` of each step in dB, float64 (T,); inf where both are equal.

    Raises as ``trajectory_mse`` does.
    """
    error = trajectory_mse(reference, other)
    return 10 * (reference.double().square().flatten(1).mean(dim=1) / error).log10()


def image_psnr(reference: Tensor, other: Tensor) -> float:
    """``10 log10(255^2 / MSE)`` of uint8 images of one shape, in dB; inf where both are equal.

    Raises ValueError when the shapes differ.
    """
    if reference.shape != other.shape:
        shapes = tuple(reference.shape), tuple(other.shape)
        raise ValueError(f"reference is {shapes[0]}, other is {shapes[1]}: give images of one shape")
    error = (reference.double() - other.double()).square().mean()
    return (10 * (255**2 / error).log10()).item()
