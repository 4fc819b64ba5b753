"""Figures of lesson 2: how activation ranges drift with the time step, and what a fixed range costs."""

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from .style import plain_log_ticks, styled

STEP_LABEL = "denoising step (noisy to clean)"
TIME = "time step"
MARKS = ("o", "s", "^", "D", "v", "P")
RIDGES = 10  # steps shown in a ridge plot


def shares(ranges: dict) -> Tensor:
    """Width of each step's range over the width of the range over all steps, (layers, T).

    ranges: "min" and "max" hold (layers, T) numbers. Each range is extended to contain 0, like a grid.
    """
    low = torch.as_tensor(ranges["min"], dtype=torch.float64).clamp(max=0)
    high = torch.as_tensor(ranges["max"], dtype=torch.float64).clamp(min=0)
    return (high - low) / (high.amax(1, keepdim=True) - low.amin(1, keepdim=True))


@styled
def heat_map(ranges: dict) -> tuple[Figure, str]:
    """The range of each layer's input at each step, as a share of its range over all steps.

    ranges: a recorded result "activation_ranges", or a live one of the same form. Layers that read only the
    time step come first. The others are in execution order.
    """
    names, steps = ranges["layers"], ranges["steps"]
    order = sorted(range(len(names)), key=lambda i: group(names[i]) != TIME)
    covered = shares(ranges)[order]
    few = len(names) <= 8
    figure = Figure(figsize=(7.2, 2.4 if few else 4.8))
    axis = figure.subplots()
    shown = (100 * covered).numpy()
    image = axis.imshow(shown, aspect="auto", vmin=0, vmax=100, extent=(0.5, steps + 0.5, len(names), 0))
    axis.grid(False)
    if few:
        axis.set_yticks([i + 0.5 for i in range(len(names))], [names[i] for i in order], fontsize=8)
    else:
        groups = [group(names[i]) for i in order]
        middles = {name: groups.index(name) + groups.count(name) / 2 for name in groups}
        axis.set_yticks(list(middles.values()), list(middles), fontsize=8)
        axis.tick_params(axis="y", length=0)
        for name in list(middles)[1:]:
            axis.axhline(groups.index(name), color="white", lw=1)
        axis.set_ylabel(f"{len(names)} layers")
    axis.set(xlabel=STEP_LABEL, title=f"Range of each layer's input at each step, {ranges['n']} runs")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.colorbar(image, ax=axis, label="% of range, all steps")
    least = covered.amin(1)
    median = least.quantile(0.5)
    widest, narrowest = (names[order[int(i)]] for i in (least.argmax(), least.argmin()))
    return figure, (
        f"{len(names)} layers over {steps} steps, {ranges['n']} runs. The narrowest range of a layer, as a "
        f"share of its range over all steps: {median:.0%} for the median layer, "
        f"{least.min():.0%} for {narrowest}, {least.max():.0%} for {widest}."
    )


def group(layer: str) -> str:
    """Where a layer belongs in the heat map."""
    if "time_emb" in layer:
        return TIME
    return {"down_blocks": "down", "mid_block": "middle", "up_blocks": "up"}.get(layer.split(".")[0], "")


@styled
def ridges(ranges: dict, layers: list[str], densities: dict[str, Tensor] | None = None) -> tuple[Figure, str]:
    """Range of a few layers' inputs at about ten steps: thin from minimum to maximum, thick for 1 % to 99 %.

    ranges: as for ``heat_map``. densities: for a layer (T, bins), counts over its range of all steps. They
    are drawn as ridges above the bars.
    """
    steps = ranges["steps"]
    shown = sorted({round(float(i)) for i in torch.linspace(0, steps - 1, min(RIDGES, steps))})
    figure = Figure(figsize=(7.2, 3.8))
    axes = figure.subplots(1, len(layers), sharey=True, squeeze=False)[0]
    words = []
    for axis, layer in zip(axes, layers, strict=True):
        i = ranges["layers"].index(layer)
        low, p1, p99, high = (
            torch.as_tensor(ranges[key][i], dtype=torch.float64).numpy()
            for key in ("min", "low", "high", "max")
        )
        for row, t in enumerate(shown):
            axis.hlines(row, low[t], high[t], color="C6", lw=1)
            axis.hlines(row, p1[t], p99[t], color="C6", lw=4)
            if densities is not None:
                draw_ridge(axis, densities[layer][t], low.min(), high.max(), row)
        axis.axvline(0, color="0.6", lw=0.8)
        axis.set_title(short(layer), fontsize=8)
        axis.set_yticks(range(len(shown)), [str(t + 1) for t in shown])
        axis.tick_params(labelsize=8)
        width = high - low
        narrow, wide = int(width.argmin()), int(width.argmax())
        words.append(
            f"{layer} from {width[narrow]:.1f} at step {narrow + 1} to {width[wide]:.1f} at step {wide + 1}"
        )
    axes[0].set_ylabel(STEP_LABEL)
    axes[0].invert_yaxis()
    figure.supxlabel("value of the layer's input (thick: 1 % to 99 %, thin: all)", fontsize=9)
    return figure, f"Ranges at {len(shown)} of {steps} steps, n = {ranges['n']}. Width: {'; '.join(words)}."


