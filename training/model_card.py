"""Write the card of ``data/models/ddpm-fashion``: how it was trained, its loss curve, samples and scores.

    python training/model_card.py --n 1000

Everything on the card is read from ``training.json``, which the training wrote, or measured here.
"""

import argparse
import json
from pathlib import Path

from matplotlib.figure import Figure

from qdiff_lib.diffusion.pipelines import with_sampler
from qdiff_lib.diffusion.sampling import sample
from qdiff_lib.evaluation.figures import OKABE_ITO, image_grid
from qdiff_lib.evaluation.scores import Scores, score
from qdiff_lib.io.models import load
from qdiff_lib.io.shipped_data import data_folder
from qdiff_lib.utils.files import atomic_path

STEPS = 20
FEATURES = Path("build/features")  # of all scored images, so that a second call need not extract them

CARD = """---
license: mit
library_name: diffusers
pipeline_tag: unconditional-image-generation
---

# ddpm-fashion

A denoising diffusion model of 32x32 pictures of clothes, small enough to study on a laptop: the UNet of
`google/ddpm-cifar10-32` at a quarter of its width, {parameters:,} parameters, one channel.

![samples]({samples})

64 images, DDIM with {sampler_steps} steps, seed 0, not selected.

| | |
|---|---|
| data | Fashion-MNIST, 60,000 training images (Zalando Research, MIT), padded from 28x28 to 32x32 |
| licence of the weights | MIT |
| diffusion | 1,000 linear steps from 1e-4 to 0.02, predicting noise |
{trainings}
| last loss | {last_loss:.4f} (mean squared error of the noise, all time steps alike) |

![loss]({loss})

## Scores

| features | n | Frechet distance | real images at the same n | KID |
|---|---|---|---|---|
{scores}

The classifier is the shipped `fashion-classifier`: its distance is not FID. The Frechet distance is biased
upwards at small n, so read it beside the column of real images.

## Use

    from qdiff_lib import load
    pipe = load("ddpm-fashion")            # an ordinary diffusers DDPMPipeline

Meant for teaching and testing quantization. It knows ten kinds of garment and nothing else.
"""


TRAINING = """| command | `{command}` |
| training | {steps:,} steps of {batch_size} images, AdamW at {lr}, weights averaged (0.999), {precision} |
| hardware | {machine}; {hours} hours by the clock, shared with other work; torch {torch}; {date} |"""


def trainings(record: dict) -> list[dict]:
    """The records of all trainings of a model, the first one first."""
    return [*(trainings(record["start"]) if "start" in record else []), record]


def loss_figure(losses: list[float]) -> Figure:
    """The training loss, means over 50 steps."""
    figure = Figure(figsize=(6, 3), layout="constrained")
    axis = figure.subplots()
    axis.plot([50 * (i + 1) for i in range(len(losses))], losses, color=OKABE_ITO[-1])
    axis.set(xlabel="training step", ylabel="mean squared error of the noise", yscale="log")
    axis.grid(alpha=0.3)
    return figure


def score_row(scores: Scores) -> str:
    """One row of the card's table."""
    name = "Inception (FID)" if scores.extractor == "inception" else scores.extractor
    kid = f"{scores.kid:.4f} ± {scores.kid_std:.4f}"
    return f"| {name} | {scores.n:,} | {scores.frechet:.2f} | {scores.floor:.2f} | {kid} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=1000, help="images to score")
    parser.add_argument("--extractors", nargs="+", default=["fashion-classifier"], help="add: inception")
    args = parser.parse_args()
    folder: Path = data_folder() / "models" / "ddpm-fashion"
    records = trainings(json.loads((folder / "training.json").read_text()))
    losses = [loss for record in records for loss in record["losses"]]
    pipe = with_sampler(load("ddpm-fashion"), "ddim")
    images = sample(pipe, args.n, STEPS).images
    image_grid(images[:64], 16).save(folder / "samples.png")
    with atomic_path(folder / "loss.png") as temporary:
        loss_figure(losses).savefig(temporary, dpi=110)
    rows = [score_row(score(images, extractor, folder=FEATURES)) for extractor in args.extractors]
    numbers = {"last_loss": losses[-1], "parameters": pipe.unet.num_parameters(), "sampler_steps": STEPS}
    tables = {
        "trainings": "\n".join(TRAINING.format(**each) for each in records),
        "scores": "\n".join(rows),
    }
    text = CARD.format(**numbers, **tables, samples="samples.png", loss="loss.png")
    with atomic_path(folder / "README.md") as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
