"""Figures of lesson 4: the inputs of shortcut layers, and their errors with one grid or two."""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ...quantizers.grid import Grid, quantize
from ...quantizers.range_finders import min_max
from .pictures import image_rows
from .style import styled

DEEP, SKIP, TOGETHER = "#0072B2", "#E69F00", "#000000"  # blue, orange, black
UNUSED = "#BBBBBB"  # light grey
BINS = 60
OUTLINE = {"histtype": "step", "linewidth": 1.5, "zorder": 3}  # on top of the filled half, so both are seen
FILLED = {"histtype": "stepfilled", "alpha": 0.55}


def width(x: Tensor) -> float:
    """The width of the range that a grid for ``x`` covers; the range contains 0."""
    return max(x.max().item(), 0.0) - min(x.min().item(), 0.0)


@styled
def pictures(rows: dict[str, Tensor], steps: int) -> tuple[Figure, str]:
    """Each row: images of one model, uint8 (n, 1, H, W), from the same noise. The first is the reference."""
    reference = next(iter(rows.values()))
    labelled = {label.replace(", ", ",\n"): images for label, images in rows.items()}
    title = f"Each column starts from the same noise; {steps} steps"
    errors = {
        label: ((images.float() - reference.float()) / 255).square().mean().item()
        for label, images in rows.items()
    }
    others = "; ".join(f"{label} {error:.4f}" for label, error in list(errors.items())[1:])
    return image_rows(labelled, title, columns=len(reference)), (
        f"Mean squared pixel error against the first row (black 0, white 1), n = {len(reference)}: {others}."
    )


@styled
def ranges_along_network(widths: Sequence[float], at_concat: Sequence[bool], n: int) -> tuple[Figure, str]:
    """The range of each layer's input, in execution order, with shortcut layers marked (paper, Figure 6)."""
    widths, at_concat = np.asarray(widths), np.asarray(at_concat, dtype=bool)
    place, others = np.arange(len(widths)), np.median(widths[~at_concat])
    figure = Figure(figsize=(7.2, 3.2))
    axis = figure.subplots()
    axis.vlines(place, 0, widths, color=np.where(at_concat, SKIP, "#999999"), linewidth=1.2)
    axis.plot(place[~at_concat], widths[~at_concat], "o", color="#777777", ms=3.5, label="other layers")
    axis.plot(place[at_concat], widths[at_concat], "D", color=SKIP, ms=5.5, label="read a concatenation")
    axis.axhline(others, color=TOGETHER, ls="--", lw=1, label=f"median of the other layers: {others:.1f}")
    axis.set(xlabel="layer, in execution order", ylabel="max - min of its input", ylim=(0, None))
    axis.set_title(f"Input range of all {len(widths)} layers (n = {n} inputs from all time steps)")
    axis.legend()
    largest = widths[at_concat].max()
    return figure, (
        f"The widest concatenation has a range of {largest:.1f}. This is {largest / others:.1f} times the "
        f"median of the {(~at_concat).sum()} other layers ({others:.1f}). "
        f"{np.sum(at_concat[np.argsort(widths)[-10:]])} of the 10 widest inputs are concatenations."
    )


@styled
def halves(cases: dict[str, tuple[Tensor, Tensor]], deep: int) -> tuple[Figure, str]:
    """Histograms of the two halves of a concatenation, one row a case (paper, Figure 7).

    cases: by label, the layer's input (n, C, H, W) and its weight (O, C, 1, 1). deep: channels of X1.
    """
    figure = Figure(figsize=(7.2, 2.3 * len(cases)))
    axes = figure.subplots(len(cases), 2, squeeze=False)
    sentences = []
    for row, (label, (x, weight)) in zip(axes, cases.items(), strict=True):
        ratios = []
        for axis, values, letter in zip(row, (x, weight), "XW", strict=True):
            sides = values[:, :deep], values[:, deep:]
            edges = np.linspace(min(values.min().item(), 0), max(values.max().item(), 0), BINS + 1)
            for side, colour, name in zip(sides, (DEEP, SKIP), ("1, deep", "2, skip"), strict=True):
                flat = side.flatten().numpy()
                share = np.full(flat.size, 100 / flat.size)
                look = OUTLINE if colour == DEEP else FILLED
                axis.hist(flat, edges, weights=share, color=colour, label=f"{letter}{name}", **look)
            axis.set(ylim=(1e-4, 150), yscale="log", ylabel="% of values")
            axis.legend(loc="upper right", fontsize=8, handlelength=1)
            ratios.append(width(sides[0]) / width(sides[1]))
        row[0].set(xlabel="input value")
        row[1].set(xlabel="weight")
        row[0].set_title(f"{label}: inputs (n = {len(x)})")
        row[1].set_title("weights")
        sentences.append(
            f"{label}: the range of X1 is {ratios[0]:.2f} times that of X2, W1's is "
            f"{ratios[1]:.2f} times W2's"
        )
    return figure, "; ".join(sentences) + "."


