"""Train the UNet of ``google/ddpm-cifar10-32`` at half its width (8.9 M parameters) on a GPU.

    python training/train_cifar10.py --seconds 300 --batch-size 256 --device cuda

The images are mirrored at random. Checkpoints, loss and time steps are those of ``train_ddpm.py``. The model
is written in half precision.
"""

import argparse
from pathlib import Path

import torch
from cifar10 import FOLDER, read_cifar10
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from fitting import draw, fit, noise_loss, noised, on_device, parser, record_of, to_unit, trapezoid
from torch import Tensor

from qdiff_lib.recipes.paper_networks import DDPM_CIFAR10
from qdiff_lib.utils.files import write_json

CONFIG = {key: value for key, value in DDPM_CIFAR10.items() if key != "_class_name"}
CONFIG["block_out_channels"] = [width // 2 for width in DDPM_CIFAR10["block_out_channels"]]
DECAY_FRACTION = 0.4  # the learning rate falls to 0 over this last part of the training


def mirrored(images: Tensor, generator: torch.Generator) -> Tensor:
    """The images (B, C, H, W), half of them with left and right exchanged."""
    turned = torch.rand(len(images), 1, 1, 1, generator=generator, device=images.device) < 0.5
    return torch.where(turned, images.flip(-1), images)


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    images = read_cifar10(args.data).to(args.device)
    model = on_device(UNet2DModel(**CONFIG), args.device)
    scheduler = DDPMScheduler(num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02)

    def loss_of(step: int) -> tuple[Tensor, Tensor]:
        drawn = draw(step, images, args.batch_size, args.seed, 1000)
        clean = to_unit(mirrored(images[drawn.index], drawn.generator))
        return noise_loss(scheduler, model(noised(scheduler, clean, drawn), drawn.t).sample, drawn)

    progress = fit(model, loss_of, lambda *at: trapezoid(*at, args.lr, DECAY_FRACTION), args)
    pipe = DDPMPipeline(unet=model.cpu(), scheduler=scheduler)
    pipe.to(torch.float16).save_pretrained(args.out)
    write_json(
        args.out / "training.json", record_of(args, "train_cifar10.py", progress) | {"images": len(images)}
    )


def main() -> None:
    folders = dict(work=Path("build/train-ddpm-cifar10"), out=Path("build/ddpm-cifar10"))
    options = parser(__doc__, steps=20_000, batch_size=256, lr=6e-4, **folders)
    options.add_argument("--data", type=Path, default=FOLDER, help="folder with the images")
    train(options.parse_args())


if __name__ == "__main__":
    main()
