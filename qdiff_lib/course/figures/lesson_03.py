"""Figures of lesson 3: the rules that choose calibration steps, and the error of each."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from .style import plain_log_ticks, styled

STEP_LABEL = "denoising step (noisy to clean)"
LOOKS = {  # colour and mark of a rule, by the first word of its label
    "uniform": ("C6", "o"),
    "normal": ("C5", "s"),
    "first": ("C1", "<"),
    "middle": ("C3", "D"),
    "last": ("C4", ">"),
    "step": ("C2", "P"),
}


def look(label: str) -> dict[str, str]:
    """Colour and mark of the rule that ``label`` starts with: the same in all figures."""
    colour, marker = LOOKS[label.split()[0]]
    return {"color": colour, "marker": marker}


@styled
def strip_chart(counts: dict[str, Tensor]) -> tuple[Figure, str]:
    """How many inputs each rule takes at each step, (T,) whole numbers: a row of discs for each rule."""
    figure = Figure(figsize=(7.2, 0.45 * len(counts) + 1.0))
    axis = figure.subplots()
    steps = len(next(iter(counts.values())))
    for row, (label, taken) in enumerate(counts.items()):
        axis.hlines(row, 1, steps, color="0.85", lw=1, zorder=0)
        at = taken.nonzero().flatten()
        area = 600 * taken[at] / taken.sum()
        axis.scatter(at + 1, [row] * len(at), s=area.tolist(), color=look(label)["color"])
    axis.set_yticks(range(len(counts)), list(counts))
    axis.set_ylim(len(counts) - 0.4, -0.6)
    axis.set_xlim(0.4, steps + 0.6)
    axis.grid(False)
    axis.set(xlabel=STEP_LABEL)
    axis.set_title("Steps of the calibration inputs (area: share of the set)")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    listed = "; ".join(
        f"{label} {int(taken.sum())} inputs, {spans(taken)}" for label, taken in counts.items()
    )
    return figure, f"What the rules take from {steps} steps: {listed}."


def spans(taken: Tensor) -> str:
    """The steps that are used, in words, counted from 1."""
    used = (taken > 0).nonzero().flatten() + 1
    first, last = int(used[0]), int(used[-1])
    return f"at {len(used)} steps from {first} to {last}" if len(used) > 1 else f"all at step {first}"


@styled
def by_step(errors: dict[str, Tensor], nearest: Tensor, title: str) -> tuple[Figure, str]:
    """Error of the rounding chosen for each rule's steps, over the error of nearest, (T,) each."""
    figure = Figure(figsize=(7.2, 3.6))
    axis = figure.subplots()
    at = range(1, len(nearest) + 1)
    axis.axhline(1, color="0.5", lw=1.5, ls="--", label="round to nearest")
    means = {}
    for label, error in errors.items():
        axis.plot(at, error / nearest, ms=4, label=label, **look(label))
        means[label] = (error.sum() / nearest.sum()).item()
    axis.set(xlabel=STEP_LABEL, ylabel="error / error of nearest", yscale="log")
    plain_log_ticks(axis)
    axis.set_title(title)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(*axis.get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    listed = "; ".join(f"{label} {mean:.3f}" for label, mean in means.items())
    return (
        figure,
        f"{title}. Mean error over all {len(nearest)} steps, as a multiple of nearest's: {listed}.",
    )


@styled
def coverage(counts: Tensor, covered: dict[str, Tensor], label: str) -> tuple[Figure, str]:
    """Above: inputs taken at each step, (T,). Below: for each layer the share of each step's range that the
    rule's range contains, (T,), from 0 to 1."""
    figure = Figure(figsize=(5.2, 4.2))
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2))
    at = range(1, len(counts) + 1)
    above.set_xlim(0.3, len(counts) + 0.7)
    above.bar(at, counts.tolist(), color=look(label)["color"])
    above.set(ylabel="inputs")
    above.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=3))
    above.set_title(f"Calibrated with: {label}")
    for i, (layer, share) in enumerate(covered.items()):
        below.plot(at, 100 * share, "o^sDvP"[i], ls="-", ms=3, color=f"C{i + 1}", label=layer)
    below.set(xlabel=STEP_LABEL, ylabel="range covered (%)", ylim=(0, 105))
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    below.legend(fontsize=7, loc="lower center")
    worst = min(covered, key=lambda layer: covered[layer].min())
    step = int(covered[worst].argmin()) + 1
    return figure, f"Least covered is step {step} of {worst}: {covered[worst].min():.0%} of its range."


