"""Figures of lesson 0: numbers on grids, the cost of a bit, and how the shipped model draws."""

from collections.abc import Mapping, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ...evaluation.figures import OKABE_ITO, image_grid
from ...quantizers.grid import Grid, dequantize, quantize
from ...quantizers.range_finders import min_max
from .pictures import draw_images, grey_distance, image_rows
from .style import styled

NUMBER, VALUE = OKABE_ITO[6], OKABE_ITO[4]


@styled
def number_line(numbers: Tensor, bits: int) -> tuple[Figure, str]:
    """``numbers`` (n,) above, the values of their ``bits``-bit grid below, and where each number goes."""
    figure = Figure(figsize=(7.2, 2.4))
    sentence = draw_grid(figure.subplots(), numbers, bits)
    return figure, sentence


@styled
def with_and_without(numbers: Tensor, outlier: float, bits: int) -> tuple[Figure, str]:
    """The grid of ``numbers`` (n,), and the grid of the same numbers after the last became ``outlier``."""
    figure = Figure(figsize=(7.2, 4.6))
    above, below = figure.subplots(2)
    changed = torch.cat([numbers[:-1], torch.tensor([outlier])])
    before, after = draw_grid(above, numbers, bits), draw_grid(below, changed, bits)
    return figure, f"Above: {before} Below, one number is {outlier:g}: {after}"


def draw_grid(axis: Axes, numbers: Tensor, bits: int) -> str:
    """One number line; returns the sentence about it."""
    scale, zero_point = min_max(numbers, Grid(bits))
    codes = quantize(numbers, scale, zero_point, bits)
    values = dequantize(codes, scale, zero_point)
    levels = dequantize(torch.arange(2**bits), scale, zero_point)
    axis.vlines(levels, -0.15, 0.15, color="0.6", linewidth=0.8)
    for number, value in zip(numbers.tolist(), values.tolist(), strict=True):
        axis.annotate(
            "", (value, 0.12), (number, 0.94), arrowprops={"arrowstyle": "->", "color": "0.5", "lw": 0.8}
        )
    axis.plot(numbers, torch.ones(len(numbers)), "o", color=NUMBER)
    axis.plot(values, torch.zeros(len(numbers)), "D", color=VALUE)
    used = sorted({(value, int(code)) for value, code in zip(values.tolist(), codes.tolist(), strict=True)})
    for value, code in used:
        axis.annotate(str(code), (value, -0.2), ha="center", va="top", fontsize=9)
    axis.set(yticks=[0, 1], yticklabels=["on the grid", "numbers"], ylim=(-0.65, 1.3), xlabel="value")
    axis.grid(False)
    axis.spines["left"].set_visible(False)
    axis.tick_params(left=False)
    axis.set_title(f"{len(numbers)} numbers, {bits} bits: {2**bits} values, {scale.item():.3g} apart")
    error = (values - numbers).abs().max().item()
    return (
        f"A grid of {bits} bits has {2**bits} values, {scale.item():.3g} apart. The {len(numbers)} numbers "
        f"use {len(used)} of them, and move by at most {error:.2g}."
    )


@styled
def error_by_bits(
    bits: Sequence[int], errors: Sequence[float], scales: Sequence[float]
) -> tuple[Figure, str]:
    """The largest error of some numbers for each number of bits, and the bound: half of the grid's scale."""
    figure = Figure(figsize=(6.4, 3.4))
    axis = figure.subplots()
    halves = [scale / 2 for scale in scales]
    axis.plot(bits, halves, color="0.5", linestyle="--", label="bound: half of the scale")
    axis.plot(bits, errors, marker="o", color=VALUE, label="largest error of the 8 numbers")
    axis.set(xlabel="bits of a code", ylabel="error (same unit as the numbers)", yscale="log", xticks=bits)
    axis.legend()
    axis.set_title("Each bit less makes the scale a little more than twice as large")
    return figure, (
        f"The largest error grows from {errors[-1]:.2g} at {bits[-1]} bits to {errors[0]:.2g} at {bits[0]} "
        "bits. It is always below half of the scale."
    )


@styled
def same_noise(rows: Mapping[int, Tensor], megabytes: Mapping[int, float]) -> tuple[Figure, str]:
    """Images (n, 1, H, W) by bits of the weights, widest first; a column starts from the same noise."""
    widest, n = max(rows), len(rows[max(rows)])
    labelled = {f"{bits} bits\n{megabytes[bits]:.1f} MB": images for bits, images in rows.items()}
    figure = image_rows(
        labelled, "Fewer bits from row to row; each column starts from the same noise", columns=n
    )
    distances = {bits: grey_distance(images, rows[widest]) for bits, images in rows.items() if bits != widest}
    words = ", ".join(f"{distance:.0f} at {bits} bits" for bits, distance in distances.items())
    return figure, (
        f"Rows of {n} drawn clothes, with weights of {', '.join(map(str, rows))} bits. The mean difference "
        f"from the {widest}-bit row, of 255 grey levels, is {words}."
    )


@styled
def drawing(trajectory: Tensor, steps: Sequence[int]) -> tuple[Figure, str]:
    """``x_t`` (T, n, 1, H, W) after the given steps, counted from 1: a row for each image."""
    total, n = trajectory.shape[:2]
    figure = Figure(figsize=(6.4, 1.2 * n + 0.6))
    shown = (trajectory[[step - 1 for step in steps]].clamp(-1, 1) + 1) * 127.5
    for axis, images in zip(figure.subplots(n, 1), shown.transpose(0, 1), strict=True):
        draw_images(axis, image_grid(images.round().to(torch.uint8), columns=len(steps), zoom=1), "")
    width = trajectory.shape[-1] + 1
    ticks = [(i + 0.5) * width for i in range(len(steps))]
    axis.set(xticks=ticks, xticklabels=[f"step {step}" for step in steps])
    figure.suptitle(f"{n} images from noise, in {total} denoising steps")
    spread = [trajectory[step - 1].std().item() for step in (1, total)]
    return figure, (
        f"{n} rows, each from noise (left) to a piece of clothing (right) in {total} steps. The standard "
        f"deviation of the pixels goes from {spread[0]:.2f} to {spread[1]:.2f}."
    )
