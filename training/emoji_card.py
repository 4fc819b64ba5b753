"""Write the card of ``data/models/sd-emoji`` or ``data/models/ldm-emoji``: data, training, loss and samples.

    python training/manifest.py
    python training/emoji_card.py sd-emoji
    python training/emoji_card.py ldm-emoji
    python training/manifest.py

Everything on the card is read from ``training.json`` of the model and of its autoencoder, which the trainings
wrote, or measured here. The pictures are the first ones of seed 0, not selected.
"""

import argparse
import json
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from emoji import ARCHIVE, read_emoji
from model_card import loss_figure
from torch.nn.functional import avg_pool2d

from qdiff_lib.diffusion.sampling import sample
from qdiff_lib.evaluation.figures import image_grid
from qdiff_lib.io.models import load
from qdiff_lib.io.shipped_data import data_folder
from qdiff_lib.utils.files import atomic_path

STEPS, GUIDANCE, COLUMNS = 25, 5.0, 8
PROMPTS = (
    "red apple", "green apple", "banana", "strawberry", "slice of pizza", "hamburger", "birthday cake",
    "hot beverage", "cat face", "dog face", "frog face", "pig face", "penguin", "butterfly", "whale", "tulip",
    "bicycle", "automobile", "rocket", "sailboat", "house building", "fire", "rainbow", "snowman",
    "grinning face", "winking face", "heart", "flag", "japan flag", "soccer ball", "guitar", "key",
)  # fmt: skip

CARD = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: {tag}
---

# {name}

{what} It was trained on {images:,} pictures over and over, so that what it draws is largely memory: it is for
teaching and testing quantization, and good for nothing else.

![samples](samples.png)

{caption} {recall}

| | |
|---|---|
| data | Noto emoji, 64x64, on white: {images:,} of the 3,786 pictures of `emoji-datasource-google@16.0.0`. Left out: people and hands, text symbols, and all flags of countries but 14 |
| licence | the pictures: Apache-2.0 (the Noto Emoji fonts: OFL-1.1); the weights: Apache-2.0 |
| parameters | {parameters} |
| size | {megabytes:.1f} MB, half precision |
| command | `{command}` |
| training | {steps:,} steps of {batch_size} latents, AdamW at {lr}, weights averaged (0.999), {precision} |
| hardware | {machine}; {hours} hours by the clock, shared with other work; torch {torch}; {date} |
| last loss | {last_loss:.4f} (mean squared error of the noise, all time steps alike) |
| autoencoder | {autoencoders} |

![loss](loss.png)

## Use

    from qdiff_lib import load
    pipe = load("{name}")
    {use}
"""  # noqa: E501
SD = dict(
    tag="text-to-image",
    what="Stable Diffusion in small: a text encoder of 2 layers, a UNet with self- and cross-attention on "
    "16x16 latents, and an autoencoder, for emoji of 64x64 pixels.",
    caption=f"PNDM with {STEPS} steps, guidance {GUIDANCE:g}, seed 0, row by row: {', '.join(PROMPTS)}.",
    use='pipe("red apple", num_inference_steps=25, guidance_scale=5.0).images[0]',
)
LDM = dict(
    tag="unconditional-image-generation",
    what="A latent diffusion model of emoji, unconditional: a UNet on the 16x16 latents of a VQ autoencoder, "
    "for pictures of 64x64 pixels.",
    caption=f"DDIM with {STEPS} steps, seed 0.",
    use="pipe(batch_size=4, num_inference_steps=25).images[0]",
)


def samples(pipe: DiffusionPipeline) -> torch.Tensor:
    """32 pictures of seed 0, uint8 (32, 3, 64, 64), of the prompts where the model takes text."""
    prompts = PROMPTS if "text_encoder" in pipe.components else None
    return sample(pipe, len(PROMPTS), STEPS, prompts=prompts, guidance=GUIDANCE).images


def autoencoders(record: dict) -> str:
    """The training of the autoencoder, after that of the one it started from."""
    before = autoencoders(record["start"]) + ", then " if "start" in record else ""
    steps = f"{record['steps']:,} steps of {record['batch_size']}"
    return f"{before}`{record['command']}`: {steps}, {record['hours']} hours"


def recall(images: torch.Tensor, archive: Path) -> str:
    """How many samples, uint8 (32, 3, 64, 64), have a training picture of their prompt as the nearest."""
    pictures, emoji = read_emoji(archive)
    small = [avg_pool2d(each.float(), 4).flatten(1) for each in (images, pictures)]  # (n, 768)
    nearest = torch.cdist(*small).argmin(dim=1).tolist()
    right = sum(prompt in emoji[i].prompts() for prompt, i in zip(PROMPTS, nearest, strict=True))
    return (
        f"Of these {len(PROMPTS)}, {right} are nearest to a training picture of their own prompt, among "
        "all training pictures, by the mean squared difference of 16x16 pixels."
    )


def parameters(pipe: DiffusionPipeline) -> str:
    """The number of parameters of each network, as a list in words."""
    networks = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    return ", ".join(
        f"{name} {sum(p.numel() for p in part.parameters()):,}" for name, part in networks.items()
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=("sd-emoji", "ldm-emoji"))
    parser.add_argument("--data", type=Path, default=ARCHIVE, help="the archive that npm pack downloads")
    args = parser.parse_args()
    name = args.name
    folder: Path = data_folder() / "models" / name
    training = json.loads((folder / "training.json").read_text())
    pipe = load(name)
    images = samples(pipe)
    image_grid(images, COLUMNS).save(folder / "samples.png")
    with atomic_path(folder / "loss.png") as temporary:
        loss_figure(training["losses"]).savefig(temporary, dpi=110)
    size = sum(path.stat().st_size for path in folder.rglob("*.safetensors")) / 1e6
    measured = dict(parameters=parameters(pipe), megabytes=size, last_loss=training["losses"][-1])
    measured["autoencoders"] = autoencoders(training["autoencoder"])
    measured["recall"] = recall(images, args.data) if name == "sd-emoji" else ""
    text = CARD.format(name=name, **(SD if name == "sd-emoji" else LDM), **training, **measured)
    with atomic_path(folder / "README.md") as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
