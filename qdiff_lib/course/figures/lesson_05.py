"""Figures of lesson 5: pictures of three models, roundings of a neuron and a unit, bytes, the stages."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from matplotlib.image import imread
from torch import Tensor

from ...evaluation.figures import OKABE_ITO
from ..one_unit import Moment
from .pictures import grey_distance, image_rows
from .style import styled

ORANGE, SKY, GREEN, RED, PINK, BLUE = OKABE_ITO[1:]
BINS = 40
WIDE, DASHED = {"linewidth": 4, "alpha": 0.6}, {"linestyle": (0, (4, 2))}  # both are seen where they coincide
LOOKS = ((PINK, WIDE), (SKY, WIDE), ("#000000", DASHED), (BLUE, DASHED))


@styled
def pictures(rows: Mapping[str, Tensor], columns: int = 8) -> tuple[Figure, str]:
    """The first images of each model, uint8 (N, C, H, W), a column from one noise; first row: original."""
    first = next(iter(rows.values()))
    labelled = {label.replace(" W", "\nW"): images for label, images in rows.items()}
    figure = image_rows(labelled, "Each column starts from the same noise", columns)
    others = [f"{label} {grey_distance(images, first):.0f}" for label, images in rows.items()]
    return figure, (
        f"{min(columns, len(first))} pictures from each of {len(rows)} models. Mean difference of a pixel "
        f"from the first row, in grey levels of 255, over all {len(first)} pictures: {', '.join(others[1:])}."
    )


def places(errors: Tensor, values: Tensor) -> Tensor:
    """The place of each neuron's value (n,) among the errors of all its roundings (n, ways), 1 for the least.

    Values that differ by a millionth count as equal.
    """
    return (errors < values[:, None] * (1 - 1e-6)).sum(dim=1) + 1


@styled
def all_roundings(errors: Tensor, nearest: Tensor, learned: Tensor) -> tuple[Figure, str]:
    """All roundings of some neurons. errors: (n, ways), of all roundings; nearest, learned: (n,), of two.

    Left: the neuron whose nearest rounding has the median place. Right: all neurons.
    """
    figure = Figure(figsize=(8.2, 3.4))
    left, right = figure.subplots(1, 2)
    methods = {"nearest": (nearest, ORANGE, "s"), "learned (AdaRound)": (learned, BLUE, "D")}
    found = {name: places(errors, values) for name, (values, _, _) in methods.items()}
    n, ways = errors.shape
    shown = int((found["nearest"] == found["nearest"].median()).nonzero()[0])
    left.plot(
        range(1, ways + 1), errors[shown].sort().values.tolist(), color="0.6", label="all roundings, sorted"
    )
    for name, (values, colour, marker) in methods.items():
        left.plot(found[name][shown].item(), values[shown].item(), marker, color=colour, label=name)
        share = [100 * (found[name] <= place).float().mean().item() for place in range(1, ways + 1)]
        right.plot(range(1, ways + 1), share, color=colour, label=name)
    left.set(xscale="log", yscale="log", xlabel=f"place among {ways:,} roundings")
    left.set(ylabel="mean squared output error", title="One neuron, every rounding")
    right.set(xscale="log", ylim=(0, 102), xlabel="place or better", ylabel="neurons (%)")
    right.set_title(f"All {n} neurons")
    left.legend()
    right.legend(loc="upper left", fontsize=8)
    median = {name: found[name].median().item() for name in methods}
    return figure, (
        f"Each of {n} neurons has {ways:,} roundings. The median place of nearest is {median['nearest']}, "
        f"that of the learned rounding is {median['learned (AdaRound)']}. Their mean errors are "
        f"{(nearest.mean() / errors.amin(1).mean()).item():.1f} and "
        f"{(learned.mean() / errors.amin(1).mean()).item():.1f} times that of the best rounding."
    )


@styled
def rounding_variables(moment: Moment) -> tuple[Figure, str]:
    """Histogram of h at one iteration: which weights go down (0) or up (1)."""
    figure = Figure(figsize=(5.2, 3.1))
    axis = figure.subplots()
    edges = [i / BINS for i in range(BINS + 1)]
    looks = (
        ("down", False, SKY, True),
        ("up", True, RED, False),
    )  # one filled, one an outline: both are seen
    for name, rounds_up, colour, fill in looks:
        chosen = moment.h[moment.nearest == rounds_up]
        share = torch.histc(chosen, BINS, 0, 1) / len(moment.h)
        label = f"nearest is {name}"
        axis.stairs(share.tolist(), edges, fill=fill, color=colour, linewidth=1.4, label=label)
    axis.axvline(0.5, color="0.3", linestyle="--", linewidth=1)
    axis.set(
        xlabel="h(V): added share of the scale", ylabel="share of the weights", yscale="log", ylim=(1e-5, 1)
    )
    axis.legend(loc="upper center")
    axis.set_title(f"Iteration {moment.iteration}, n = {len(moment.h):,} weights")
    return figure, (
        f"{moment.undecided:.1%} of {len(moment.h):,} weights are undecided, and {moment.flipped:.1%} do not "
        f"go to their nearest value."
    )


@styled
def learning(
    losses: Sequence[float], moments: Sequence[Moment], nearest: float, learned: float
) -> tuple[Figure, str]:
    """AdaRound of one unit. losses: output error of the soft weights at each iteration, on its batch.

    nearest, learned: the errors over all inputs of rounding to nearest, and of the decided weights.
    """
    figure = Figure(figsize=(7.2, 3.5))
    left, right = figure.subplots(1, 2)
    left.plot(range(1, len(losses) + 1), losses, color="0.6", linewidth=1, label="soft weights")
    left.axhline(nearest, color=ORANGE, linestyle="--", label="nearest")
    left.axhline(learned, color=BLUE, label="learned, decided")
    left.set(xlabel="iteration", ylabel="output error of the unit", yscale="log")
    left.set_title("The decision costs some error")
    places = [moment.iteration for moment in moments]
    right.plot(places, [100 * m.undecided for m in moments], marker=".", color="0.5", label="undecided")
    right.plot(
        places, [100 * m.flipped for m in moments], marker=".", color=RED, label="not to the nearest value"
    )
    right.set(xlabel="iteration", ylabel="weights (%)", ylim=(0, None))
    for axis in (left, right):
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), fontsize=8, ncols=3, columnspacing=1)
    right.set_title(f"n = {len(moments[0].h):,} weights")
    return figure, (
        f"In {len(losses)} iterations the share of undecided weights falls from {moments[0].undecided:.0%} "
        f"to {moments[-1].undecided:.1%}. At the end {moments[-1].flipped:.1%} of the weights are not at "
        f"their nearest value. The unit's error is {learned:.2f}. With nearest it is {nearest:.2f}."
    )


@styled
def file_parts(parts: Mapping[str, float], full: float) -> tuple[Figure, str]:
    """Bytes of each part of a packed file, beside the full-precision file's ``full`` bytes."""
    figure = Figure(figsize=(7.2, 2.9))
    axis = figure.subplots()
    axis.barh("32-bit floats", full / 1e6, height=0.5, color="0.7")
    left = 0.0
    for (name, size), colour in zip(parts.items(), (BLUE, ORANGE, GREEN, PINK), strict=False):
        axis.barh(
            "packed",
            size / 1e6,
            height=0.5,
            left=left / 1e6,
            color=colour,
            label=f"{name}: {size / 1e3:,.0f} kB",
        )
        left += size
    axis.set(xlabel="size (MB, 10^6 bytes)")
    axis.grid(axis="y", visible=False)
    axis.legend(loc="upper right")
    axis.set_title(f"The same network with {left / full:.1%} of the bytes")
    listed = ", ".join(f"{name} {size / left:.0%}" for name, size in parts.items())
    return (
        figure,
        f"The packed file has {left / 1e6:.2f} MB instead of {full / 1e6:.2f} MB. Its parts: {listed}.",
    )