def draw_ridge(axis, counts: Tensor, low: float, high: float, row: int) -> None:
    """One histogram as a hill on the line ``row``; on this axis, smaller values are higher."""
    centres = torch.linspace(float(low), float(high), 2 * len(counts) + 1)[1::2]
    hill = row - 0.9 * counts / counts.max()
    axis.fill_between(centres.numpy(), hill.numpy(), row, color="C2", alpha=0.6, lw=0)


def short(layer: str) -> str:
    """A layer's name on two lines."""
    first, second = layer.split(".")[:2], layer.split(".")[2:]
    return "\n".join(".".join(part) for part in (first, second) if part)


@styled
def utilisation(used: dict[str, Tensor], lost: dict[str, Tensor], bits: int) -> tuple[Figure, str]:
    """For each layer, (T,): the codes that a step uses, and MSE with one range over MSE with its own."""
    figure = Figure(figsize=(7.2, 3.8))
    left, right = figure.subplots(1, 2)
    for i, layer in enumerate(used):
        at = range(1, len(used[layer]) + 1)
        style = dict(color=f"C{i + 1}", marker=MARKS[i], ms=3)
        left.plot(at, 100 * used[layer], label=layer, **style)
        right.plot(at, lost[layer], **style)
        right.plot(at, 1 / used[layer] ** 2, ":", color=f"C{i + 1}", lw=1)
    right.plot([], [], ":", color="0.4", lw=1, label="1 / share squared")
    right.axhline(1, color="0.5", lw=1)
    left.set(xlabel=STEP_LABEL, ylabel=f"codes that the step uses (% of {2**bits})", ylim=(0, 105))
    right.set(xlabel=STEP_LABEL, ylabel="MSE: one range / own range", yscale="log")
    plain_log_ticks(right)
    for axis in (left, right):
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.legend(fontsize=8)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
    words = "; ".join(
        f"{layer} uses {used[layer].min():.0%} to {used[layer].max():.0%} of the codes, largest error ratio "
        f"{lost[layer].max():.1f}"
        for layer in used
    )
    return figure, f"One {bits}-bit range for all steps. {words}."


@styled
def fixed_range(
    rounding: Tensor, clipping: Tensor, own: Tensor, layer: str, where: str
) -> tuple[Figure, str]:
    """Error at each step, (T,), with a range from other steps: of values inside, outside, and the floor.

    The limits of the axis depend only on the floor, so figures of one layer can be compared.
    """
    figure = Figure(figsize=(5.2, 3.4))
    axis = figure.subplots()
    at = range(1, len(own) + 1)
    axis.plot(at, rounding + clipping, "o-", ms=4, color="C0", label=f"range from {where}")
    axis.plot(at, clipping.clamp(min=1e-12), "^--", ms=3, color="C4", label="part of it: clipped values")
    axis.plot(at, own, ":", color="C6", label="floor: the step's own range")
    axis.set(xlabel=STEP_LABEL, ylabel="mean squared error", yscale="log")
    axis.set_ylim(own.min().item() / 3, 3000 * own.max().item())
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_title(f"{layer}\nrange from {where}", fontsize=9)
    axis.legend(fontsize=8)
    ratio = (rounding + clipping) / own
    worst = int(ratio.argmax())
    cause = "clipping" if clipping[worst] > rounding[worst] else "a coarse grid"
    return (
        figure,
        f"The largest error is at step {worst + 1}: {ratio[worst]:.1f} times the floor, from {cause}.",
    )


@styled
def divergences(found: dict[str, dict[str, float]], n: int) -> tuple[Figure, str]:
    """KL divergence of each layer's outputs for each calibration set, from n held-out inputs."""
    figure = Figure(figsize=(7.2, 3.2))
    axis = figure.subplots()
    layers = list(next(iter(found.values())))
    for i, (label, values) in enumerate(found.items()):
        look = dict(color=f"C{i + 1}", mfc="none", mew=1.8, ms=11 - 2 * i)  # hollow: none hides another
        axis.plot([values[layer] for layer in layers], layers, MARKS[i], label=label, **look)
    axis.invert_yaxis()
    axis.tick_params(axis="y", labelsize=8)
    axis.set(xlabel="KL divergence in nats (smaller is better)", xscale="log")
    axis.set_title(f"Layer outputs, full precision against quantized, {n} held-out inputs")
    figure.legend(loc="outside lower center", ncols=len(found), fontsize=8, title="calibrated on")
    means = "; ".join(f"{label} {sum(v.values()) / len(v):.4f}" for label, v in found.items())
    return figure, f"Mean KL divergence over {len(layers)} layers, {n} held-out inputs: {means} nats."
