"""Figures of lesson 1: how the errors of the denoising steps add up."""

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from .pictures import image_rows
from .style import styled

PIXEL_ROUNDING = (
    2 / 255
) ** 2 / 12  # MSE of rounding pixels in [-1, 1] to 8 bits: the floor of a saved image
STEP_LABEL = "denoising step (noisy to clean)"
MARKS = ("o", "s", "^", "D", "v", "P")


@styled
def same_seeds(rows: dict[str, Tensor], columns: int = 12) -> tuple[Figure, str]:
    """Images of each method, uint8 (N, C, H, W), the first row being the reference; one noise per column."""
    labels = list(rows)
    columns = min(columns, len(rows[labels[0]]))
    figure = image_rows(rows, "Each column starts from the same noise", columns)
    reference = rows[labels[0]].double() / 127.5
    errors = {label: (rows[label].double() / 127.5 - reference).square().mean() for label in labels[1:]}
    listed = "; ".join(f"{label} {error:.4f}" for label, error in errors.items())
    return figure, (
        f"{columns} images of each of {len(rows)} models, from the same noise. Mean squared error against "
        f"{labels[0]}, over {len(reference)} images with pixels from -1 to 1: {listed}."
    )


@styled
def growth(
    errors: Tensor,
    predicted: Tensor,
    persistent: Tensor | None = None,
    title: str = "An independent error at each step",
) -> tuple[Figure, str]:
    """Variance per step, measured with several seeds, (seeds, T), and by the recursion, (T,).

    persistent: the recursion's variance for an error that never changes, (T,), as a second line.
    """
    seeds, steps = errors.shape
    at = range(1, steps + 1)
    figure = Figure(figsize=(5.6, 3.4))
    axis = figure.subplots()
    low, high = errors.amin(0).numpy(), errors.amax(0).numpy()
    axis.fill_between(at, low, high, alpha=0.35, color="C2", label=f"measured, {seeds} seeds: range")
    axis.plot(at, errors.mean(0), color="C6", label="measured: mean of the seeds")
    axis.plot(at, predicted, "--", color="C0", label="recursion")
    if persistent is not None:
        axis.plot(at, persistent, ":", color="C4", label="recursion, the same error at every step")
    axis.axhline(errors[:, 0].mean().item(), color="0.6", lw=1, label="after one step")
    lowest = errors.min().item() / 2
    axis.set(xlabel=STEP_LABEL, ylabel="variance of the error of x", yscale="log", ylim=(lowest, None))
    axis.set_title(f"{title}, {steps} steps")
    axis.legend(fontsize=8)
    worst = (errors.mean(0) / predicted - 1).abs().max()
    grown = errors.mean(0)[-1] / errors.mean(0)[0]
    return figure, (
        f"Variance of the error, {seeds} seeds: after {steps} steps it is {grown:.0f} times that after "
        f"one step. The recursion differs from the mean of the seeds by at most {worst:.1%}."
    )


@styled
def more_steps(steps: list[int], single: Tensor, fresh: Tensor, persistent: Tensor) -> tuple[Figure, str]:
    """Final error against the number of steps, for independent and for equal errors of the steps."""
    figure = Figure()
    axis = figure.subplots()
    axis.plot(steps, persistent, "s-", color="C4", label="end, the same error at every step")
    axis.plot(steps, fresh, "o-", color="C2", label="end, an independent error at every step")
    axis.plot(steps, single, "^--", color="0.5", label="what one step adds, on average")
    axis.set(
        xlabel="number of DDIM steps T", ylabel="root mean square error of x", xscale="log", yscale="log"
    )
    axis.set_xticks(steps, [str(n) for n in steps])
    axis.minorticks_off()
    axis.set_title("More and smaller steps, each prediction with the same size of error")
    axis.legend(fontsize=8)
    return figure, (
        f"From {steps[0]} to {steps[-1]} steps, the error that one step adds falls by a factor of "
        f"{single[0] / single[-1]:.0f}. The final error is divided by {fresh[0] / fresh[-1]:.1f} for "
        f"independent errors, and by {persistent[0] / persistent[-1]:.2f} for equal errors."
    )


