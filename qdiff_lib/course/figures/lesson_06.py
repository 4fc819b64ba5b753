"""Figures of lesson 6: pictures, accumulators, a roofline, time by kind of operation, Amdahl's law."""

from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from ...evaluation.figures import OKABE_ITO
from ..integer_speed import Execution, Speed
from .pictures import grey_distance, image_rows
from .style import plain_log_ticks, styled

ORANGE, SKY, GREEN, RED, PINK, BLUE = OKABE_ITO[1:]
GPU_BASE = "bf16 graph"  # the variant with which the others are compared
GPU_STEPS = 50  # calls for an image, in benchmarks/gpu_engines.py
RATES = [2 ** (i / 8) for i in range(41)]  # from 1 to 32


@styled
def pictures(rows: Mapping[str, Tensor], columns: int = 8) -> tuple[Figure, str]:
    """The first images of each arithmetic, uint8 (N, C, H, W): full, simulated, integers."""
    figure = image_rows(rows, "Each column starts from the same noise", columns)
    full, simulated, integers = rows.values()
    return figure, (
        f"{min(columns, len(full))} pictures, computed in {len(rows)} ways. Mean over {len(full)} pictures: "
        f"a pixel differs by {grey_distance(simulated, full):.1f} of 255 grey levels between full precision "
        f"and simulation, and by {grey_distance(integers, simulated):.1f} between simulation and integers."
    )


def wrapped(sums: Tensor, bits: int) -> Tensor:
    """What whole numbers become in a register of ``bits`` bits with a sign: too large ones wrap around."""
    half = 2 ** (bits - 1)
    return (sums + half) % (2 * half) - half


@styled
def running_sums(products: Tensor) -> tuple[Figure, str]:
    """The running sum of whole products (n,) in accumulators of 8, 16 and 32 bits."""
    figure = Figure(figsize=(8.2, 3.0))
    axes, sums, listed = figure.subplots(1, 3), products.cumsum(0), []
    for axis, bits, colour in zip(axes, (8, 16, 32), (RED, ORANGE, BLUE), strict=True):
        held = wrapped(sums, bits)
        axis.plot(range(1, len(sums) + 1), sums.tolist(), color="0.7", linewidth=3, label="true sum")
        axis.plot(range(1, len(sums) + 1), held.tolist(), color=colour, marker=".", label=f"int{bits}")
        axis.set(title=f"accumulator of {bits} bits", xlabel="products added")
        axis.legend(loc="upper left")
        wrong = (held != sums).nonzero()
        listed.append(
            f"{bits} bits: " + (f"wrong from product {int(wrong[0]) + 1} on" if len(wrong) else "right")
        )
    axes[0].set(ylabel="sum")
    return figure, f"The sum of {len(sums)} products, true value {int(sums[-1]):,}. {'; '.join(listed)}."


@styled
def channel_pictures(sums: Tensor, bits: int) -> tuple[Figure, str]:
    """One output channel (H, W) of whole sums, and what a register of ``bits`` bits makes of it."""
    figure = Figure(figsize=(6.8, 3.0))
    held = wrapped(sums, bits)
    limit = sums.abs().max().item()
    axes = figure.subplots(1, 2)
    for axis, values, title in zip(axes, (sums, held), ("int64", f"int{bits}"), strict=True):
        image = axis.imshow(values.tolist(), cmap="RdBu", vmin=-limit, vmax=limit)
        axis.set(title=f"accumulator {title}", xticks=[], yticks=[])
        axis.grid(False)
    figure.colorbar(image, ax=axes, label="sum", shrink=0.75)  # one for both: they have the same limits
    share = (held != sums).double().mean().item()
    return figure, (
        f"One output channel of {tuple(sums.shape)} sums, from {sums.min():,} to {sums.max():,}. With {bits} "
        f"bits {share:.0%} of them wrap around to another number."
    )


@styled
def roofline(speed: Speed) -> tuple[Figure, str]:
    """Each product of the network: its rate over its intensity, below the roofs of this machine."""
    figure = Figure(figsize=(7.6, 3.9))
    axis, rates, listed = figure.subplots(), speed.rates, []
    rows = (("float", speed.floats, ORANGE, "o"), ("int8", speed.integers, BLUE, "s"))
    x = [2 ** (i / 4) for i in range(-4, 37)]
    for name, run, colour, marker in rows:
        roof = [min(rates[name], rates["memory"] * value) for value in x]
        axis.plot(x, roof, color=colour, label=f"roof, {name}: {rates[name]:.0f}")
        size = [2 + 60 * p.seconds / max(q.seconds for q in run.products) for p in run.products]
        places = [p.intensity for p in run.products], [p.rate for p in run.products]
        axis.scatter(*places, size, colour, marker=marker, alpha=0.6)
        axis.plot([], [], marker, color=colour, alpha=0.6, label=f"one layer, {name}")
        whole = sum(p.macs for p in run.products) / sum(p.seconds for p in run.products) / 1e9
        listed.append(f"{name}: roof {rates[name]:.0f}, all products together {whole:.0f}")
    axis.set(xscale="log", yscale="log", ylim=(rates["float"] / 300, 3 * max(rates.values())))
    axis.set(xlabel="products per byte read or written", ylabel="10⁹ products per second")
    axis.set_title("Products of this network on this machine (size: time)")
    axis.legend(loc="lower right", ncols=2)
    return figure, (
        f"Rates in billions of multiply-accumulates per second. {'; '.join(listed)}. Memory is copied at "
        f"{rates['memory']:.0f} GB/s. Most numbers that a layer reads are in the caches, which are faster."
    )