@styled
def ladder(rows: Sequence[Mapping], n: int, floor: float) -> tuple[Figure, str]:
    """Error, score and cost of each stage, as in ``recorded("ladder")``; the last row is full precision."""
    figure = Figure(figsize=(9.6, 3.4))
    left, middle, right = figure.subplots(1, 3, sharey=True)
    labels = [row["label"] for row in rows]
    colours = [ORANGE] + [BLUE] * (len(rows) - 2) + ["0.6"]
    mse = [row["trajectory_mse"] or None for row in rows]
    left.barh(labels[:-1], mse[:-1], color=colours)
    left.set(xlabel=f"mean squared error of x\nafter the last step, n = {n}", xlim=(0, None))
    middle.barh(labels, [row["frechet"] for row in rows], color=colours)
    middle.axvline(floor, color="0.2", linestyle="--", linewidth=1, label="real images")
    middle.set(xlabel=f"Fréchet distance of the\nclassifier's features, n = {n}")
    middle.legend(loc="lower center", bbox_to_anchor=(0.5, 1))
    right.barh(labels, [row["seconds"] for row in rows], color=colours)
    right.set(xlabel="calibration (s)\n")
    left.invert_yaxis()
    for axis in (left, middle, right):
        axis.grid(axis="y", visible=False)
    first, last, whole = rows[0], rows[-2], rows[-1]
    return figure, (
        f"From '{first['label']}' to '{last['label']}' the error falls from {first['trajectory_mse']:.3f} to "
        f"{last['trajectory_mse']:.4f}. The Fréchet distance falls from {first['frechet']:.1f} to "
        f"{last['frechet']:.1f} (full precision {whole['frechet']:.1f}, real images {floor:.1f}, n = {n}). "
        f"The calibration time grows from {first['seconds']:.0f} s to {last['seconds']:.0f} s."
    )


