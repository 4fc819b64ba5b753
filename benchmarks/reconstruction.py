"""Block reconstruction: seconds and peak memory, beside the naive scheme that re-runs the prefix.

Each scheme has a fresh process, so that its memory is its own. Both go through the units in execution order,
in turns: while one works on unit k the other waits, and each unit the other one begins.
"""

import multiprocessing
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import common
import psutil
import torch
from naive import NaiveReconstruction
from safetensors.torch import load_file
from summary import UnitTime, evenly_spaced, summarize
from tqdm import tqdm

from qdiff_lib.graph.model_inputs import example_inputs
from qdiff_lib.graph.tracing import trace
from qdiff_lib.io.quantization import UnitReport
from qdiff_lib.modules.state import restore_state
from qdiff_lib.ptq import reconstruction as library
from qdiff_lib.ptq.activation_store import RowStore
from qdiff_lib.ptq.insertion import insert_quantizers
from qdiff_lib.ptq.memory_budget import GIB, Budget
from qdiff_lib.ptq.run import Run
from qdiff_lib.ptq.work_folder import opened
from qdiff_lib.recipes.recipe import Recipe
from qdiff_lib.utils.provenance import peak_memory

MEMORY_GB = 4.0  # the library's default


@dataclass(frozen=True)
class Job:
    """One size: ``naive_units`` is how many units the naive scheme is timed on; None means all."""

    samples: int
    naive_units: int | None
    iterations: int = 20
    step_size_iterations: int = 5
    memory_gb: float = MEMORY_GB
    work: Path | None = None

    def recipe(self) -> Recipe:
        numbers = dict(iterations=self.iterations, step_size_iterations=self.step_size_iterations)
        return Recipe.qdiffusion(4, 8, profile="tiny", samples=self.samples, **numbers)


JOBS = (Job(512, None), Job(1024, 0), Job(4096, 6))
QUICK_JOBS = (Job(2, 4, 1, 1),)


def measure(quick: bool = False, full: bool = False) -> list[dict]:
    """One summary for each size; ``full`` times the naive scheme on every unit at every size."""
    jobs = QUICK_JOBS if quick else JOBS
    if full:
        jobs = [replace(job, naive_units=None) for job in jobs]
    return [measure_job(job) for job in jobs]


def measure_job(job: Job) -> dict:
    """Run both schemes on one size, in turns. Spilled activations go to ``build/``."""
    build = common.ROOT / "build"
    build.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=build) as folder:
        job = replace(job, work=Path(folder))
        workers = {"ours": Worker(run_ours, job)}
        if job.naive_units != 0:
            workers["naive"] = Worker(run_naive, job)
        names = [worker.receive() for worker in workers.values()][0]  # all are ready once they answered
        chosen = {"ours": range(len(names)), "naive": evenly_spaced(len(names), job.naive_units)}
        times = take_turns(workers, chosen, names, f"N = {job.samples:,}")
        memory = {name: worker.finish() for name, worker in workers.items()}
    return summarize(job, names, times, memory)


def take_turns(workers: dict, chosen: dict, names: list[str], title: str) -> dict[str, list[UnitTime]]:
    """The times of every scheme on its chosen units; the order within a pair alternates."""
    times = {name: [] for name in workers}
    for k in tqdm(range(len(names)), title, mininterval=2):
        for scheme in sorted(workers, reverse=k % 2 == 0):
            if k in chosen[scheme]:
                found, error = workers[scheme].ask(k)
                times[scheme].append(replace(found, error=error))
    return times


class Worker:
    """A scheme in a fresh interpreter that does one unit each time it is asked."""

    def __init__(self, target, job: Job):
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=target, args=(theirs, job), daemon=True)
        self.process.start()
        theirs.close()

    def receive(self):
        """Wait for an answer. Raises RuntimeError if the process ended without one."""
        try:
            return self.connection.recv()
        except EOFError as error:
            raise RuntimeError("a benchmark process stopped; its error is above") from error

    def ask(self, question):
        self.connection.send(question)
        return self.receive()

    def finish(self) -> dict:
        """End the process; returns its memory."""
        memory = self.ask(None)
        self.process.join()
        return memory


