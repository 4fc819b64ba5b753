"""Seconds per iteration of block reconstruction, with the cached activations on the GPU, in RAM, in files.

python benchmarks/calibration_speed.py                the paper's CIFAR-10 UNet on an NVIDIA GPU
python benchmarks/calibration_speed.py --device cpu   the same on the CPU (slow)
python benchmarks/calibration_speed.py --quick        a tiny network on the CPU: it only shows that it works

One residual block learns its rounding on the paper's 5,120 inputs, in batches of 32. Weights and inputs are
random: a speed does not depend on them. ``arithmetic`` repeats one batch, so nothing is gathered or copied:
the others can at best be as fast. ``graph`` is the same, recorded once as a CUDA graph. ``simple`` is the
loop as it is usually written: each batch is gathered and copied before it is needed, each weight is computed
alone, and torch's Adam has a launch for each. The result is written after every variant.
"""

import argparse
import copy
import gc
import json
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from gpu_engines import TINY
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from qdiff_lib.calibration.calibration_set import CalibrationSet
from qdiff_lib.graph.model_inputs import example_inputs, flat_inputs
from qdiff_lib.graph.networks import build
from qdiff_lib.graph.tracing import trace
from qdiff_lib.modules.quant_layer import quant_layers
from qdiff_lib.ptq.activation_store import Rows, RowStore
from qdiff_lib.ptq.adam import Adam, adam_numbers, on_device
from qdiff_lib.ptq.arithmetic import float32_arithmetic
from qdiff_lib.ptq.fitting import UnitFitter
from qdiff_lib.ptq.insertion import insert_quantizers
from qdiff_lib.ptq.memory_budget import Budget
from qdiff_lib.ptq.replay import Replay, UnitInputs
from qdiff_lib.recipes.paper_networks import DDPM_CIFAR10
from qdiff_lib.recipes.parts import Grids, Rounding, StepSizes
from qdiff_lib.utils.files import write_json
from qdiff_lib.utils.provenance import provenance

ALL = 2**50  # bytes: no limit
PLACES = {"device": (0, ALL), "ram": (ALL, 0), "files": (0, 0)}  # bytes in RAM, and on the device
UNIT = "up_blocks.3.resnets.0"  # has the largest inputs: 384 channels of 32 x 32 pixels
BETA = (3.5, 2.5)  # of the regularizer, and less 1: in the middle of the annealing


@dataclass(frozen=True)
class Job:
    """What is measured: a unit of a network, on so many inputs, in rounds of so many iterations."""

    config: dict
    unit: str
    samples: int
    batch: int
    rounds: int
    iterations: int
    device: torch.device
    folder: Path | None

    def rounding(self) -> Rounding:
        """One more round than is counted. The regularizer is never off, as in most iterations."""
        total = (self.rounds + 1) * self.iterations
        return Rounding(iterations=total, batch_size=self.batch, warmup=0.0)


class Clock:
    """Called after each iteration; ``seconds``: per iteration in each round after the first."""

    def __init__(self, job: Job):
        self.job, self.count, self.marks = job, 0, []

    def __call__(self) -> None:
        self.count += 1
        if self.count % self.job.iterations == 0:
            if self.job.device.type == "cuda":
                torch.cuda.synchronize()
            self.marks.append(time.perf_counter())

    @property
    def seconds(self) -> list[float]:
        return [(b - a) / self.job.iterations for a, b in zip(self.marks, self.marks[1:], strict=False)]


class Scene:
    """The quantized unit, and the shapes of its arguments."""

    def __init__(self, job: Job):
        torch.manual_seed(0)
        unet = build(job.config).requires_grad_(False)
        found, inputs = trace(unet, example_inputs(unet)), flat_inputs(example_inputs(unet))
        k = [unit.name for unit in found.units].index(job.unit)
        self.job, self.shape = job, found.units[k].shape
        quantized = insert_quantizers(unet, Grids(weights=4, activations=8), found)
        self.unit = quantized.get_submodule(job.unit).to(job.device)
        replay = Replay(quantized.cpu(), found, CalibrationSet(inputs, torch.zeros(1), {}), None)
        self.leaves, self.spec = tree_flatten(replay.arguments(k, slice(0, 1)))
        self.unit.to(job.device)

    def fitter(self, budget: tuple[int, int], folder: Path, clock: Callable) -> UnitFitter:
        """A fitter of a copy of the unit, whose random inputs and targets are where the budget puts them."""
        job, unit = self.job, copy.deepcopy(self.unit)
        store = RowStore(Budget(*budget, job.device), folder)
        leaves = [random_rows(store, job, x.shape[1:]) if isinstance(x, Tensor) else x for x in self.leaves]
        target = random_rows(store, job, self.shape)
        settings = (job.rounding(), StepSizes(), 0, clock)
        fitter = UnitFitter(unit, UnitInputs(leaves, self.spec), target, [], *settings)
        for layer in quant_layers(unit):
            layer.find_weight_range("min_max")
        fitter.store = store  # its files live as long as it does
        return fitter


def random_rows(store: RowStore, job: Job, shape: tuple[int, ...]) -> Rows:
    """Random rows, made on the device; a file is written through to the end."""
    rows = store.allocate((job.samples, *shape))
    for start in range(0, job.samples, 64):
        part = slice(start, min(start + 64, job.samples))
        rows[part] = torch.randn(part.stop - start, *shape, device=job.device)
    return rows


