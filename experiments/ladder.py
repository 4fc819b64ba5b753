"""What each part of the method buys, at W4A8: from the linear baseline up, one part at a time."""

from collections.abc import Iterator

from lab import Lab
from settings import Settings

from qdiff_lib import Recipe
from qdiff_lib.recipes.recipe import EXTRAS, STAGES

PAPER = {name: Recipe().flat()[name] for name in (*EXTRAS, "edge_bits", *STAGES)}
"""Switches off what is not in the paper: the paper's values of these fields."""


def rungs(make: Settings) -> dict[str, Recipe | None]:
    """The recipes by label; each rung keeps what the ones before it added. None: full precision.

    "+ learned step sizes" is the paper's method, at the profile's iterations.
    """
    nearest = dict(method="linear", weight_rounding="nearest", split=False)
    return {
        "linear": make.linear(4, 8),
        "+ calibrated ranges": make.qdiffusion(4, 8, **PAPER, **nearest),
        "+ AdaRound": make.qdiffusion(4, 8, **PAPER, split=False, step_size_iterations=0),
        "+ split": make.qdiffusion(4, 8, **PAPER, step_size_iterations=0),
        "+ learned step sizes": make.qdiffusion(4, 8, **PAPER),
        "+ GPTQ start, learned scales": make.qdiffusion(4, 8, edge_bits=PAPER["edge_bits"]),
        "+ 16-bit first and last layer": make.qdiffusion(4, 8),
        "+ whole network": make.qdiffusion(4, 8, network_iterations=make.network_iterations),
        "+ bias correction": make.qdiffusion(4, 8, **{name: getattr(make, name) for name in STAGES}),
        "full precision": None,
    }


def besides(make: Settings) -> dict[str, Recipe]:
    """Recipes that stand beside the ladder: what more bits in the first and last layer do on their own."""
    return {
        "linear, 8-bit first and last layer": make.linear(4, 8, edge_bits=8),
        "linear, 16-bit first and last layer": make.linear(4, 8, edge_bits=16),
        "Q-Diffusion, 8-bit first and last layer": make.qdiffusion(4, 8, edge_bits=8),
    }


def run(lab: Lab) -> Iterator[dict]:
    """``rows``: one for each rung. ``besides``: rows of the same form."""
    settings = lab.settings
    rows, others = (judged(lab, recipes(settings)) for recipes in (rungs, besides))
    floor = [row.pop("floor") for row in (*rows, *others)][0]
    sizes = {"weights": 4, "activations": 8, "steps": settings.steps, "n": settings.images}
    yield {**sizes, "rows": rows, "besides": others, "floor": floor, "real": lab.real(settings.images)}


def judged(lab: Lab, recipes: dict[str, Recipe | None]) -> list[dict]:
    """A row for each recipe."""
    rows = []
    for name, recipe in recipes.items():
        print(f"  {name}", flush=True)
        rows.append({"label": name, **lab.judged(recipe)})
    return rows
