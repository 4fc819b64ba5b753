"""Train ``data/models/sd-emoji``: Stable Diffusion at 64x64, its text encoder and UNet from the start.

    python training/train_autoencoder.py --kind kl --steps 3000 --seed 0
    python training/train_sd.py --seconds 135 --batch-size 512 --seed 0 --device cuda

The autoencoder is trained first and then fixed; the latents are encoded once. The text encoder learns with
the UNet (Rombach et al., 2022, section 3.3). A tenth of the prompts is empty, for classifier-free guidance
(Ho and Salimans, 2022). Killed runs resume from the last checkpoint in ``--work``.
"""

import argparse
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from emoji import read_emoji
from fitting import draw, fit, noise_loss, noised, on_device, record_of, trapezoid
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from torch import Tensor, nn
from train_autoencoder import latent_parser, latents_of
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from qdiff_lib.io.checkpoint import forget_origin
from qdiff_lib.utils.files import read_json, write_json

TOKENS = 16  # of a prompt, with the marks of its start and end
VOCABULARY = 3584  # at most: every word of the prompts gets a token of its own
TEXT = dict(hidden_size=128, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4)
UNET = dict(
    sample_size=16,
    in_channels=4,
    out_channels=4,
    block_out_channels=(64, 128, 192),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    layers_per_block=1,
    cross_attention_dim=TEXT["hidden_size"],
    attention_head_dim=(2, 4, 6),  # the number of heads, of 32 features each
    norm_num_groups=16,
)
SCHEDULE = dict(  # that of Stable Diffusion v1.4
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    skip_prk_steps=True,
    set_alpha_to_one=False,
    steps_offset=1,
)
CHOICE = torch.tensor([0.3, 0.3, 0.2, 0.1, 0.1])  # name, alias, name with kind, kind, empty
DECAY_FRACTION = 0.4  # the learning rate falls to 0 over this last part of the steps


class TextToNoise(nn.Module):
    """The text encoder and the UNet, as one module to train."""

    def __init__(self, tokenizer: CLIPTokenizer):
        super().__init__()
        ids = dict(bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)
        config = CLIPTextConfig(
            vocab_size=len(tokenizer),
            max_position_embeddings=TOKENS,
            pad_token_id=tokenizer.pad_token_id,
            **ids,
            **TEXT,
        )
        self.text_encoder = CLIPTextModel(config)
        self.unet = UNet2DConditionModel(**UNET)

    def forward(self, noisy: Tensor, t: Tensor, ids: Tensor) -> Tensor:
        """The noise in latents (B, 4, 16, 16) at time steps (B,), told the tokens (B, 16) of the prompts."""
        return self.unet(noisy, t, self.text_encoder(ids).last_hidden_state).sample


def make_tokenizer(prompts: list[str]) -> CLIPTokenizer:
    """A CLIP tokenizer whose byte pairs are merged by their frequency in ``prompts``.

    The bytes get their numbers here, alone and as the end of a word: the trainer's own change per run.
    """
    untrained = CLIPTokenizer()
    letters = sorted(ByteLevel.alphabet())
    first = [untrained.bos_token, untrained.eos_token, *letters, *(letter + "</w>" for letter in letters)]
    trainer = BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=first, end_of_word_suffix="</w>", show_progress=False
    )
    untrained.backend_tokenizer.train_from_iterator(prompts, trainer)
    model = json.loads(untrained.backend_tokenizer.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    return CLIPTokenizer(vocab=model["vocab"], merges=merges, model_max_length=TOKENS)


def to_ids(tokenizer: CLIPTokenizer, prompts: list[str]) -> Tensor:
    """The tokens (N, 16) of prompts, padded and cut as ``StableDiffusionPipeline`` does."""
    return tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    vae = AutoencoderKL.from_pretrained(args.autoencoder)
    images, emoji = read_emoji(args.data)
    latents, about = latents_of(args, vae, images)  # (N, 4, 16, 16)
    tokenizer = make_tokenizer([prompt for each in emoji for prompt in each.prompts()])
    ids = torch.stack([to_ids(tokenizer, [*each.prompts(), ""]) for each in emoji])  # (N, 5, 16)
    scheduler = PNDMScheduler(**SCHEDULE)
    model = on_device(TextToNoise(tokenizer), args.device)
    choice = CHOICE.to(args.device)
    latents, ids = latents.to(args.device), ids.to(args.device)

    def loss_of(step: int) -> tuple[Tensor, Tensor]:
        drawn = draw(step, latents, args.batch_size, args.seed, len(scheduler.alphas_cumprod))
        chosen = torch.multinomial(choice, args.batch_size, replacement=True, generator=drawn.generator)
        noisy = noised(scheduler, latents[drawn.index], drawn)
        return noise_loss(scheduler, model(noisy, drawn.t, ids[drawn.index, chosen]), drawn)

    progress = fit(model, loss_of, lambda *at: trapezoid(*at, args.lr, DECAY_FRACTION), args)
    save(vae, model.cpu(), tokenizer, scheduler, args.out)
    write_json(args.out / "training.json", record_of(args, "train_sd.py", progress) | about)


def save(vae: AutoencoderKL, model: TextToNoise, tokenizer: CLIPTokenizer, scheduler, out: Path) -> None:
    """Write in half precision, to be loaded in float32; the tokenizer is for old and new transformers."""
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=model.text_encoder,
        tokenizer=tokenizer,
        unet=model.unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.to(torch.float16).save_pretrained(out)
    forget_origin(out / "vae" / "config.json")
    encoder = out / "text_encoder" / "config.json"
    write_json(encoder, {**read_json(encoder), "dtype": "float32"})
    tokenizer.backend_tokenizer.model.save(str(out / "tokenizer"))


def main() -> None:
    train(latent_parser(__doc__, "sd-emoji", "kl").parse_args())


if __name__ == "__main__":
    main()
