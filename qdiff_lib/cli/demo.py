"""The demonstration: one model in full precision and quantized in three ways, in pictures and numbers."""

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from matplotlib.figure import Figure
from torch import Tensor

from ..calibration.record import record
from ..diffusion.pipelines import with_sampler
from ..diffusion.sampling import Samples, sample
from ..engines.run import fastest_engine, run_on
from ..evaluation.figures import samples_figure, trajectory_figure
from ..evaluation.scores import score
from ..evaluation.trajectory_errors import trajectory_mse
from ..graph.cost import bops, layer_bits_of, layer_costs
from ..io.checkpoint import save_quantized
from ..io.models import load
from ..io.shipped_data import verified
from ..ptq.quantize import quantize
from ..recipes.recipe import METHOD_NAMES, Recipe
from ..utils.files import atomic_path, write_json

MODEL = "ddpm-fashion"
IMAGES = 64  # images whose trajectories are compared
SCORED = 128  # images that are compared with real images by the Frechet distance
STEPS = 20  # denoising steps
TURNS = 3  # how often each drawing is timed
EDGE_BITS = 16  # bits of the first and last layer with Q-Diffusion: see Grids.edge_bits
AFTER_UNITS = dict(network_iterations=120, lr_network=1e-3, lr_codes=1e-3, bias_correction_images=32)
"""The stages after the last unit for Q-Diffusion, if the profile has none, as "tiny".

Without them the error depends on the seed and on the rounding of the processor: it was from 0.015 to more
than 0.06 of linear's error. With both stages it was from 0.003 to 0.022, in three runs.
"""
PROMISE = 0.05  # on every machine, Q-Diffusion's last-step MSE is at most this share of linear's at W4A8


@dataclass
class Run:
    """One row of the table: a method, its pipeline and its images.

    weights, activations: bits. bytes: size of the file of weights. seconds: duration of the quantization,
    with the calibration set. engine: what computes the network. drawing: seconds to draw ``IMAGES`` images,
    or None if it was not timed.
    """

    method: str
    weights: int
    activations: int
    pipe: DiffusionPipeline
    samples: Samples
    bytes: int
    seconds: float
    engine: str = "simulated"
    drawing: float | None = None

    @property
    def label(self) -> str:
        """The name of the row in figures and in the table."""
        if self.method == "fp":
            return "full precision"
        return f"{METHOD_NAMES[self.method]} W{self.weights}A{self.activations}"


def demo(out: Path, profile: str = "tiny") -> dict:
    """Run the demonstration and write ``report.json``, ``samples.png`` and ``trajectory.png`` to ``out``.

    profile: the amount of work, a key of ``PROFILES``. Returns the report: a row for each method, and the
    floor, which is the Frechet distance between real images.
    """
    out = Path(out)
    pipe = with_sampler(load(MODEL), "ddim")
    print(f"1/4  {IMAGES} images of {MODEL} in full precision, {STEPS} steps each", flush=True)
    runs = [Run("fp", 32, 32, pipe, drawn(pipe), weights_file(MODEL), 0.0)]
    show(runs, out)
    plain = Recipe.linear(4, 8, profile)
    start = time.monotonic()
    how = plain.calibration
    calibration = record(pipe, how.rule, how.samples, how.steps, plain.seed)
    recording = time.monotonic() - start
    for stage, recipe in (
        ("2/4", Recipe.linear(8, 8, profile)),
        ("3/4", plain),
        ("4/4", learned_recipe(profile)),
    ):
        print(f"{stage}  {recipe.method} W{recipe.grids.weights}A{recipe.grids.activations}", flush=True)
        engine = fastest_engine(pipe) if stage == "4/4" else "simulated"
        runs.append(quantized_run(pipe, recipe, calibration, out, recording, engine))
        show(runs, out)
    time_drawing(runs[0], runs[-1])
    report = reported(runs)
    write_json(out / "report.json", report)
    print(table(runs, report))
    print(f"pictures and numbers: {out}/samples.png, {out}/trajectory.png, {out}/report.json")
    return report


def learned_recipe(profile: str, **changes) -> Recipe:
    """The recipe of the row Q-Diffusion; ``changes``: other values of its fields."""
    recipe = Recipe.qdiffusion(4, 8, profile, edge_bits=EDGE_BITS)
    stages = {} if recipe.whole_network.network_iterations else AFTER_UNITS
    return recipe.replace(**{**stages, **changes})


def drawn(pipe: DiffusionPipeline) -> Samples:
    """Draw the images whose trajectories are compared, from the same noise for every method."""
    return sample(pipe, IMAGES, STEPS, record=True, progress=True)


def weights_file(name: str) -> int:
    """The size in bytes of the file of UNet weights of an embedded model."""
    return verified(f"models/{name}/unet/diffusion_pytorch_model.safetensors").stat().st_size


