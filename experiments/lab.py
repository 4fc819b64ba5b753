"""What the experiments share: one model, its calibration sets, quantized forms, trajectories and scores.

Everything is cached (``Cache``): the W4A8 model that is shipped is also a rung of the ladder and a curve of
the error per step, and is calibrated once. If the cache has several processes, each of them runs all of the
experiments, and they record, calibrate and draw together.
"""

import json
import shutil
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from apart import apart
from code_of_results import code_hash
from diffusers import DiffusionPipeline
from diffusers.utils.logging import disable_progress_bar
from safetensors.torch import save
from settings import Settings
from torch import Tensor

from qdiff_lib import Recipe, load, quantize, record, sample, save_quantized, score, with_sampler
from qdiff_lib.calibration.calibration_set import CalibrationSet
from qdiff_lib.diffusion.sampling import Samples
from qdiff_lib.evaluation.scores import Scores, mean_and_std, real_scores
from qdiff_lib.evaluation.trajectory_errors import trajectory_mse, trajectory_snr
from qdiff_lib.io.quantization import UnitReport
from qdiff_lib.recipes.recipe import METHOD_NAMES
from qdiff_lib.utils.cache import Cache
from qdiff_lib.utils.files import write_json
from qdiff_lib.utils.hashing import tensors_hash
from qdiff_lib.utils.provenance import commit, peak_memory

SEED = 0  # of the noise that all models start from; recipes have a seed of their own


@dataclass(frozen=True)
class Quantized:
    """pipe: the quantized pipeline. seconds: recording inputs and calibrating. bytes: of the packed file.

    memory: most bytes in RAM of a process that only calibrates; memory_before: when it had loaded the model
    and the inputs. Both are None if several processes calibrated.
    """

    pipe: DiffusionPipeline
    seconds: float
    bytes: int
    memory: int | None
    memory_before: int | None


class Lab:
    """settings: how much work. cache: where results are kept. pipe: the full-precision model."""

    def __init__(self, settings: Settings, cache: Cache):
        disable_progress_bar()  # of loading a model
        self.settings, self.cache, self.processes = settings, cache, cache.processes
        self.pipe = settings.pipeline()
        self.ddim = with_sampler(self.pipe, "ddim")
        self.features = cache.folder / "features"
        self.model = tensors_hash(self.pipe.unet.state_dict())

    def made_by(self, *files: str, **decisive) -> dict:
        """What decides a result: the model's weights, the code of the library and of ``files``, and these."""
        return {"model": self.model, "code": code_hash(__file__, *files), **decisive}

    def sampled(self, pipe: DiffusionPipeline, n: int, steps: int, **asked) -> Samples:
        """What ``sample`` draws from the experiments' noise, with trajectories, in every process."""
        drawn = sample(pipe, n, steps, SEED, record=True, processes=self.processes, **asked)
        return self.processes.agreed(drawn)

    def recorded(self, pipe: DiffusionPipeline, *how) -> CalibrationSet:
        """What ``record`` gives for these arguments, in every process."""
        return self.processes.agreed(record(pipe, *how, processes=self.processes))

    def calibration(self, recipe: Recipe) -> tuple[CalibrationSet, float]:
        """The recipe's calibration set, and the seconds that recording it took."""
        how, seed = recipe.calibration, recipe.seed
        made_by = self.made_by(calibration=recipe.to_dict()["calibration"], seed=seed)
        path = self.cache.path("calibration", made_by).with_suffix(".safetensors")

        def make() -> float:
            start = time.monotonic()
            pipe = with_sampler(self.pipe, how.sampler)
            found = self.recorded(pipe, how.rule, how.samples, how.steps, seed)
            if self.processes.is_main:
                found.save(path)
            return time.monotonic() - start

        seconds = self.cache.value("calibration", made_by, make)
        return self.processes.once(lambda: CalibrationSet.load(path)), seconds

    def quantized(self, recipe: Recipe) -> Quantized:
        """The model quantized by the recipe, and what it took; an interrupted calibration goes on."""
        made_by = self.made_by(recipe=recipe.to_dict())
        folder = self.cache.path("calibrated", made_by)

        def make() -> dict:
            self.calibration(recipe)
            given = self.settings, self.cache, recipe, folder
            return calibrate(*given) if self.processes.count > 1 else apart(calibrate, *given)

        found = self.cache.value("calibrated", made_by, make)
        return Quantized(with_sampler(load(folder), "ddim"), **found)

    def reference(self, n: int, steps: int) -> Tensor:
        """The full-precision trajectory, (T, N, C, H, W)."""
        made_by = self.made_by(n=n, steps=steps, seed=SEED)
        drawn = self.cache.tensors("trajectory", made_by, lambda: vars(self.sampled(self.ddim, n, steps)))
        return drawn["trajectory"]

    def error_per_step(self, recipe: Recipe, n: int, steps: int) -> dict:
        """MSE and signal-to-noise ratio against full precision after each step, noisy to clean."""

        def make() -> dict:
            drawn = self.sampled(self.quantized(recipe).pipe, n, steps)
            return {**errors(self.reference(n, steps), drawn.trajectory), **made_now()}

        made_by = self.made_by(recipe=recipe.to_dict(), n=n, steps=steps, seed=SEED)
        return self.cache.value("error-per-step", made_by, make)

    def full_bytes(self) -> int:
        """Bytes of the full-precision weights, as their file has them."""
        return len(save(self.pipe.unet.state_dict(), {"format": "pt"}))

    def scored(self, images: Tensor, *how, **options) -> Scores:
        """What ``score`` finds for these arguments: in the main process, for all."""
        return self.processes.once(lambda: score(images, *how, **options))

    def real(self, n: int, extractor: str = "fashion-classifier") -> dict:
        """What ``groups`` of n real images score, as [mean, standard deviation]; the latter null for one."""

        def make() -> list[dict]:
            groups = self.processes.once(lambda: real_scores(n, extractor, self.features))
            return [scores_of(found) for found in groups]

        groups = self.cache.value("real-scores", {"extractor": extractor, "n": n}, make)
        names = [name for name in ("frechet", "kid", "inception_score") if groups[0][name] is not None]
        found = {name: mean_and_std([group[name] for group in groups]) for name in names}
        return {"groups": len(groups)} | {name: [number(x) for x in pair] for name, pair in found.items()}

    def judged(self, recipe: Recipe | None) -> dict:
        """Errors after the last step, scores, calibration time and bytes of a recipe; None: full precision.

        ``floor`` is the Frechet distance of as many real images.
        """
        n, steps = self.settings.images, self.settings.steps
        named = recipe.to_dict() if recipe else None
        made_by = self.made_by(recipe=named, n=n, steps=steps, seed=SEED)
        return self.cache.value("judged", made_by, lambda: self._judge(recipe, n, steps))

    def judged_by_seed(self, recipe: Recipe) -> list[dict]:
        """``judged`` for the recipe with each of the settings' seeds: what chance does; the images' stays."""
        rows = [{"seed": seed, **self.judged(recipe.replace(seed=seed))} for seed in self.settings.seeds]
        for row in rows:
            del row["floor"]
        return rows

    def _judge(self, recipe: Recipe | None, n: int, steps: int) -> dict:
        reference = self.reference(n, steps)
        if recipe is None:
            quantized = Quantized(self.ddim, 0.0, self.full_bytes(), 0, 0)
        else:
            quantized = self.quantized(recipe)
        drawn = self.sampled(quantized.pipe, n, steps)
        last = {name: values[-1] for name, values in errors(reference, drawn.trajectory).items()}
        scores = self.scored(drawn.images)
        return {
            "trajectory_mse": last["mse"],
            "snr_db": last["snr_db"],
            "frechet": rounded(scores.frechet),
            "kid": rounded(scores.kid),
            "seconds": quantized.seconds,
            "bytes": quantized.bytes,
            "floor": rounded(scores.floor),
            **made_now(),
        }