def notable_stages(rows: Sequence[Mapping]) -> tuple[str, str, list[str]]:
    """Labels of the stages that remove the largest share of the error, add most seconds, and add error.

    rows: as for ``ladder``, without full precision. A stage is compared with the stage before it.
    """
    pairs = list(zip(rows, rows[1:], strict=False))
    removes = min(pairs, key=lambda pair: pair[1]["trajectory_mse"] / pair[0]["trajectory_mse"])[1]
    adds = max(pairs, key=lambda pair: pair[1]["seconds"] - pair[0]["seconds"])[1]
    worse = [row["label"] for before, row in pairs if row["trajectory_mse"] > before["trajectory_mse"]]
    return removes["label"], adds["label"], worse


def ladder_table(rows: Sequence[Mapping]) -> str:
    """The same numbers as text. The column "left" has the error divided by that of the previous row."""
    titles = ("error", "left", "SNR (dB)", "Fréchet", "KID", "calibration", "MB")
    lines = [
        f"{'':29}" + "".join(f"{title:>10}" if title != "calibration" else f"{title:>13}" for title in titles)
    ]
    before = None
    for row in rows:
        error = row["trajectory_mse"]
        left = f"{error / before:.0%}" if before and error else ""
        snr = "" if row["snr_db"] is None else f"{row['snr_db']:.1f}"
        lines.append(
            f"{row['label']:29}{error:10.4f}{left:>10}{snr:>10}{row['frechet']:10.2f}{row['kid']:10.4f}"
            f"{row['seconds']:11.0f} s{row['bytes'] / 1e6:10.2f}"
        )
        before = error
    return "\n".join(lines)


@styled
def latent_pictures(data: Mapping, name: str, picture: Path) -> tuple[Figure, str]:
    """The sheet of one of ``recorded("latent")``'s models, a PNG."""
    model = data["models"][name]
    pixels = imread(picture)
    figure = Figure(figsize=(pixels.shape[1] / 100, pixels.shape[0] / 100), layout="none")
    axis = figure.add_axes((0, 0, 1, 1))
    axis.imshow(pixels)
    axis.axis("off")
    text = f" and text: {', '.join(model['prompts'][: data['shown']])}" if model["prompts"] else ""
    labels = ", ".join(row["label"] for row in model["rows"])
    return figure, f"Rows: {labels}. Each column has the same noise{text}."


@styled
def latent_errors(data: Mapping) -> tuple[Figure, str]:
    """The error of the latents after each step, a panel for each model of ``recorded("latent")``."""
    figure, listed = Figure(figsize=(7.6, 3.4)), []
    panels = figure.subplots(1, len(data["models"]), squeeze=False)[0]
    for axis, (name, model) in zip(panels, data["models"].items(), strict=True):
        for (colour, look), row in zip(LOOKS, model["rows"][1:], strict=False):
            axis.plot(range(1, len(row["mse"]) + 1), row["mse"], color=colour, label=row["label"], **look)
            listed.append(f"{name} {row['label']} {row['mse'][-1]:.3g}")
        axis.set(title=name, yscale="log", xlabel="denoising step (noisy to clean)")
    panels[0].set(ylabel="mean squared error of the latents")
    panels[-1].legend(fontsize=8)
    return figure, f"Error of the latents at each step. After the last step: {'; '.join(listed)}."
