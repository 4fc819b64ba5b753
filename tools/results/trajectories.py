"""Along the steps: error against full precision, ranges of activations, divergence of the layers' outputs."""

import statistics

import torch
from matplotlib.figure import Figure

from qdiff_lib.course.figures import lesson_01, lesson_02

from .source import fixed, flow, short, table

SHOWN = 10  # layers of the divergence table


def error_per_step(data: dict) -> str:
    titles = ["", "MSE x 1000, first step", "last step", "SNR (dB), last step", "last over first"]
    rows = []
    for row in data["rows"]:
        first, last = row["mse"][0], row["mse"][-1]
        cells = [short(first * 1e3), short(last * 1e3), fixed(row["snr_db"][-1], 1), short(last / first, 2)]
        rows.append([row["label"], *cells])
    last = {row["label"]: row["mse"][-1] for row in data["rows"]}
    learned, plain = (last[label] / last["linear W8A32"] for label in ("Q-Diffusion W4A32", "linear W4A32"))
    before = flow(f"""
        x after each of {data["steps"]} steps, compared with full precision from the same noise. Mean of
        {data["n"]} runs.
    """)
    after = flow(f"""
        In the paper's Figure 3 the error of linear INT8 stays low, that of linear INT4 grows, and that of
        calibrated INT4 stays near INT8. Here, after the last step, calibrated INT4 has {learned:.1f} times
        the error of INT8. Linear INT4 has {plain:.0f} times.
    """)
    return f"{before}\n\n{table(titles, rows)}\n\n{after}"


def curves(data: dict) -> Figure:
    """The weights-only rows, as lesson 1 draws them."""
    rows = [row for row in data["rows"] if row["activations"] == 32]
    mse, snr = ({row["label"]: torch.tensor(row[name]) for row in rows} for name in ("mse", "snr_db"))
    return lesson_01.error_curves(mse, snr, data["n"])


def activation_ranges(data: dict) -> str:
    covered = lesson_02.shares(data)  # (layers, steps)
    half = data["steps"] // 2
    near, far = ((covered[:, k:] - covered[:, :-k]).abs().mean().item() for k in (1, half))
    return flow(f"""
        The range of every layer's input at each step, as a share of its range over all steps. Full
        precision, {data["n"]:,} runs of {data["steps"]} steps. The paper's Figure 5 (DDIM with 100 steps,
        1,000 samples) shows similar ranges at neighbouring steps, and different ranges at steps far apart.
        Here a layer's share changes by {near:.1%} from one step to the next, and by {far:.1%} over half of
        the run (mean of all layers and steps).
    """)


def between_steps(data: dict) -> str:
    rows = []
    for row in data["rows"]:
        cells = [row["label"]]
        for name, factor in (("mse", 1e3), ("offset", 1e3)):
            for steps in (row["seen"], sorted({*range(data["steps"])} - {*row["seen"]})):
                sizes = [abs(row[name][step]) for step in steps]
                cells.append(short(factor * statistics.median(sizes)) if sizes else "")
        rows.append(cells)
    before = flow(f"""
        The predicted noise of W{data["weights"]}A{data["activations"]} networks, compared with full
        precision on the same {data["inputs"]} inputs. The inputs come from all {data["steps"]} quadratic
        steps of runs that were not used for calibration. The table has two medians, times 1,000: that of the
        MSE, and that of the size of the mean error. Each is given for the steps with calibration inputs and
        for the steps between them:
    """)
    titles = ["inputs from", "MSE, steps with inputs", "MSE, between", "mean error, steps with inputs"]
    after = "The error is larger at steps without calibration inputs."
    return f"{before}\n\n{table([*titles, 'mean error, between'], rows)}\n\n{after}"


def layer_divergence(data: dict) -> str:
    means = {row["label"]: [statistics.fmean(layer) for layer in row["values"]] for row in data["rows"]}
    labels = list(means)
    first, last = means[labels[0]], means[labels[-1]]
    order = sorted(range(len(first)), key=lambda i: -first[i])[:SHOWN]
    rows = [[data["layers"][i], *(short(means[label][i]) for label in labels)] for i in order]
    rows.append(["median of all layers", *(short(statistics.median(means[label])) for label in labels)])
    text = flow(f"""
        KL(full precision, quantized) of the outputs of a layer in nats, mean over the steps. Both networks
        read the same {data["inputs"]} inputs from {data["steps"]} steps of runs that were not used for
        calibration. Estimator: histograms with {data["bins"]} equal bins over the joint range of both, and
        {data["pseudocount"]} added to each count. The {SHOWN} layers with the largest divergence of
        {labels[0]}:
    """)
    smaller = sum(a > b for a, b in zip(first, last, strict=True))
    compared = flow(f"""
        {labels[-1]} has a smaller divergence than {labels[0]} in {smaller} of {len(first)} layers. A
        `time_emb_proj` reads only the time, which is the same for all inputs of a step. So its histogram has
        one peak for each channel. Even a small error moves a peak to another bin, and this counts as much as
        a large error.
    """)
    return "\n\n".join([text, table(["layer", *labels], rows), compared])
