"""The noise network's error at steps that were calibrated on, and at those between them, at W4A8."""

from collections.abc import Iterator

import torch
from lab import Lab, made_now, rounded
from table1 import SAMPLER, WHOLE, Case

from qdiff_lib import Recipe, with_sampler
from qdiff_lib.calibration.calibration_set import CalibrationSet
from qdiff_lib.recipes.timestep_rules import Uniform

BITS = 4, 8
SEED = 1  # of the inputs; the recipes calibrate on those of seed 0


def recipes(lab: Lab) -> dict[str, Recipe]:
    """By label: Table 1's row of the whole network last, before it without what makes the difference."""
    whole = Case(WHOLE, *BITS, seed=0).recipe(lab)
    units = whole.replace(network_iterations=0)
    return {
        "every second step, units alone": units.replace(rule=Uniform(2)),
        "every step, units alone": units,
        "every step, whole network": whole,
    }


def run(lab: Lab) -> Iterator[dict]:
    """``rows``: ``seen``, the steps that were calibrated on, and ``mse`` and ``offset`` of all steps."""
    steps, n, rows = lab.settings.table1.steps, lab.settings.between_inputs, []
    inputs = lab.recorded(with_sampler(lab.pipe, SAMPLER), Uniform(1), n, steps, SEED)
    for name, recipe in recipes(lab).items():
        print(f"  {name}", flush=True)
        made_by = lab.made_by(__file__, recipe=recipe.to_dict(), n=n, steps=steps, seed=SEED)
        found = lab.cache.value("between-steps", made_by, lambda recipe=recipe: errors(lab, recipe, inputs))
        rows.append({"label": name, "seen": list(recipe.calibration.rule.chosen(steps)), **found})
        yield {"weights": BITS[0], "activations": BITS[1], "steps": steps, "inputs": n, "rows": rows}


@torch.no_grad()
def errors(lab: Lab, recipe: Recipe, inputs: CalibrationSet) -> dict:
    """Of the network's output against full precision, for each step: mean squared error, and mean error."""
    quantized = lab.quantized(recipe).pipe.unet
    found = {"mse": [], "offset": []}
    for step in inputs.step.unique():
        batch = inputs.rows((inputs.step == step).nonzero().flatten())
        error = quantized(**batch).sample - lab.pipe.unet(**batch).sample
        found["mse"].append(rounded(error.square().mean().item()))
        found["offset"].append(rounded(error.mean().item()))
    return {**found, **made_now()}