def place(scene: Scene, name: str, folder: Path) -> dict:
    """The library's own fit, with the cache in one place."""
    clock = Clock(scene.job)
    fitter = scene.fitter(PLACES[name], folder, clock)
    fitter.fit_weights()
    copied = {" to ".join(pair): total / clock.count for pair, total in fitter.feed.copied.items()}
    return {"bytes_copied_per_iteration": copied, **summary(clock)}


def parts_of(fitter: UnitFitter) -> list[nn.Module]:
    """Start the rounding of all layers of the unit, and return its parts."""
    fitter.rounded = quant_layers(fitter.unit)
    return [part for layer in fitter.rounded for part in layer.start_rounding()]


def arithmetic(scene: Scene, folder: Path, graph: bool = False) -> dict:
    """The library's iteration, again and again on one batch; ``graph``: recorded as a CUDA graph."""
    clock = Clock(scene.job)
    fitter = scene.fitter(PLACES["device"], folder, clock)
    adam = Adam([[part.v for part in parts_of(fitter)]])
    numbers, beta = (next(on_device([row], scene.job.device)) for row in (adam_numbers([[1e-3]])[0], BETA))
    iterate = partial(fitter.iterate, fitter.rows(torch.arange(scene.job.batch)), adam, numbers, beta)
    run = recorded(iterate).replay if graph else iterate
    for _ in range(fitter.rounding.iterations):
        run()
        clock()
    return summary(clock)


def recorded(iterate: Callable) -> "torch.cuda.CUDAGraph":
    """The iteration as a CUDA graph, after a few that are not recorded."""
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            iterate()
    torch.cuda.current_stream().wait_stream(stream)
    with torch.cuda.graph(graph):
        iterate()
    return graph


def simple(scene: Scene, folder: Path) -> dict:
    """The loop as it is usually written, with the cache in RAM."""
    clock = Clock(scene.job)
    fitter = scene.fitter(PLACES["ram"], folder, clock)
    parts = parts_of(fitter)
    optimizer = torch.optim.Adam([part.v for part in parts], lr=1e-3)
    for _ in range(fitter.rounding.iterations):
        loss = fitter.loss(fitter.rows(fitter.draw()))
        loss = loss + fitter.rounding.regularization * sum(part.regularizer(BETA[0]) for part in parts)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        clock()
    return summary(clock)


def summary(clock: Clock) -> dict:
    """The median of the rounds, all of them, and the most memory of the GPU so far."""
    peak = torch.cuda.max_memory_allocated() if clock.job.device.type == "cuda" else None
    return {
        "seconds_per_iteration": statistics.median(clock.seconds),
        "all": clock.seconds,
        "peak_bytes": peak,
    }


def measure(job: Job, found: dict, out: Path) -> None:
    """Measure every variant, into ``found``, which is written to ``out`` each time."""
    variants = {"arithmetic": arithmetic, **{name: partial(place, name=name) for name in PLACES}}
    variants["simple"] = simple
    if job.device.type == "cuda":  # last: a failure while recording leaves the GPU unusable
        variants["graph"] = partial(arithmetic, graph=True)
    scene = Scene(job)
    for name, variant in variants.items():
        with tempfile.TemporaryDirectory(dir=job.folder) as folder, float32_arithmetic(job.device):
            gc.collect()
            if job.device.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            try:
                found["results"][name] = variant(scene, folder=Path(folder))
            except RuntimeError as error:
                if name != "graph":
                    raise
                found["results"][name] = {"error": str(error)}
        write_json(out, found)
        print(name, json.dumps(found["results"][name]), flush=True)


def main() -> None:
    args = parse()
    device = (
        torch.device("cuda", torch.cuda.current_device()) if args.device == "cuda" else torch.device("cpu")
    )
    if args.quick:
        job = Job(TINY, "up_blocks.0.resnets.0", 16, 4, 2, 3, device, args.folder)
    else:
        job = Job(DDPM_CIFAR10, UNIT, args.samples, 32, 5, args.iterations, device, args.folder)
    command = shlex.join(["python", "benchmarks/calibration_speed.py", *sys.argv[1:]])
    about = {"measured": provenance(command), "quick": args.quick, "device": device.type, "unit": job.unit}
    sizes = {"samples": job.samples, "batch": job.batch, "iterations_per_round": job.iterations}
    measure(job, {**about, **sizes, "results": {}}, args.out)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), help="default: cuda; with --quick: cpu")
    parser.add_argument("--quick", action="store_true", help="a tiny network")
    parser.add_argument("--samples", type=int, default=5120, help="cached inputs; default: 5120 (10.9 GB)")
    parser.add_argument("--iterations", type=int, default=40, help="in each of 6 rounds; default: 40")
    parser.add_argument("--folder", type=Path, help="for files; default: the system's for temporary files")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"), metavar="FILE")
    args = parser.parse_args()
    args.device = args.device or ("cpu" if args.quick else "cuda")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no NVIDIA GPU; --device cpu takes long, --quick runs in seconds")
    return args


if __name__ == "__main__":
    main()
