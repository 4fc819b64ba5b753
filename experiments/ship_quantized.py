"""The packed models of the lessons: ``data/models/ddpm-fashion-w4a8`` and ``-w4a32``."""

import shutil
from pathlib import Path

from lab import Lab, Quantized
from settings import MODEL

from qdiff_lib import save_quantized
from qdiff_lib.diffusion.pipelines import with_components
from qdiff_lib.io.checkpoint import weight_layers
from qdiff_lib.ptq.insertion import EDGES
from qdiff_lib.recipes.recipe import Recipe
from qdiff_lib.utils.constants import FLOAT_BITS
from qdiff_lib.utils.provenance import provenance

BITS = ((4, 8), (4, 32))
CARD = """---
license: mit
library_name: diffusers
pipeline_tag: unconditional-image-generation
---

# {name}

The shipped `{base}` quantized by Q-Diffusion to {weights}-bit weights, with {activations}:
block reconstruction with learned rounding and the shortcut split, on {samples} calibration inputs from
{steps} DDIM steps, {iterations} iterations a unit (the profile `tiny`). The first and the last layer,
{edge_share:.2%} of the weights, have {edge_bits} bits.

| | |
|---|---|
| file | `unet/diffusion_pytorch_model.safetensors`, {megabytes:.2f} MB: two weights in a byte |
| calibration | {seconds:.0f} s on {machine}; {date} |
| made by | `{command}` |
| licence of the weights | MIT |

## Use

    from qdiff_lib import load, sample, with_sampler
    pipe = with_sampler(load("{name}"), "ddim")
    images = sample(pipe, n=16, steps=20).images

Sampling simulates the integers in floating point: it shows their effect on the images, not their speed.
The errors and scores of this model are in `data/recorded/ladder.json` (W4A8) and
`data/recorded/error_per_step.json`.
"""


def run(lab: Lab, models: Path, command: str) -> None:
    """Write the models below ``models``, each with a card that names the command."""
    for bits in BITS:
        recipe = lab.settings.qdiffusion(*bits)
        name = f"{MODEL}-w{recipe.grids.weights}a{recipe.grids.activations}"
        print(f"  {name}", flush=True)
        quantized = lab.quantized(recipe)
        if lab.processes.is_main:
            folder = models / name
            shutil.rmtree(folder, ignore_errors=True)
            # with the scheduler of the full-precision model, so that both names load alike
            save_quantized(with_components(lab.pipe, unet=quantized.pipe.unet), folder)
            (folder / "README.md").write_text(card(name, recipe, quantized, command), encoding="utf-8")


def edge_share(quantized: Quantized) -> float:
    """The share of the quantized weights that the first and last layer have."""
    counts = {name: layer.weight.numel() for name, layer in weight_layers(quantized.pipe.unet)}
    return sum(counts[name] for name in EDGES) / sum(counts.values())


def card(name: str, recipe: Recipe, quantized: Quantized, command: str) -> str:
    """The model's card: what it is, how it was made, how to use it."""
    bits = recipe.grids.activations
    made = provenance(command)
    return CARD.format(
        name=name,
        base=MODEL,
        edge_share=edge_share(quantized),
        edge_bits=recipe.grids.edge_bits,
        weights=recipe.grids.weights,
        activations="activations in floating point" if bits == FLOAT_BITS else f"{bits}-bit activations",
        samples=recipe.calibration.samples,
        steps=recipe.calibration.steps,
        iterations=recipe.rounding.iterations,
        megabytes=quantized.bytes / 1e6,
        seconds=quantized.seconds,
        **{key: made[key] for key in ("machine", "date", "command")},
    )