@styled
def anatomy(total: Tensor, inherited: Tensor, fresh: Tensor, alike: Tensor, label: str) -> tuple[Figure, str]:
    """Root mean squares per step, (T,), and the correlation of neighbouring steps' added errors, (T - 1,)."""
    figure = Figure(figsize=(7.2, 3.4))
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    at = range(1, len(total) + 1)
    left.plot(at, total, "o-", ms=3, color="C0", label="error")
    left.plot(at, inherited, "s-", ms=3, color="C1", label="inherited from the step before")
    left.plot(at, fresh, "^-", ms=3, color="C6", label="added by the step itself")
    left.set(xlabel=STEP_LABEL, ylabel="root mean square error of x", ylim=(0, None))
    left.set_title(f"{label} against full precision")
    left.legend(fontsize=8)
    right.plot(at[1:], alike, "o-", ms=3, color="C3")
    right.axhline(0, color="0.6", lw=1)
    right.annotate("independent errors", (len(total), 0.03), ha="right", fontsize=8, color="0.4")
    right.set(xlabel=STEP_LABEL, ylabel="correlation with the step before", ylim=(-0.1, 1.05))
    right.set_title("Added errors: independent?")
    for axis in (left, right):
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure, (
        f"{label}, one step before the last: the inherited error has {inherited[-2] / total[-2]:.0%} of the "
        f"size of the error, and the added error has {fresh[-2] / total[-2]:.0%}. The added errors of "
        f"neighbouring steps have a mean correlation of {alike.mean():.2f}."
    )


@styled
def error_curves(
    mse: dict[str, Tensor], snr: dict[str, Tensor], n: int, unrelated: float | None = None
) -> tuple[Figure, str]:
    """MSE and signal-to-noise ratio in dB against full precision per step, (T,) for each label; n runs.

    unrelated: the MSE between two images from different noise.
    """
    figure = Figure(figsize=(7.2, 3.8))
    left, right = figure.subplots(1, 2)
    for i, label in enumerate(mse):
        at = range(1, len(mse[label]) + 1)
        style = dict(color=f"C{i + 1}", marker=MARKS[i], ms=4, markevery=max(1, len(at) // 10), label=label)
        left.plot(at, mse[label], **style)
        right.plot(at, snr[label], **style)
    left.axhline(PIXEL_ROUNDING, color="0.5", lw=1, ls=":")
    words = dict(fontsize=8, color="0.35")
    left.annotate("floor: pixels in 8 bits", (len(at), PIXEL_ROUNDING * 1.15), ha="right", **words)
    if unrelated is not None:
        left.axhline(unrelated, color="0.5", lw=1, ls="--")
        left.annotate("two unrelated images", (1, unrelated * 1.1), **words)
    left.set(xlabel=STEP_LABEL, ylabel="mean squared error of x", yscale="log")
    left.set_title(f"Error, mean of {n} runs")
    right.set(xlabel=STEP_LABEL, ylabel="signal-to-noise ratio (dB)")
    right.set_title("Signal-to-noise ratio")
    for axis in (left, right):
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    listed = "; ".join(
        f"{label} from {snr[label][0]:.0f} to {snr[label][-1]:.0f} dB, last MSE {mse[label][-1]:.4f}"
        for label in mse
    )
    return figure, f"{len(next(iter(mse.values())))} steps, mean of {n} runs: {listed}."


@styled
def halves(errors: dict[str, float], n: int) -> tuple[Figure, str]:
    """Final MSE of n images for each way to give 4 bits to some of the steps, as bars."""
    figure = Figure(figsize=(7.2, 2.2))
    axis = figure.subplots()
    bars = axis.barh(list(errors), list(errors.values()), color=["C1", "C2", "C3"][: len(errors)])
    axis.bar_label(bars, fmt="%.3f", padding=3)
    axis.invert_yaxis()
    axis.set(xlabel=f"mean squared error of the images (n = {n})")
    axis.margins(x=0.12)
    axis.grid(axis="y", visible=False)
    listed = "; ".join(f"{label}: {error:.3f}" for label, error in errors.items())
    return figure, f"Mean squared error of {n} final images. {listed}."