def calibrate(settings: Settings, cache: Cache, recipe: Recipe, folder: Path) -> dict | None:
    """Quantize by the recipe into ``folder``; returns what it took, as ``Quantized`` has it.

    A calibration that was interrupted goes on, and knows the most memory that it had before. Of several
    processes, all must call this function, and the main one writes and returns; the others return None.
    """
    lab, alone = Lab(settings, cache), cache.processes.count == 1
    inputs, recording = lab.calibration(recipe)
    before, work = peak_memory(), folder.with_name(f"{folder.name}-work")
    mark = work / "memory.json"

    def keep(unit: UnitReport | None = None) -> int:
        known = json.loads(mark.read_text()) if mark.exists() else 0
        write_json(mark, most := max(known, peak_memory()))
        return most

    told = dict(progress=False, callback=keep if alone else None, processes=lab.processes)
    pipe = quantize(lab.pipe, recipe, inputs, work, resume=True, **told)
    if not lab.processes.is_main:
        return None
    done, (memory, before) = pipe.unet.quantization, (keep(), before) if alone else (None, None)
    fitting = max(done.seconds, sum(unit.seconds for unit in done.units))  # the latter where it went on
    size = save_quantized(pipe, folder).stat().st_size
    shutil.rmtree(work, ignore_errors=True)  # quantize may have left nothing in it
    seconds = round(recording + fitting, 1)
    return {"seconds": seconds, "bytes": size, "memory": memory, "memory_before": before}


def made_now() -> dict:
    """The day and the commit of a row: those of a table whose run was resumed may differ."""
    return {"date": date.today().isoformat(), "commit": commit()}


def errors(reference: Tensor, other: Tensor) -> dict:
    """MSE and signal-to-noise ratio in dB of each step; the ratio is null where both are equal."""
    mse, snr = trajectory_mse(reference, other), trajectory_snr(reference, other)
    return {
        "mse": [rounded(value) for value in mse.tolist()],
        "snr_db": [rounded(value) if value < float("inf") else None for value in snr.tolist()],
    }


def scores_of(found: Scores) -> dict:
    """The scores and their spreads; null for those that the extractor does not give."""
    names = ("frechet", "kid", "kid_std", "inception_score", "inception_score_std")
    return {name: number(getattr(found, name)) for name in names}


def number(value: float) -> float | None:
    """Rounded; null for nan."""
    return None if value != value else rounded(value)


def rounded(value: float, digits: int = 5) -> float:
    """The number with so many significant digits."""
    return float(f"{value:.{digits}g}")


def label(recipe: Recipe) -> str:
    """For figures and tables: "linear W4A8"."""
    return f"{METHOD_NAMES[recipe.method]} W{recipe.grids.weights}A{recipe.grids.activations}"


def about(recipe: Recipe) -> dict:
    """The fields that say which recipe a row belongs to."""
    bits = {"weights": recipe.grids.weights, "activations": recipe.grids.activations}
    return {"method": recipe.method, **bits}
