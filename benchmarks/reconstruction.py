"""Block reconstruction: seconds and peak memory, beside the naive scheme that re-runs the prefix.

Each scheme has a fresh process, so that its memory is its own. Both go through the units in execution order,
in turns: while one works on unit k the other waits, and each unit the other one begins.
"""

import multiprocessing
import resource
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import common
import psutil
from naive import NaiveReconstruction
from safetensors.torch import load_file
from summary import UnitTime, evenly_spaced, summarize
from tqdm import tqdm

from qdiff_lib.layers import restore_state
from qdiff_lib.recipes import Recipe
from qdiff_lib.reconstruction import UnitFitter, reconstruct
from qdiff_lib.resume import UnitReport
from qdiff_lib.surgery import example_inputs, insert_quantizers
from qdiff_lib.tracing import trace

MEMORY_GB = 4.0  # the library's default


@dataclass(frozen=True)
class Job:
    """One size: ``naive_units`` is how many units the naive scheme is timed on; None means all."""

    samples: int
    naive_units: int | None
    iterations: int = 20
    step_iterations: int = 5
    memory_gb: float = MEMORY_GB
    work: Path | None = None

    def recipe(self) -> Recipe:
        numbers = dict(iterations=self.iterations, step_iterations=self.step_iterations)
        return Recipe.qdiffusion(4, 8, profile="tiny", samples=self.samples, **numbers)


JOBS = (Job(512, None), Job(1024, 0), Job(4096, 6))
QUICK_JOBS = (Job(4, None, 2, 1), Job(6, 2, 2, 1))


def measure(quick: bool = False, full: bool = False) -> list[dict]:
    """One summary for each size; ``full`` times the naive scheme on every unit at every size."""
    jobs = QUICK_JOBS if quick else JOBS
    if full:
        jobs = [Job(**{**asdict(job), "naive_units": None}) for job in jobs]
    return [measure_job(job) for job in jobs]


def measure_job(job: Job) -> dict:
    """Run both schemes on one size, in turns. Spilled activations go to ``build/``."""
    build = common.ROOT / "build"
    build.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=build) as folder:
        job = Job(**{**asdict(job), "work": Path(folder)})
        workers = {"ours": Worker(run_ours, job)}
        if job.naive_units != 0:
            workers["naive"] = Worker(run_naive, job)
        names = [worker.receive() for worker in workers.values()][0]
        chosen = {
            "ours": range(len(names)),
            "naive": evenly_spaced(len(names), job.naive_units),
        }
        times = take_turns(workers, chosen, names, f"N = {job.samples:,}")
        memory = {name: worker.finish() for name, worker in workers.items()}
    return summarize(job, names, times, memory)


def take_turns(workers: dict, chosen: dict, names: list[str], title: str) -> dict[str, list[UnitTime]]:
    """The times of every scheme on its chosen units; the order within a pair alternates."""
    times = {name: [] for name in workers}
    for k in tqdm(range(len(names)), title, mininterval=2):
        for scheme in sorted(workers, reverse=k % 2 == 0):
            if k in chosen[scheme]:
                times[scheme].append(workers[scheme].ask(k))
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
    """What both schemes work on, and the resident memory once the model is loaded."""

    def __init__(self, job: Job):
        self.full = common.model().unet.eval().requires_grad_(False)
        self.baseline = psutil.Process().memory_info().rss
        self.recipe = job.recipe()
        self.inputs = common.random_inputs(self.full, job.samples)
        self.trace = trace(self.full, example_inputs(self.full))
        self.quantized = insert_quantizers(self.full, self.recipe, self.trace)
        self.names = [unit.name for unit in self.trace.units]
        self.iterations = {"weights": 0.0, "steps": 0.0}
        self.time_iterations()

    def time_iterations(self) -> None:
        """From here on, add up the seconds of ``UnitFitter.minimize``, where all iterations happen."""
        original = UnitFitter.minimize

        def minimize(fitter, optimizer, iterations, penalty, schedule=None):
            start = time.monotonic()
            original(fitter, optimizer, iterations, penalty, schedule)
            self.iterations["steps" if schedule else "weights"] += time.monotonic() - start

        UnitFitter.minimize = minimize

    def unit_time(self, report: UnitReport, start: float) -> UnitTime:
        """The times of the unit that began at ``start`` and ends now."""
        seconds = time.monotonic() - start
        found = UnitTime(report.index, report.error, seconds, report.seconds, **self.iterations)
        self.iterations = dict.fromkeys(self.iterations, 0.0)
        return found

    def memory(self) -> dict:
        """Bytes: resident with the model loaded, and the most since the process began."""
        return {"baseline": self.baseline, "peak": peak_rss()}


def peak_rss() -> int:
    """The most bytes that this process has had in RAM: the kernel's own high-water mark."""
    status = Path("/proc/self/status")  # not ru_maxrss, which a new process inherits from its parent there
    for line in status.read_text().splitlines() if status.exists() else []:
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def run_ours(connection, job: Job) -> None:
    """The library's own ``reconstruct``: its callback, between units, waits for the next turn."""
    scene = Scene(job)
    connection.send(scene.names)
    connection.recv()
    start = time.monotonic()

    def turn(report: UnitReport) -> None:
        nonlocal start
        connection.send(scene.unit_time(report, start))
        connection.recv()
        start = time.monotonic()

    reconstruct(
        scene.full,
        scene.quantized,
        scene.trace,
        scene.inputs,
        scene.recipe,
        job.work,
        memory_gb=job.memory_gb,
        progress=False,
        callback=turn,
    )
    connection.send(scene.memory())


def run_naive(connection, job: Job) -> None:
    """The naive scheme; units that it is not asked for are taken from the other's files, untimed."""
    scene = Scene(job)
    naive = NaiveReconstruction(scene.full, scene.quantized, scene.trace, scene.inputs, scene.recipe)
    connection.send(scene.names)
    done = 0
    while (k := connection.recv()) is not None:
        for skipped in range(done, k):
            state = load_file(job.work / "units" / f"unit-{skipped:03d}.safetensors")
            restore_state(scene.quantized.get_submodule(scene.names[skipped]), state)
        start = time.monotonic()
        report = naive.reconstruct_unit(k)
        connection.send(scene.unit_time(report, start))
        done = k + 1
    connection.send(scene.memory())