@styled
def time_by_kind(runs: Mapping[str, Execution]) -> tuple[Figure, str]:
    """Milliseconds of a call, by kind of operation; one bar for each arithmetic."""
    figure = Figure(figsize=(7.6, 2.6))
    axis, listed = figure.subplots(), []
    kinds = list(next(iter(runs.values())).kinds)
    left = dict.fromkeys(runs, 0.0)
    for kind, colour in zip(kinds, (BLUE, ORANGE, PINK, GREEN), strict=True):
        for name, run in runs.items():
            label = kind if name == next(iter(runs)) else None
            axis.barh(name, run.kinds[kind], 0.5, left[name], color=colour, label=label)
            left[name] += run.kinds[kind]
    for name, run in runs.items():
        parts = ", ".join(f"{kind} {run.kinds[kind]:.1f}" for kind in kinds)
        listed.append(f"{name} {sum(run.kinds.values()):.1f} ms ({parts})")
    axis.set(xlabel="milliseconds of one call, as the engine counts them")
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    axis.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(kinds))
    return figure, f"Time by kind of operation. {'; '.join(listed)}."


def amdahl(share: float, rate: float) -> float:
    """The speed-up of the whole if a ``share`` of its time (0 to 1) becomes ``rate`` times faster."""
    return 1 / (1 - share + share / rate)


@styled
def amdahl_curve(percent: float) -> tuple[Figure, str]:
    """The whole's speed-up over that of the products, which take ``percent`` % of the time."""
    figure = Figure(figsize=(5.2, 3.3))
    axis, share = figure.subplots(), percent / 100
    axis.plot(RATES, RATES, color="0.7", linestyle=":", label="products alone")
    axis.plot(RATES, [amdahl(share, rate) for rate in RATES], color=BLUE, label="whole network")
    limit = f"The limit is {1 / (1 - share):.1f}." if share < 1 else "There is no limit."
    if share < 1:
        axis.axhline(1 / (1 - share), color=ORANGE, linestyle="--", label="limit")
    axis.set(xscale="log", yscale="log", ylim=(0.9, 36), xlabel="products: times faster")
    axis.set(ylabel="network: times faster", xticks=[1, 2, 4, 8, 16, 32], xticklabels=[1, 2, 4, 8, 16, 32])
    axis.minorticks_off()
    plain_log_ticks(axis)
    axis.legend(loc="upper left")
    axis.set_title(f"Products take {percent} % of the time")
    return figure, (
        f"If products take {percent} % of the time and become 4 times as fast, the network becomes "
        f"{amdahl(share, 4):.2f} times as fast. {limit}"
    )


def speed_table(cases: Sequence[Mapping]) -> str:
    """The recorded medians of ``benchmarks/engines.py``, a line for each network and number of images."""
    names = list(dict.fromkeys(name for case in cases for name in case["milliseconds"]))
    lines = []
    for case in cases:
        lines.append(f"{case['network']}, {case['batch']} images a call")
        base = case["milliseconds"]["torch fp32"]["median"]
        for name in (name for name in names if name in case["milliseconds"]):
            median = case["milliseconds"][name]["median"]
            lines.append(f"    {name:32}{median:10.1f} ms {base / median:8.2f} times torch fp32")
    return "\n".join(lines)


def largest_gains(cases: Sequence[Mapping]) -> dict[str, float]:
    """How many times as fast as torch fp32 OpenVINO's integers are at best, by network."""
    gains: dict[str, float] = {}
    for case in cases:
        spent = {name: found["median"] for name, found in case["milliseconds"].items()}
        gain = spent["torch fp32"] / spent["OpenVINO integers"]
        gains[case["network"]] = max(gain, gains.get(case["network"], 0.0))
    return gains


def gpu_table(networks: Mapping[str, Mapping]) -> str:
    """The recorded results of ``benchmarks/gpu_engines.py``: milliseconds of a call of each variant."""
    lines = []
    for name, network in networks.items():
        for result in network["results"]:
            lines.append(f"{name}, {result['batch']} images a call")
            times = gpu_milliseconds(result)
            for kind, took in times.items():
                ratio = times[GPU_BASE] / took
                lines.append(f"    {kind:32}{took:10.1f} ms {ratio:8.2f} times bf16 in one CUDA graph")
    return "\n".join(lines)


def gpu_milliseconds(result: Mapping) -> dict[str, float]:
    """Milliseconds of a call by variant. A variant that was ready too late has only its first calls."""
    scale = 1000 * result["batch"] / GPU_STEPS
    times = {name: scale * found["seconds_per_image"] for name, found in result["variants"].items()}
    late = result.get("first_calls", {})
    return times | {name: 1000 * found["seconds_per_call"] for name, found in late.items()}


def largest_channel(sums: Tensor) -> Tensor:
    """The image (H, W) whose sum is largest in size, of sums (B, C, H, W)."""
    return torch.flatten(sums, 0, 1)[int(sums.abs().amax((2, 3)).flatten().argmax())]
