"""Train ``data/models/ddpm-fashion``: the UNet of ``google/ddpm-cifar10-32`` at a quarter of its width.

    python training/train_ddpm.py --steps 3000 --seed 0

Killed runs resume from the last checkpoint in ``--work``, with Adam's moments; the data, the noise and the
time steps of step k depend on (seed, k) alone.

The loss is the noise-prediction MSE of Ho et al. (2020) with the Min-SNR weights of Hang et al. (2023), and
the time steps of a batch are stratified over [0, 1000) as in Kingma et al. (2021): both reach a given sample
quality in a fraction of the steps. But these weights neglect the nearly clean and the noisiest steps. A
trained model, of which ``build/ddpm-first`` is a copy, goes on with balanced weights by this command. The
folder ``--work`` must not have the first training's checkpoint.

    python training/train_ddpm.py --start build/ddpm-first --steps 6000 --lr 7e-4 --weights balanced --seed 1
"""

import argparse
from pathlib import Path

import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from fashion_mnist import load_split
from fitting import WEIGHTS, draw, fit, noise_loss, noised, on_device, parser, record_of, to_unit, trapezoid
from torch import Tensor

from qdiff_lib.utils.files import read_json, write_json

CONFIG = dict(
    sample_size=32,
    in_channels=1,
    out_channels=1,
    block_out_channels=(32, 64, 64, 64),
    down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    layers_per_block=2,
    downsample_padding=0,
    flip_sin_to_cos=False,
    freq_shift=1,
    norm_eps=1e-6,
    norm_num_groups=8,
    attention_head_dim=None,
)
DECAY_FRACTION = 0.2  # the learning rate falls to 0 over this last part of the steps


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    images = load_split("train", args.data)[0].to(args.device)  # uint8 (N, 1, 32, 32)
    first = UNet2DModel.from_pretrained(args.start / "unet") if args.start else UNet2DModel(**CONFIG)
    model = on_device(first.train(), args.device)
    scheduler = DDPMScheduler(num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02)

    def loss_of(step: int) -> tuple[Tensor, Tensor]:
        drawn = draw(step, images, args.batch_size, args.seed, 1000)
        noisy = noised(scheduler, to_unit(images[drawn.index]), drawn)
        return noise_loss(scheduler, model(noisy, drawn.t).sample, drawn, WEIGHTS[args.weights])

    progress = fit(model, loss_of, lambda *at: trapezoid(*at, args.lr, DECAY_FRACTION), args)
    DDPMPipeline(unet=model.cpu(), scheduler=scheduler).save_pretrained(args.out)
    record = record_of(args, "train_ddpm.py", progress)
    record["command"] += f" --lr {args.lr:g} --weights {args.weights}"
    if args.start:
        record["command"] += f" --start {args.start}"
        record["start"] = read_json(args.start / "training.json")
    write_json(args.out / "training.json", record)


def main() -> None:
    folders = dict(work=Path("build/train-ddpm-fashion"), out=Path("data/models/ddpm-fashion"))
    options = parser(__doc__, steps=3000, batch_size=64, lr=1e-3, **folders)
    options.add_argument(
        "--data", type=Path, help="folder with the IDX files (default: Debian's, else torchvision's)"
    )
    options.add_argument(
        "--start", type=Path, help="folder of a trained model to go on from (default: random weights)"
    )
    options.add_argument(
        "--weights", choices=WEIGHTS, default="min-snr", help="of the time steps in the loss"
    )
    train(options.parse_args())


if __name__ == "__main__":
    main()
