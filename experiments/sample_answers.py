"""Make or resume ``data/recorded/capstone.json``: the capstone's defaults and the runs of two sample answers.

python experiments/sample_answers.py

Each run is one calibration and one measurement on practice noise, as in ``notebooks/capstone.ipynb``. Its
number is also measured on noise of a second seed (``again``). The runs that are handed in are measured on the
teacher's noise, too. Finished calibrations are not made again.
"""

import shutil
import time
from pathlib import Path

from code_of_results import code_hash
from paths import ROOT, manifest
from run import write_table

from qdiff_lib import Recipe, load, quantize, save_quantized
from qdiff_lib.course import capstone
from qdiff_lib.utils.cache import Cache
from qdiff_lib.utils.files import write_json
from qdiff_lib.utils.provenance import commit, provenance

PRACTICE, AGAIN, TEACHER = 1, 2, 1848  # seeds of the noise
THREE = Recipe.qdiffusion(weights=3)
EDGES = THREE.replace(edge_bits=16)
TIME = EDGES.replace(exclude=("time_embedding",))
STEPS = TIME.replace(steps=25)
DEFAULTS = {
    "4 bits, defaults": Recipe.qdiffusion(),
    "3 bits, defaults": THREE,
}
ANSWERS = {
    "A": {
        "baseline": THREE,
        "16-bit edges": EDGES,
        "time embedding in floating point": TIME,
        "25 denoising steps": STEPS,
        "whole network": STEPS.replace(network_iterations=300),
    },
    "B": {
        "baseline": THREE,
        "whole network": THREE.replace(network_iterations=300),
        "16-bit edges": EDGES,
    },
}
"""The runs of each answer in their order; the last one is handed in."""


def main() -> None:
    cache, out = Cache(ROOT / "build/capstone"), ROOT / "data"
    scorers = [capstone.Scorer(seed) for seed in (PRACTICE, AGAIN)]
    teacher = capstone.Scorer(TEACHER)
    data = {"images": capstone.IMAGES, "steps": capstone.STEPS, "seeds": [PRACTICE, AGAIN, TEACHER]}
    data["defaults"] = [row(cache, label, recipe, scorers) for label, recipe in DEFAULTS.items()]
    data["answers"] = {}
    for name, runs in ANSWERS.items():
        rows = [row(cache, label, recipe, scorers) for label, recipe in runs.items()]
        final = measured(folder_of(cache, list(runs.values())[-1]), teacher)
        data["answers"][name] = {"rows": rows, "handed_in": final}
    made = provenance("python experiments/sample_answers.py")
    write_table(out / "recorded" / "capstone.json", {"data": data, "provenance": made})
    write_json(out / "MANIFEST.json", manifest(out))


def folder_of(cache: Cache, recipe: Recipe) -> Path:
    """Where the quantized model of a recipe is."""
    return cache.path("model", made_by(recipe))


def made_by(recipe: Recipe) -> dict:
    """What decides a quantized model."""
    return {"recipe": recipe.to_dict(), "code": code_hash()}


def row(cache: Cache, label: str, recipe: Recipe, scorers: list[capstone.Scorer]) -> dict:
    """One run: what it changes, its cost, its score, and its number on other noise."""
    made = cache.value("run", made_by(recipe), lambda: run(folder_of(cache, recipe), recipe))
    found = {"label": label, "changes": capstone.changed_fields(recipe), **made}
    found |= measured(folder_of(cache, recipe), scorers[0])
    found["again"] = measured(folder_of(cache, recipe), scorers[1])["decibels"]
    print(f"{label}: {found}", flush=True)
    return found


def run(folder: Path, recipe: Recipe) -> dict:
    """Quantize and write the model; the time and processor time that this takes, in seconds."""
    work, begun, used = folder.with_name(f"{folder.name}-work"), time.monotonic(), time.process_time()
    pipe = quantize(load(capstone.MODEL), recipe, progress=False, work=work, resume=True)
    seconds, cpu = time.monotonic() - begun, time.process_time() - used
    save_quantized(pipe, folder)
    shutil.rmtree(work, ignore_errors=True)
    return {"seconds": round(seconds), "cpu_seconds": round(cpu), "commit": commit()}


def measured(folder: Path, scorer: capstone.Scorer) -> dict:
    """The score of a model."""
    score = scorer.score(folder)
    return {
        "bytes": score.bytes,
        "bit_operations": score.bit_operations,
        "error": round(score.error, 5),
        "decibels": round(score.decibels, 2),
        "spread": round(score.spread, 2),
        "points": score.points,
    }


if __name__ == "__main__":
    main()
