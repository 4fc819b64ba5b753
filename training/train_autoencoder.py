"""Train the autoencoders of ``sd-emoji`` (AutoencoderKL) and ``ldm-emoji`` (VQModel), 64x64 to 16x16x4.

    python training/train_autoencoder.py --kind kl --steps 3000 --seed 0
    python training/train_autoencoder.py --kind vq --steps 1000 --seed 0

The second starts from the first one's weights, with a codebook of latents drawn from it. Both minimize the
mean absolute error of the pixels, their local means and their differences; the first also the latents' KL
divergence from a normal distribution (Kingma and Welling, 2014), the second the codebook's commitment loss
(van den Oord et al., 2017). Killed runs resume from the last checkpoint.
"""

import argparse
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, VQModel
from emoji import ARCHIVE, SIZE, read_emoji
from fitting import fit, generator_of, inverse_root, on_device, parser, record_of, to_unit
from torch import Tensor
from torch.nn.functional import avg_pool2d

from qdiff_lib.utils.files import write_json

CONFIG = dict(
    down_block_types=("DownEncoderBlock2D",) * 3,
    up_block_types=("UpDecoderBlock2D",) * 3,
    block_out_channels=(32, 32, 64),
    layers_per_block=1,
    latent_channels=4,
    norm_num_groups=8,
    sample_size=SIZE,
)
CODES = 4096
KL_WEIGHT = 1e-3
CONSTANT_STEPS = 1000  # at the peak of the learning rate


def picture_error(decoded: Tensor, images: Tensor) -> Tensor:
    """The mean absolute error of pixels, of means over 4x4 pixels, and of differences between neighbours.

    The means hold the colours: without them a green apple stays brown for a thousand steps.
    """
    error = decoded.float() - images  # (N, 3, 64, 64)
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    return error.abs().mean() + 2 * avg_pool2d(error, 4).abs().mean() + 0.5 * edges


def kl_loss(model: AutoencoderKL, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The loss of one batch, and its error of the pictures."""
    posterior = model.encode(images).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=generator, device=images.device)
    decoded = model.decode(posterior.mean + posterior.std * noise).sample
    mean, logvar = posterior.mean.float(), posterior.logvar.float()
    divergence = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    error = picture_error(decoded, images)
    return error + KL_WEIGHT * divergence, error


def vq_loss(model: VQModel, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The loss of one batch, and its error of the pictures."""
    output = model(images)
    error = picture_error(output.sample, images)
    return error + output.commit_loss.mean(), error


@torch.no_grad()
def quantized_twin(source: AutoencoderKL, images: Tensor, seed: int) -> VQModel:
    """A VQModel that encodes to the means of ``source``, with a codebook of latents of ``images``."""
    twin = VQModel(**CONFIG, num_vq_embeddings=CODES)
    state, n = source.state_dict(), CONFIG["latent_channels"]
    mix = state["quant_conv.weight"][:n, :, 0, 0]  # (n, 2n): from the encoder's 2n outputs to the mean
    weight, bias = state["encoder.conv_out.weight"], state["encoder.conv_out.bias"]
    state["encoder.conv_out.weight"] = torch.einsum("oi,ichw->ochw", mix, weight)
    state["encoder.conv_out.bias"] = mix @ bias + state["quant_conv.bias"][:n]
    state["quant_conv.weight"], state["quant_conv.bias"] = torch.eye(n)[:, :, None, None], torch.zeros(n)
    state["quantize.embedding.weight"] = torch.zeros(CODES, n)
    twin.load_state_dict(state)
    latents = torch.cat([twin.encode(part).latents for part in images.split(64)])  # (N, n, h, w)
    flat = latents.permute(0, 2, 3, 1).flatten(0, 2)
    chosen = torch.randperm(len(flat), generator=torch.Generator().manual_seed(seed))[:CODES]
    twin.quantize.embedding.weight.copy_(flat[chosen])
    return twin


@torch.no_grad()
def encode(model: AutoencoderKL | VQModel, images: Tensor) -> Tensor:
    """The latents (N, 4, 16, 16) of images in [-1, 1], unscaled: the means, or the unquantized codes."""
    codes = [model.encode(part) for part in images.split(64)]
    return torch.cat(
        [code.latents if isinstance(model, VQModel) else code.latent_dist.mean for code in codes]
    )


def latents_of(
    args: argparse.Namespace, model: AutoencoderKL | VQModel, images: Tensor
) -> tuple[Tensor, dict]:
    """The scaled latents (N, 4, 16, 16) of uint8 images, and what a card tells about them."""
    latents = encode(model, to_unit(images)) * model.config.scaling_factor
    record = json.loads((args.autoencoder / "training.json").read_text())
    return latents, {"images": len(images), "autoencoder": record}


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    images = to_unit(read_emoji(args.data)[0])
    if args.kind == "kl":
        model, loss = AutoencoderKL(**CONFIG), kl_loss
    else:
        model, loss = quantized_twin(AutoencoderKL.from_pretrained(args.start), images, args.seed), vq_loss
    model, placed = on_device(model, args.device), images.to(args.device)

    def loss_of(step: int) -> tuple[Tensor, Tensor]:
        generator = generator_of(step, args.seed, args.device)
        index = torch.randint(len(images), (args.batch_size,), generator=generator, device=args.device)
        total, error = loss(model, placed[index], generator)
        return total, error.detach()

    progress = fit(model, loss_of, lambda step, done: inverse_root(step, args.lr, CONSTANT_STEPS), args)
    scale = 1 / encode(model.cpu(), images).std().item()
    model.register_to_config(scaling_factor=round(scale, 5))
    model.save_pretrained(args.out)
    record = record_of(args, f"train_autoencoder.py --kind {args.kind}", progress)
    if args.kind == "vq":
        record["start"] = json.loads((args.start / "training.json").read_text())
    write_json(args.out / "training.json", record)


def latent_parser(description: str, model: str, kind: str) -> argparse.ArgumentParser:
    """The options of training ``model``, such as "sd-emoji", on the latents of the autoencoder ``kind``."""
    folders = dict(work=Path(f"build/train-{model}"), out=Path(f"data/models/{model}"))
    options = parser(description, steps=6000, batch_size=32, lr=1e-3, **folders)
    options.add_argument("--data", type=Path, default=ARCHIVE, help="the archive that npm pack downloads")
    trained = Path(f"build/emoji-{kind}")
    options.add_argument("--autoencoder", type=Path, default=trained, help="the trained one")
    return options


def main() -> None:
    options = parser(__doc__, steps=3000, batch_size=16, lr=2e-3)
    options.add_argument("--kind", choices=("kl", "vq"), required=True)
    options.add_argument("--data", type=Path, default=ARCHIVE, help="the archive that npm pack downloads")
    options.add_argument("--start", type=Path, default=Path("build/emoji-kl"), help="of vq: the trained kl")
    args = options.parse_args()
    args.work = args.work or Path(f"build/train-emoji-{args.kind}")
    args.out = args.out or Path(f"build/emoji-{args.kind}")
    train(args)


if __name__ == "__main__":
    main()
