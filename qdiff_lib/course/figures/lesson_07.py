"""Figures of lesson 7: errors of a unit, the penalty at several beta, h before and after the decision."""

from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ...evaluation.figures import OKABE_ITO
from .style import styled

ORANGE, SKY, GREEN, RED, PINK, BLUE = OKABE_ITO[1:]
POINTS = 201


@styled
def unit_errors(errors: Mapping[str, float], weights: int) -> tuple[Figure, str]:
    """The output error of one unit, a bar for each way to round. weights: how many weights the unit has."""
    figure = Figure(figsize=(6.4, 0.9 + 0.55 * len(errors)))
    axis = figure.subplots()
    colours = [ORANGE, BLUE, GREEN, PINK][: len(errors)]
    bars = axis.barh(list(errors), list(errors.values()), height=0.6, color=colours)
    axis.bar_label(bars, fmt="%.3f", padding=3)
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    axis.set(xlabel="output error of the unit", xlim=(0, 1.15 * max(errors.values())))
    axis.set_title(f"{weights:,} weights of 4 bits, all on the same grids")
    listed = ", ".join(f"{name} {error:.3f}" for name, error in errors.items())
    return figure, f"Output error of one unit with {weights:,} weights of 4 bits: {listed}."


def slope(h: Tensor, beta: float) -> Tensor:
    """The size of the slope of 1 - |2 h - 1|^beta with respect to h."""
    return 2 * beta * (2 * h - 1).abs().pow(beta - 1)


@styled
def penalty(beta: float) -> tuple[Figure, str]:
    """The penalty of one weight and the size of its slope, for all h."""
    figure = Figure(figsize=(7.2, 3.0))
    left, right = figure.subplots(1, 2)
    h = torch.linspace(0, 1, POINTS)
    left.plot(h, 1 - (2 * h - 1).abs().pow(beta), color=BLUE)
    left.set(xlabel="h(V): added share of the scale", ylabel="penalty of one weight", ylim=(0, 1.05))
    left.set_title(f"beta = {beta:g}")
    right.plot(h, slope(h, beta), color=ORANGE)
    right.set(xlabel="h(V): added share of the scale", ylabel="size of the slope", ylim=(0, 17))
    right.set_title("How hard it pushes")
    at = [slope(torch.tensor(place), beta).item() for place in (0.5, 0.6, 0.9)]
    return figure, (
        f"The penalty's slope has the size {at[0]:.2g} at h = 0.5, {at[1]:.2g} at h = 0.6 "
        f"and {at[2]:.2g} at h = 0.9."
    )


@styled
def toy_weight(steps: float, v: Sequence[float], h: Sequence[float]) -> tuple[Figure, str]:
    """h of many V, and where one weight starts. steps: w / s of this weight."""
    figure = Figure(figsize=(5.6, 3.0))
    axis = figure.subplots()
    fraction = steps % 1
    near = min(range(len(v)), key=lambda i: abs(h[i] - fraction))
    axis.plot(v, h, color=BLUE, label="h(V)")
    axis.axhline(fraction, color="0.5", linestyle="--", linewidth=1, label="fraction of w / s")
    axis.plot([v[near]], [h[near]], "o", color=ORANGE, label="start")
    axis.set(xlabel="V", ylabel="h(V): added share of the scale")
    axis.set_title(f"A weight with w / s = {steps:g}")
    axis.legend()
    return figure, (
        f"h grows from 0 to 1 with V. For w / s = {steps:g} the fraction is {fraction:.2g}, and V starts "
        f"near {v[near]:.2f}."
    )
