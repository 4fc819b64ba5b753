"""Range finders: each chooses the scale and zero point of a tensor's grid.

A range finder is a function ``(x, grid) -> ScaleZero``. A recipe names it by its key in ``RANGES``. The scale
and zero point broadcast against ``x``: they keep all axes, and an axis whose elements share a scale has size
1.
"""

import torch
from torch import Tensor

from .grid import Grid, PerTensor, ScaleZero, fake_quantize, scale_for_range, shared_axes

MSE_POWER = 2.4  # the exponent in the paper's code
MSE_CANDIDATES = 80  # candidate ranges: 100 %, 99 %, ..., 21 % of the min-max range
PERCENTILE = 99.9  # clips 0.1 % of the elements at each end


def min_max(x: Tensor, grid: Grid) -> ScaleZero:
    """Cover every element: the range is [min(x, 0), max(x, 0)]."""
    axes = shared_axes(x, grid.granularity)
    return scale_for_range(x.amin(axes, keepdim=True), x.amax(axes, keepdim=True), grid)


def mse_search(x: Tensor, grid: Grid) -> ScaleZero:
    """Choose, for each scale, the share of the min-max range with the least mean |x - x^|^2.4.

    The candidates are 100 %, 99 %, ..., 21 % of the range. A smaller range clips some outliers, but gives all
    other elements a smaller scale. The search is the one in the paper's code, and treats all channels at
    once.
    """
    axes = shared_axes(x, grid.granularity)
    low, high = x.amin(axes, keepdim=True), x.amax(axes, keepdim=True)
    best = scale_for_range(low, high, grid)
    least = _grid_error(x, best, grid, axes)
    for percent in range(1, MSE_CANDIDATES):
        shrink = 1 - 0.01 * percent
        candidate = scale_for_range(shrink * low, shrink * high, grid)
        error = _grid_error(x, candidate, grid, axes)
        better = error < least
        least = torch.where(better, error, least)
        best = ScaleZero(*(torch.where(better, new, old) for new, old in zip(candidate, best, strict=True)))
    return best


def percentile(x: Tensor, grid: Grid, percent: float = PERCENTILE) -> ScaleZero:
    """Clip ``100 - percent`` % of the elements at each end, and cover the rest.

    Raises:
        ValueError: ``percent`` is not in (50, 100].
    """
    if not 50 < percent <= 100:
        raise ValueError(f"percent={percent!r} must be above 50 and at most 100")
    axes = shared_axes(x, grid.granularity)
    kept = [i for i in range(x.ndim) if i not in axes]
    rows = x.permute(*kept, *axes).reshape(*(x.shape[i] for i in kept), -1).sort(-1).values
    last = rows.shape[-1] - 1
    tail = round((1 - percent / 100) * last)
    shape = [1 if i in axes else x.shape[i] for i in range(x.ndim)]
    return scale_for_range(rows[..., tail].reshape(shape), rows[..., last - tail].reshape(shape), grid)


def _grid_error(x: Tensor, candidate: ScaleZero, grid: Grid, axes: tuple[int, ...]) -> Tensor:
    error = (fake_quantize(x, *candidate, grid.bits) - x).abs_()
    return error.log2_().mul_(MSE_POWER).exp2_().mean(axes, keepdim=True)  # pow takes twice as long


RANGES = {"min_max": min_max, "mse_search": mse_search, "percentile": percentile}


def find_activation_range(sample: Tensor, grid: Grid, range_name: str) -> ScaleZero:
    """Return the scale and zero point of one activation, both 0-dimensional.

    Args:
        sample: values of the activation, of any shape.
        grid: a per-tensor grid.
        range_name: a key of ``RANGES``.

    Raises:
        ValueError: ``grid`` is not per-tensor.
    """
    if grid.granularity != PerTensor():
        raise ValueError(f"granularity={grid.granularity} is not for activations, which share one scale")
    found = RANGES[range_name](sample, grid)
    return ScaleZero(found.scale.reshape(()), found.zero_point.reshape(()))
