"""Scores of images that an engine draws in integers, beside simulated ones and those of full precision."""

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial

from diffusers import DiffusionPipeline
from drawing import Drawn, Order, draw
from lab import Lab, errors, made_now, scores_of

from qdiff_lib import load, run_on, with_sampler
from qdiff_lib.utils.hashing import tensors_hash

FULL, SIMULATED, INTEGERS = "full precision", "simulated", "integers"
EXTRACTOR = "fashion-classifier"


def run(lab: Lab) -> Iterator[dict]:
    """``rows``: each way to draw, for each seed of the noise."""
    n, ways, rows = lab.settings.images, pipelines(lab), []
    for seed in lab.settings.table1.seeds:
        order, drawn = Order(n, n, lab.settings.steps, seed), {}
        for label, pipe in ways.items():
            print(f"  {label}, seed {seed}", flush=True)
            made_by = lab.made_by(
                __file__,
                way=label,
                engine=lab.settings.engine,
                tensors=tensors_hash(pipe.unet.state_dict()),
            )
            drawn[label] = draw(lab.cache, made_by, order, lambda pipe=pipe: pipe)
            make = partial(measure, lab, drawn, label)
            found = lab.cache.value("integer-scores", {**made_by, **asdict(order)}, make)
            rows.append({"label": label, "seed": seed, **found})
    yield {
        "engine": lab.settings.engine,
        "steps": lab.settings.steps,
        "n": n,
        "real": lab.real(n, EXTRACTOR),
        "rows": rows,
    }


def pipelines(lab: Lab) -> dict[str, DiffusionPipeline]:
    """By name, the pipelines to draw with: the shipped model, or where it is another one, its own at W4A8."""
    shipped = lab.settings.shipped
    quantized = load(shipped) if shipped else lab.quantized(lab.settings.qdiffusion(4, 8)).pipe
    quantized = with_sampler(quantized, "ddim")
    return {FULL: lab.ddim, SIMULATED: quantized, INTEGERS: run_on(quantized, lab.settings.engine)}


def measure(lab: Lab, drawn: dict[str, Drawn], label: str) -> dict:
    """The scores, and the errors of x_t after the last step against the other ways that are drawn by now."""
    own = drawn[label]
    apart = {name: errors(other.last[None], own.last[None]) for name, other in drawn.items() if name != label}
    against = {name: {key: value[0] for key, value in found.items()} for name, found in apart.items()}
    return {
        **scores_of(lab.scored(own.images, EXTRACTOR, folder=lab.features)),
        "against": against,
        **made_now(),
    }
