"""One setting of Q-Diffusion at W4A8 at a time, all others held: what each is worth."""

from collections.abc import Iterator
from functools import partial

from lab import Lab
from settings import Settings

from qdiff_lib import Recipe
from qdiff_lib.recipes.timestep_rules import Uniform

BITS = 4, 8
BUDGET = ("samples", "iterations", "step_size_iterations")


def interval(make: Settings, value: int) -> Recipe:
    """Calibration inputs from every ``value``-th step: the paper's c."""
    return make.qdiffusion(*BITS, **{**make.sampling_budget, "rule": Uniform(value)})


def inputs(make: Settings, value: int) -> Recipe:
    """So many calibration inputs."""
    return make.qdiffusion(*BITS, **{**make.sampling_budget, "samples": value})


def iterations(make: Settings, value: int) -> Recipe:
    """So many iterations of AdaRound for each unit."""
    return make.qdiffusion(*BITS, iterations=value)


def softmax(make: Settings, value: int) -> Recipe:
    """So many bits for the attention's softmax."""
    return make.qdiffusion(*BITS, softmax_bits=value)


SWEEPS = {
    "calibration_interval": interval,
    "calibration_inputs": inputs,
    "adaround_iterations": iterations,
    "softmax_bits": softmax,
}
"""The tables by name, each with the recipe of a value; ``Settings.sweeps`` has the values."""


def unchanged(name: str, make: Settings) -> Recipe:
    """The recipe with the usual value of what the table changes."""
    short = name in ("calibration_interval", "calibration_inputs")
    return make.qdiffusion(*BITS, **(make.sampling_budget if short else {}))


def sweep(name: str, lab: Lab) -> Iterator[dict]:
    """The table after each value: ``rows`` has those that are there, of ``planned``.

    ``seeds``: rows of the usual value, calibrated with several seeds.
    """
    settings, rows = lab.settings, []
    values = settings.sweeps[name]
    about = {"weights": BITS[0], "activations": BITS[1], "steps": settings.steps, "n": settings.images}
    recipes = [SWEEPS[name](settings, value) for value in values]
    about |= {"calibration": budget(recipes), "planned": list(values)}
    print(f"  {name}, {len(settings.seeds)} seeds", flush=True)
    about["seeds"] = lab.judged_by_seed(unchanged(name, settings))
    for value, recipe in zip(values, recipes, strict=True):
        print(f"  {name} {value}", flush=True)
        rows.append({"value": value, **lab.judged(recipe)})
        floor = rows[-1].pop("floor")
        yield {**about, "rows": rows, "floor": floor, "real": lab.real(settings.images)}


def budget(recipes: list[Recipe]) -> dict[str, int]:
    """The numbers of the calibration that all recipes share."""
    numbers = [{name: recipe.flat()[name] for name in BUDGET} for recipe in recipes]
    return {k: v for k, v in numbers[0].items() if all(other[k] == v for other in numbers)}


TABLES = {name: partial(sweep, name) for name in SWEEPS}
