"""Figures that no lesson has. As in the lessons, a sentence describes each."""

import statistics

from matplotlib.figure import Figure

from qdiff_lib.course.figures import styled
from qdiff_lib.course.figures.lesson_03 import band, by_chance

from .table1 import FULL, OWN, groups, mean

METHODS = (
    "linear",
    "SQuant",
    "PTQ4DM",
    "Q-Diffusion",
    "Q-Diffusion, whole network",
    "Q-Diffusion, all stages",
    "Q-Diffusion, as in the paper",
)
MARKS = ("o", "s", "^", "D", "d", "P", "v")


@styled
def methods(data: dict) -> tuple[Figure, str]:
    """KID and Fréchet distance of each method at each width; of several seeds every one is a point."""
    found = {name: rows for name, rows in groups(data).items() if rows}
    widths = list(dict.fromkeys(name[1:] for name in groups(data) if name[0] != FULL))
    figure = Figure(figsize=(7.6, 3.8))
    for axis, score, factor in zip(figure.subplots(1, 2), ("kid", "frechet"), (1e3, 1), strict=True):
        for i, method in enumerate(METHODS):
            rows = [row for name, own in found.items() if name[0] == method for row in own]
            at = [widths.index((row["weights"], row["activations"])) + 0.11 * (i - 3) for row in rows]
            values = [factor * row["scores"][OWN][score] for row in rows]
            axis.plot(at, values, MARKS[i], color=f"C{i + 1}", label=method)
        full = factor * mean(next(own for name, own in found.items() if name[0] == FULL), score)
        axis.axhline(full, color="0.2", ls="--", lw=1, label=FULL)
        axis.set_xticks(range(len(widths)), [f"W{w}A{a}" for w, a in widths])
        real = factor * data["real"][OWN][score][0]
        axis.axhline(real, color="0.5", ls=":", lw=1, label="real images")
        axis.set(ylabel={"kid": "KID x 1000"}.get(score, "Fréchet distance"))
        if score == "kid":  # may be 0 or less
            axis.set_yscale("symlog", linthresh=1)
            axis.set_ylim(min(real, 0) - 0.5, 1.5 * axis.dataLim.y1)
        else:
            axis.set_yscale("log")
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    listed = "; ".join(
        f"{label} {'' if label == FULL else f'W{w}A{a} '}{1e3 * mean(rows, 'kid'):.1f}"
        for (label, w, a), rows in found.items()
    )
    return figure, f"KID x 1000 of the classifier's features, n = {data['n']}: {listed}."


@styled
def sweep(name: str, data: dict) -> tuple[Figure, str]:
    """MSE and Fréchet distance against the value of one setting; a band shows what chance does."""
    figure = Figure(figsize=(7.2, 3))
    left, right = figure.subplots(1, 2)
    values = [row["value"] for row in data["rows"]]
    for axis, score in ((left, "trajectory_mse"), (right, "frechet")):
        band(axis, data["seeds"], score)
        axis.plot(values, [row[score] for row in data["rows"]], "o-", color="C6")
        axis.set_xscale("log", base=2)
        axis.set_xticks(values, [str(value) for value in values])
        axis.minorticks_off()
        axis.set(xlabel=name.replace("_", " "), ylim=(0, None))
    left.set(ylabel="MSE of x after the last step")
    right.set(ylabel=f"Fréchet distance, n = {data['n']}")
    right.axhline(data["floor"], color="0.5", ls=":", lw=1, label="real images")
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
    listed = "; ".join(
        f"{row['value']}: {row['trajectory_mse']:.4g} and {row['frechet']:.3g}" for row in data["rows"]
    )
    shown = f"Mean squared error and Fréchet distance by {name.replace('_', ' ')}: {listed}."
    return figure, f"{shown} {by_chance(data['seeds'])}"


@styled
def between_steps(data: dict) -> tuple[Figure, str]:
    """The error of the predicted noise at each step; filled marks: calibrated on."""
    figure = Figure(figsize=(7.6, 3.4))
    left, right = figure.subplots(1, 2)
    largest = []
    for i, row in enumerate(data["rows"]):
        for axis, name in ((left, "mse"), (right, "offset")):
            sizes = [abs(value) for value in row[name]]
            axis.plot(range(1, data["steps"] + 1), sizes, lw=0.7, color=f"C{i + 1}", label=row["label"])
            axis.plot(
                [step + 1 for step in row["seen"]],
                [sizes[step] for step in row["seen"]],
                ".",
                color=f"C{i + 1}",
            )
            axis.set(xlabel="denoising step (noisy to clean)", yscale="log")
        largest.append(f"{row['label']} {max(map(abs, row['offset'])):.2g}")
    left.set(ylabel="MSE of the predicted noise")
    right.set(ylabel="size of its mean error")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
    return figure, f"Errors at each of {data['steps']} steps. Largest mean error: {'; '.join(largest)}."


@styled
def divergences(data: dict) -> tuple[Figure, str]:
    """The mean over the steps for each layer, and the median layer at each step."""
    figure = Figure(figsize=(7.6, 3.4))
    left, right = figure.subplots(1, 2)
    sentences = []
    for i, row in enumerate(data["rows"]):
        means = [statistics.fmean(layer) for layer in row["values"]]
        at_step = [statistics.median(layer[k] for layer in row["values"]) for k in range(data["steps"])]
        style = dict(color=f"C{(1, 6)[i]}", label=row["label"])
        left.plot(range(1, len(means) + 1), means, ".", **style)
        right.plot(range(1, data["steps"] + 1), at_step, **style)
        sentences.append(f"{row['label']}: the median layer {statistics.median(means):.3g} nats")
    left.set(
        xlabel="layer, in execution order", ylabel="KL divergence (nats), mean of the steps", yscale="log"
    )
    right.set(xlabel="denoising step (noisy to clean)", ylabel="median of the layers", yscale="log")
    left.legend()
    return figure, f"KL divergence of the layers' outputs from full precision. {'; '.join(sentences)}."