class Scene:
    """What both schemes work on, and the resident memory once model and optimizer are loaded."""

    def __init__(self, job: Job):
        self.full = common.model().unet.eval().requires_grad_(False)
        torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])  # the first one imports torch's compiler
        self.baseline = psutil.Process().memory_info().rss
        self.recipe = job.recipe()
        self.inputs = common.random_inputs(self.full, job.samples)
        self.trace = trace(self.full, example_inputs(self.full))
        self.quantized = insert_quantizers(self.full, self.recipe.grids, self.trace)
        self.names = [unit.name for unit in self.trace.units]
        self.start, self.spent, self.cached = 0.0, Counter(), 0

    def watch_store(self) -> None:
        """From here on, keep the most bytes that a ``RowStore`` holds in RAM in ``cached``."""
        original = RowStore.allocate

        def allocate(store, shape):
            rows = original(store, shape)
            self.cached = max(self.cached, store.ram_bytes)
            return rows

        RowStore.allocate = allocate

    def timed(self, owner, name: str, label: Callable[..., str]) -> None:
        """From here on, add the seconds of ``owner.name`` to ``spent[label(arguments)]``."""
        original = getattr(owner, name)

        def wrapper(*args, **kwargs):
            start = time.monotonic()
            original(*args, **kwargs)
            self.spent[label(*args, **kwargs)] += time.monotonic() - start

        setattr(owner, name, wrapper)

    def begin(self) -> None:
        """A unit begins now."""
        self.start, self.spent = time.monotonic(), Counter()

    def end(self, k: int) -> UnitTime:
        """Unit ``k`` ends now; its error is not known yet."""
        labels = {label: self.spent[label] for label in ("fit", "weights", "steps")}
        return UnitTime(k, time.monotonic() - self.start, **labels)

    def memory(self) -> dict:
        """Bytes: resident with the model loaded, the most since the process began, the most in the store."""
        return {"baseline": self.baseline, "peak": peak_memory(), "cached": self.cached}


def kind(fitter, groups, rates, betas=()) -> str:
    """Which iterations this call of ``UnitFitter.minimize`` runs: only those of the weights have betas."""
    return "weights" if betas else "steps"


def run_ours(connection, job: Job) -> None:
    """The library's own ``reconstruct``: its callback, between units, waits for the next turn."""
    scene = Scene(job)
    scene.watch_store()
    scene.timed(library, "fit_unit", lambda *_: "fit")
    scene.timed(library.UnitFitter, "minimize", kind)
    connection.send(scene.names)
    connection.recv()
    scene.begin()

    def turn(report: UnitReport) -> None:
        connection.send((scene.end(report.index), report.error))
        connection.recv()
        scene.begin()

    models = scene.full, scene.quantized, scene.trace
    options = dict(budget=Budget(int(job.memory_gb * GIB)), progress=False, callback=turn)
    how = scene.recipe.rounding, scene.recipe.step_sizes
    with opened(job.work, {"recipe": scene.recipe.to_dict()}, resume=False) as files:
        run = Run(scene.recipe.seed, files=files, **options)
        library.reconstruct(*models, scene.inputs, *how, run)
    connection.send(scene.memory())


def run_naive(connection, job: Job) -> None:
    """The naive scheme; units that it is not asked for are taken from the other's files, untimed."""
    scene = Scene(job)
    naive = NaiveReconstruction(scene.full, scene.quantized, scene.trace, scene.inputs, scene.recipe)
    scene.timed(naive, "fit_unit", lambda *_: "fit")
    scene.timed(library.UnitFitter, "minimize", kind)
    connection.send(scene.names)
    done = 0
    while (k := connection.recv()) is not None:
        for skipped in range(done, k):
            state = load_file(job.work / "units" / f"unit-{skipped:03d}.safetensors")
            restore_state(scene.quantized.get_submodule(scene.names[skipped]), state)
        scene.begin()
        naive.reconstruct_unit(k)
        connection.send((scene.end(k), naive.error(k)))
        done = k + 1
    connection.send(scene.memory())