def quantized_run(pipe, recipe: Recipe, calibration, out: Path, recording: float, engine: str) -> Run:
    """Quantize, save, and draw the images by ``engine``.

    recording: seconds in which the calibration set was drawn.
    """
    quantized = quantize(pipe, recipe, calibration)
    seconds = recording + quantized.unet.quantization.seconds
    folder = out / f"{recipe.method}-w{recipe.grids.weights}a{recipe.grids.activations}"
    size = save_quantized(quantized, folder).stat().st_size
    bits = (recipe.grids.weights, recipe.grids.activations)
    executed = run_on(quantized, engine)
    return Run(recipe.method, *bits, executed, drawn(executed), size, seconds, engine)


def time_drawing(full: Run, quantized: Run) -> None:
    """Time full precision and integers in turns, if an engine computes integers here; keep the medians."""
    if quantized.engine == "simulated":
        return
    print(f"{IMAGES} images in full precision and in integers, {TURNS} times in turns", flush=True)
    times = {id(full): [], id(quantized): []}
    for run in (full, quantized) * TURNS:
        start = time.perf_counter()
        sample(run.pipe, IMAGES, STEPS)
        times[id(run)].append(time.perf_counter() - start)
    for run in (full, quantized):
        run.drawing = round(statistics.median(times[id(run)]), 2)


def show(runs: list[Run], out: Path) -> None:
    """Write both figures with the methods that are finished."""
    rows = {run.label: run.samples.images for run in runs}
    save(
        samples_figure(rows, f"{MODEL}, {STEPS} DDIM steps; each column starts from the same noise"),
        out / "samples.png",
    )
    if len(runs) > 1:
        title = f"Error accumulates: {MODEL}, {IMAGES} trajectories"
        save(
            trajectory_figure({run.label: errors(run, runs[0]) for run in runs[1:]}, title),
            out / "trajectory.png",
        )


def save(figure: Figure, path: Path) -> None:
    """Write a figure, atomically."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150)


def errors(run: Run, reference: Run) -> Tensor:
    """Mean squared error of each denoising step against ``reference``, (T,)."""
    return trajectory_mse(reference.samples.trajectory, run.samples.trajectory)


def reported(runs: list[Run]) -> dict:
    """Score the images of every method; returns the report with all numbers."""
    costs = layer_costs(runs[0].pipe.unet)
    rows, floor = [], None
    for run in runs:
        print(f"Frechet distance of {SCORED} images, {run.label}", flush=True)
        more = sample(run.pipe, SCORED - IMAGES, STEPS, first=IMAGES, progress=True).images
        scores = score(torch.cat([run.samples.images, more]))
        floor = scores.floor
        row = {
            "method": run.method,
            "weights": run.weights,
            "activations": run.activations,
            "bytes": run.bytes,
        }
        row["bops"] = bops(costs, *layer_bits_of(run.pipe.unet, costs))
        row["trajectory_mse"] = float(errors(run, runs[0])[-1])
        row |= {"frechet": scores.frechet, "frechet_n": scores.n, "seconds": round(run.seconds, 1)}
        row |= {"engine": run.engine, "drawing_seconds": run.drawing}
        rows.append(row)
    return {"model": MODEL, "steps": STEPS, "images": IMAGES, "rows": rows, "floor": floor}


def drawing_time(row: dict) -> str:
    """The time to draw the images, or a dash if it was not measured."""
    return "-" if row["drawing_seconds"] is None else f"{row['drawing_seconds']:.1f} s"


def table(runs: list[Run], report: dict) -> str:
    """The report as a table in plain text."""
    lines = [
        f"{'method':<20}{'size':>9}{'G BOPs':>9}{'last-step MSE':>15}{'Frechet*':>10}{'calibration':>13}"
        f"{f'{IMAGES} images':>12}"
    ]
    for run, row in zip(runs, report["rows"], strict=True):
        size, giga = f"{row['bytes'] / 1e6:.2f} MB", f"{row['bops'] / 1e9:.1f}"
        lines.append(
            f"{run.label:<20}{size:>9}{giga:>9}{row['trajectory_mse']:>15.5f}{row['frechet']:>10.1f}"
            f"{row['seconds']:>11.0f} s{drawing_time(row):>12}"
        )
    note = (
        f"* of the shipped Fashion-MNIST classifier's features, n = {SCORED}; not FID. "
        f"Real against real images: {report['floor']:.1f}"
    )
    if runs[-1].engine != "simulated":
        note += (
            f"\n{IMAGES} images: the median of {TURNS} times. Full precision runs in torch, Q-Diffusion in "
            f"integers by {runs[-1].engine}.\nThe other rows only simulate integers: their time says nothing."
        )
    note += (
        f"\nQ-Diffusion here has its first and last layer at {EDGE_BITS} bits: size and BOPs count them so.\n"
        "After its units come the two stages that the README describes below its profiles."
    )
    return "\n".join(["", *lines, note, ""])