@styled
def own_and_true(
    counts: list[int], own: list[float], true: list[float], best: float, white: float
) -> tuple[Figure, str]:
    """Error on the inputs for which a rounding was chosen, and its true error, by the number of inputs.

    best: true error of the best rounding. white: that of rounding to nearest.
    """
    figure = Figure(figsize=(6.4, 3.4))
    axis = figure.subplots()
    axis.plot(counts, true, "o-", color="C4", label="true error (any new input)")
    axis.plot(counts, own, "s-", color="C6", label="error on its own calibration inputs")
    axis.axhline(white, color="0.5", ls="--", lw=1.5, label="round to nearest, true error")
    axis.axhline(best, color="C3", ls=":", lw=1.5, label="floor: the best rounding")
    axis.set(xlabel="calibration inputs", ylabel="mean squared error (scale of the grid = 1)")
    axis.set(xscale="log", yscale="log")
    plain_log_ticks(axis)
    axis.set_xticks(counts, [str(count) for count in counts])
    axis.minorticks_off()
    axis.legend(fontsize=8)
    axis.set_title("On its own calibration inputs, a rounding looks too good")
    return figure, (
        f"With {counts[0]} inputs the error seems to be {own[0]:.3g} and is {true[0]:.3g}. With {counts[-1]} "
        f"inputs it seems to be {own[-1]:.3g} and is {true[-1]:.3g}. The best rounding has {best:.3g}, "
        f"nearest has {white:.3g}."
    )


@styled
def one_step(ratios: dict[str, Tensor]) -> tuple[Figure, str]:
    """Mean error over the run after calibration at step k alone, over that of the uniform rule, (T,) each."""
    figure = Figure(figsize=(7.2, 3.2))
    axis = figure.subplots()
    steps = len(next(iter(ratios.values())))
    axis.axhline(1, color="0.5", lw=1.5, ls="--", label="uniform rule")
    for i, (label, ratio) in enumerate(ratios.items()):
        axis.plot(range(1, steps + 1), ratio, "osD"[i], ls="-", ms=4, color=f"C{i + 1}", label=label)
    axis.set(
        xlabel="the one calibration step (noisy to clean)", ylabel="error / error of uniform", yscale="log"
    )
    plain_log_ticks(axis)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_title("Calibrated at one step, measured at all steps")
    axis.legend(fontsize=8)
    listed = "; ".join(
        f"{label} from {ratio.min():.2f} at step {int(ratio.argmin()) + 1} to {ratio.max():.2f} at step "
        f"{int(ratio.argmax()) + 1}"
        for label, ratio in ratios.items()
    )
    return (
        figure,
        f"Error after calibration at one step, as a multiple of that of the uniform rule: {listed}.",
    )


@styled
def recorded_rules(data: dict) -> tuple[Figure, str]:
    """The recorded result "calibration_sampling": final error and Fréchet distance of each rule."""
    figure = Figure(figsize=(7.6, 3.8))
    left, right = figure.subplots(1, 2)
    for axis, score in ((left, "trajectory_mse"), (right, "frechet")):
        band(axis, data["seeds"], score)
        draw_scores(axis, data["rows"], score)
    right.axhline(data["floor"], color="0.5", lw=1, ls=":", label="floor: real images")
    left.set(ylabel="mean squared error of the images", yscale="log")
    right.set(ylabel="Fréchet distance (fashion classifier)", yscale="log")
    plain_log_ticks(right)
    handles = right.get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=4, fontsize=8)
    figure.suptitle(f"W{data['weights']}A{data['activations']}, n = {data['n']} images, smaller is better")
    listed = "; ".join(
        f"{row['label']} {row['trajectory_mse']:.4g} and {row['frechet']:.3g}" for row in data["rows"]
    )
    return figure, (
        f"W{data['weights']}A{data['activations']}, {data['samples']} calibration inputs, "
        f"{data['n']} images. Mean squared error and Fréchet distance: {listed}. {by_chance(data['seeds'])} "
        f"Floor of the distance: {data['floor']:.3g}."
    )


def by_chance(seeds: list[dict]) -> str:
    """A sentence about the band."""
    mse, distance = ("{:.4g} to {:.4g}".format(*ends(seeds, name)) for name in ("trajectory_mse", "frechet"))
    return f"{len(seeds)} seeds of one recipe: {mse} and {distance}."


def ends(rows: list[dict], score: str) -> tuple[float, float]:
    """The least and the greatest of the rows' scores."""
    values = [row[score] for row in rows]
    return min(values), max(values)


def band(axis: Axes, seeds: list[dict], score: str) -> None:
    """A band from the smallest to the largest score of calibrations that differ only in the seed."""
    axis.axhspan(*ends(seeds, score), color="0.88", zorder=0, label=f"{len(seeds)} seeds of one recipe")


def draw_scores(axis: Axes, rows: list[dict], score: str) -> None:
    """One score against the share of the steps; rules without a share are horizontal lines."""
    shared: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if row["share"] is None:
            axis.axhline(row[score], color=look(row["label"])["color"], lw=2, ls="--", label=row["label"])
        else:
            shared.setdefault(row["rule"], []).append((100 * row["share"], row[score]))
    for rule, points in shared.items():
        axis.plot(*zip(*sorted(points), strict=True), label=f"{rule} steps", **look(rule))
    ticks = sorted({share for points in shared.values() for share, _ in points})
    axis.set_xticks(ticks, [f"{share:.0f}" for share in ticks])
    axis.set(xlabel="steps that the set comes from (%)")
