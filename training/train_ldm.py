"""Train ``data/models/ldm-emoji``: an unconditional latent diffusion model at 64x64.

    python training/train_autoencoder.py --kind kl --steps 3000 --seed 0
    python training/train_autoencoder.py --kind vq --steps 1000 --seed 0
    python training/train_ldm.py --steps 6000 --seed 0

The autoencoder is trained first and then fixed; the UNet learns its unquantized latents, encoded once, as in
Rombach et al. (2022, section 3.2). Killed runs resume from the last checkpoint in ``--work``.
"""

import argparse

import torch
from diffusers import DDIMScheduler, LDMPipeline, UNet2DModel, VQModel
from emoji import read_emoji
from fitting import draw, fit, inverse_root, noise_loss, noised, on_device, record_of
from torch import Tensor
from train_autoencoder import latent_parser, latents_of

from qdiff_lib.io.checkpoint import forget_origin
from qdiff_lib.utils.files import write_json

UNET = dict(
    sample_size=16,
    in_channels=4,
    out_channels=4,
    block_out_channels=(64, 128, 160),
    down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    layers_per_block=1,
    attention_head_dim=32,
    norm_num_groups=16,
)
SCHEDULE = dict(beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear")  # that of the paper's LDMs
CONSTANT_STEPS = 3000  # at the peak of the learning rate


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    vqvae = VQModel.from_pretrained(args.autoencoder)
    latents, about = latents_of(args, vqvae, read_emoji(args.data)[0])  # (N, 4, 16, 16)
    scheduler = DDIMScheduler(**SCHEDULE, clip_sample=False)
    latents = latents.to(args.device)
    model = on_device(UNet2DModel(**UNET), args.device)

    def loss_of(step: int) -> tuple[Tensor, Tensor]:
        drawn = draw(step, latents, args.batch_size, args.seed, len(scheduler.alphas_cumprod))
        noisy = noised(scheduler, latents[drawn.index], drawn)
        return noise_loss(scheduler, model(noisy, drawn.t).sample, drawn)

    progress = fit(model, loss_of, lambda step, done: inverse_root(step, args.lr, CONSTANT_STEPS), args)
    pipe = LDMPipeline(vqvae=vqvae, unet=model.cpu(), scheduler=scheduler)
    pipe.to(torch.float16).save_pretrained(args.out)
    forget_origin(args.out / "vqvae" / "config.json")
    write_json(args.out / "training.json", record_of(args, "train_ldm.py", progress) | about)


def main() -> None:
    train(latent_parser(__doc__, "ldm-emoji", "vq").parse_args())


if __name__ == "__main__":
    main()
