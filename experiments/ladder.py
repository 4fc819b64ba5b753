"""What each part of the method buys, at W4A8: from the linear baseline up, one part at a time."""

from lab import Lab
from settings import Settings

from qdiff_lib import Recipe

PAPER = dict(rounding_start="fraction", learn_affine=False)
"""Switches off what is not in the paper."""


def rungs(make: Settings) -> dict[str, Recipe | None]:
    """The recipes by label; each rung keeps what the ones before it added. None: full precision.

    The last rung but one is the paper's method, at the profile's iterations; the last adds what the profile
    has beyond it (see ``Recipe.rounding_start`` and ``Recipe.learn_affine``).
    """
    nearest = dict(method="linear", rounding="nearest", split=False)
    return {
        "linear": make.linear(4, 8),
        "+ calibrated ranges": make.qdiffusion(4, 8, **nearest),
        "+ AdaRound": make.qdiffusion(4, 8, **PAPER, split=False, step_iterations=0),
        "+ split": make.qdiffusion(4, 8, **PAPER, step_iterations=0),
        "+ learned step sizes": make.qdiffusion(4, 8, **PAPER),
        "+ GPTQ start, learned scales": make.qdiffusion(4, 8),
        "full precision": None,
    }


def run(lab: Lab) -> dict:
    """A row for each rung."""
    rows = []
    for name, recipe in rungs(lab.settings).items():
        print(f"  {name}", flush=True)
        rows.append({"label": name, **lab.judged(recipe)})
    floor = [row.pop("floor") for row in rows][0]
    return {
        "weights": 4,
        "activations": 8,
        "steps": lab.settings.steps,
        "n": lab.settings.images,
        "rows": rows,
        "floor": floor,
    }
