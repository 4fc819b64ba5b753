"""KL divergence of every layer's outputs, full precision against quantized, at each step of new runs."""

from collections.abc import Iterator

from lab import Lab, about, label, made_now, rounded

from qdiff_lib import Recipe
from qdiff_lib.calibration.calibration_set import CalibrationSet
from qdiff_lib.evaluation.kl_divergence import BINS, PSEUDOCOUNT
from qdiff_lib.evaluation.layer_divergence import layer_divergences
from qdiff_lib.recipes.timestep_rules import Uniform

BITS = 4, 8
SEED = 1  # of the inputs; the recipes calibrate on those of seed 0
DIGITS = 4


def run(lab: Lab) -> Iterator[dict]:
    """``rows``: for each recipe ``values`` (layers, steps) in nats; layers as they run, noisy to clean."""
    settings, rows = lab.settings, []
    inputs = lab.recorded(lab.ddim, Uniform(1), settings.divergence_inputs, settings.steps, SEED)
    for recipe in (settings.linear(*BITS), settings.qdiffusion(*BITS)):
        print(f"  {label(recipe)}", flush=True)
        made_by = lab.made_by(
            __file__, recipe=recipe.to_dict(), n=len(inputs), steps=settings.steps, seed=SEED
        )
        found = lab.cache.value("divergence", made_by, lambda recipe=recipe: divergences(lab, recipe, inputs))
        made = {name: found[name] for name in ("values", "date", "commit")}
        rows.append({"label": label(recipe), **about(recipe), **made})
        sizes = {"inputs": len(inputs), "steps": settings.steps, "bins": BINS, "pseudocount": PSEUDOCOUNT}
        yield {**sizes, "layers": found["layers"], "rows": rows}


def divergences(lab: Lab, recipe: Recipe, inputs: CalibrationSet) -> dict:
    """The layers' names, and the values of each at every step."""
    quantized = lab.quantized(recipe).pipe.unet
    found = lab.processes.once(lambda: layer_divergences(lab.ddim.unet, quantized, inputs))
    values = [[rounded(value, DIGITS) for value in layer] for layer in found.values.T.tolist()]
    return {"layers": found.layers, "values": values, **made_now()}