@styled
def magnifier(deep: Tensor, skip: Tensor, ratio: float, bits: int) -> tuple[Figure, str]:
    """The integer grid under a magnifier: the skip half is scaled so that skip / deep is ``ratio``.

    Left: both halves and the codes of the grid that they share. Right: the deep half alone, enlarged, with
    the codes of the shared grid (those that it uses in black, the others in grey) and those of its own grid.
    """
    skip = skip * (width(deep) / width(skip) * ratio)
    together = torch.cat([deep.flatten(), skip.flatten()])
    shared, own = (min_max(values, Grid(bits)) for values in (together, deep.flatten()))
    used = [_used(side, shared, bits) for side in (deep, skip)]
    figure = Figure(figsize=(7.2, 2.6))
    wide, near = figure.subplots(1, 2)
    ends = [0.0, deep.min().item(), deep.max().item(), used[0].min().item(), used[0].max().item()]
    for axis, sides, reach in (
        (wide, ((skip, SKIP, True), (deep, DEEP, False)), (together.min().item(), together.max().item())),
        (near, ((deep, DEEP, False),), (1.1 * min(ends), 1.1 * max(ends))),
    ):
        edges = np.linspace(*reach, BINS + 1)
        for side, colour, fill in sides:
            counts, _ = np.histogram(side.flatten().numpy(), edges)
            look = {"alpha": 0.5} if fill else {"linewidth": 1.4}
            axis.stairs(counts / counts.max(), edges, fill=fill, color=colour, **look)
        axis.set(ylim=(-0.62, 1.05), yticks=[], xlim=reach, xlabel="input value")
        axis.grid(False)
    _ticks(wide, _codes(shared, bits), 0, TOGETHER)
    _ticks(near, _codes(shared, bits), 0, UNUSED)
    _ticks(near, used[0], 0, TOGETHER)
    _ticks(near, _codes(own, bits), -0.31, DEEP)
    wide.set_title(f"Ratio {ratio:g}: X1 (blue), X2 (orange), one {bits}-bit grid", fontsize=9)
    near.set_title("X1 enlarged: codes it uses (black), own grid (blue)", fontsize=9)
    return (
        figure,
        f"Skip / deep = {ratio:g}, {bits} bits: X2 uses {len(used[1])} codes, X1 uses {len(used[0])}.",
    )


def _codes(found, bits: int) -> Tensor:
    """The values of all codes of a grid."""
    return (torch.arange(2**bits) - found.zero_point.squeeze()) * found.scale.squeeze()


def _used(values: Tensor, found, bits: int) -> Tensor:
    """The values of the codes of a grid that ``values`` use."""
    codes = quantize(values, found.scale.squeeze(), found.zero_point.squeeze(), bits).unique()
    return (codes - found.zero_point.squeeze()) * found.scale.squeeze()


def _ticks(axis, places: Tensor, top: float, colour: str) -> None:
    """One short line below the axis for each of the ``places`` that the axis shows."""
    low, high = axis.get_xlim()
    inside = [place for place in places.tolist() if low <= place <= high]
    axis.vlines(inside, top - 0.27, top - 0.03, color=colour, linewidth=1.2)


@styled
def toy_errors(
    ratios: Sequence[float], small: dict[int, Sequence[float]], layer: dict[str, Sequence[float]], mark: float
) -> tuple[Figure, str]:
    """The toy with a chosen ratio. small: by bits, the relative error of the smaller half on a shared grid.

    layer: by label, the relative error of the layer's output. mark: the shipped model's largest ratio.
    """
    figure = Figure(figsize=(7.2, 3.5))
    left, right = figure.subplots(1, 2)
    for (bits, errors), colour in zip(small.items(), (SKIP, DEEP), strict=False):
        left.plot(ratios, errors, "o", ms=4, color=colour, label=f"{bits} bits")
        predicted = np.minimum(np.asarray(ratios) / (2**bits - 1), 1)
        left.plot(ratios, predicted, color=colour, lw=1, label=f"ratio / {2**bits - 1}, at most 1")
    for (label, errors), style in zip(layer.items(), ("D-", "s--", "o:"), strict=False):
        right.plot(ratios, errors, style, ms=4, label=label)
    for axis in (left, right):
        axis.axvline(mark, color="#777777", lw=1, ls=":", label="largest in this model")
        axis.set(xscale="log", yscale="log", xlabel="ratio of the two ranges")
        axis.legend(fontsize=8, loc="lower right" if axis is left else "upper left")
    right.set_ylim(None, 5)
    left.set(ylabel="error / signal (root mean square)", title="The smaller half alone")
    right.set(title="The layer's output")
    gone = {bits: next((r for r, e in zip(ratios, errors, strict=True) if e > 0.95), None)
            for bits, errors in small.items()}  # fmt: skip
    parts = [
        f"with {bits} bits " + (f"from a ratio of {r:g} on" if r else f"not up to {ratios[-1]:g}")
        for bits, r in gone.items()
    ]
    return figure, f"On a shared grid the smaller half is lost (error above 95 %): {', '.join(parts)}."


@styled
def split_gains(
    layers: Sequence[str], gains: dict[str, Sequence[float]], predicted: Sequence[float], n: int
) -> tuple[Figure, str]:
    """Each shortcut layer's output error with one grid over that with two grids, by setting."""
    figure = Figure(figsize=(7.2, 3.2))
    axis = figure.subplots()
    place = np.arange(len(layers))
    for (label, values), colour, sign in zip(gains.items(), (DEEP, SKIP), "so", strict=False):
        axis.plot(place, values, sign, color=colour, label=label)
    axis.plot(place, predicted, "k_", ms=14, mew=1.5, label="predicted from the input ranges")
    axis.axhline(1, color=TOGETHER, lw=1)
    axis.set_xticks(place, layers, rotation=45, ha="right")
    axis.set(ylabel="error, one grid / two grids")
    axis.set_title(f"Output error of the shortcut layers (above 1: the split helps), n = {n}")
    axis.legend(fontsize=8)
    parts = [f"{label} {min(values):.2f} to {max(values):.2f}" for label, values in gains.items()]
    return (
        figure,
        f"Error with one grid divided by error with two, over {len(layers)} shortcut layers: "
        f"{'; '.join(parts)}.",
    )
