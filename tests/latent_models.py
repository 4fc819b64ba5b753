"""Latent and text-guided pipelines of a few thousand random weights, with a tokenizer of their own."""

import json
import tempfile
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    LDMPipeline,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    VQModel,
)
from tiny_models import ADDED, CLASSES, GUIDED, POOLED, TRAINED_STEPS, conditional_unet, ddim, ddpm, unet2d
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from qdiff_lib import with_sampler

LATENT = dict(in_channels=4, out_channels=4)
WIDTH = 12  # of a token's embedding, as conditional_unet reads it
LETTERS = "abcdefghijklmnopqrstuvwxyz"
PROMPTS = ("red apple", "cat face", "flag", "bicycle", "blue heart")
NOISE = dict(num_train_timesteps=TRAINED_STEPS, beta_schedule="scaled_linear", beta_start=1e-3, beta_end=0.2)


def tokenizer():
    """A CLIP tokenizer that knows letters and the word "apple"; files as the hub has them."""
    merges = ["a p", "l e</w>", "ap p", "app le</w>"]
    words = [
        *LETTERS,
        *(f"{letter}</w>" for letter in LETTERS),
        *(merge.replace(" ", "") for merge in merges),
    ]
    vocabulary = {word: i for i, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "vocab.json").write_text(json.dumps(vocabulary))
        Path(folder, "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
        return CLIPTokenizer.from_pretrained(folder, model_max_length=16)


def text_encoder(words, kind=CLIPTextModel, width=WIDTH):
    """A CLIP text encoder of one layer; SDXL's second one also projects the whole text."""
    config = CLIPTextConfig(
        vocab_size=words,
        hidden_size=width,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        projection_dim=width,
        bos_token_id=words - 2,
        eos_token_id=words - 1,
    )
    return kind(config)


def seeded(build, seed=0):
    """What ``build()`` makes from random numbers, in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build().eval()


def first_stage(kind, **options):
    """An autoencoder that halves the image's sides: 8 x 8 latents of 16 x 16 images."""
    return seeded(
        lambda: kind(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(4, 8),
            norm_num_groups=2,
            **{"latent_channels": 4, **options},
        )
    )


def stable_diffusion(unet=None):
    """A StableDiffusionPipeline with PLMS, as the hub's v1.4 has it, but for the safety checker."""
    words = tokenizer()
    pipe = StableDiffusionPipeline(
        vae=first_stage(AutoencoderKL),
        text_encoder=seeded(lambda: text_encoder(len(words))),
        tokenizer=words,
        unet=unet or conditional_unet(**LATENT),
        scheduler=PNDMScheduler(**NOISE, skip_prk_steps=True, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def latent_diffusion(unet=None):
    """An unconditional LDMPipeline with a vector-quantized first stage."""
    scheduler = DDIMScheduler(**NOISE, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    vqvae = first_stage(VQModel, num_vq_embeddings=16, scaling_factor=1.0)
    pipe = LDMPipeline(vqvae=vqvae, unet=unet or unet2d(**LATENT), scheduler=scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def latent_consistency(unet=None):
    """A LatentConsistencyModelPipeline, whose network reads the guidance scale."""
    words = tokenizer()
    pipe = LatentConsistencyModelPipeline(
        vae=first_stage(AutoencoderKL),
        text_encoder=seeded(lambda: text_encoder(len(words))),
        tokenizer=words,
        unet=unet or conditional_unet(**LATENT, **GUIDED),
        scheduler=LCMScheduler(**{**NOISE, "beta_end": 0.02}, original_inference_steps=10),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def stable_diffusion_xl(unet=None):
    """A StableDiffusionXLPipeline: its network reads both texts, the second one as a whole, and sizes."""
    words, second = tokenizer(), lambda: text_encoder(len(tokenizer()), CLIPTextModelWithProjection, POOLED)
    pipe = StableDiffusionXLPipeline(
        vae=first_stage(AutoencoderKL),
        text_encoder=seeded(lambda: text_encoder(len(words))),
        text_encoder_2=seeded(second),
        tokenizer=words,
        tokenizer_2=tokenizer(),
        unet=unet or conditional_unet(**LATENT, **ADDED),
        scheduler=DDIMScheduler(**NOISE, clip_sample=False, set_alpha_to_one=False, steps_offset=1),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


CONDITIONED = {
    "ddpm-classes": (lambda: ddpm(unet2d(**CLASSES)), dict(class_labels=[2, 0, 1])),
    "ddim-classes": (lambda: ddim(unet2d(**CLASSES)), dict(class_labels=[2, 0])),
    "class-times": (lambda: ddim(unet2d(class_embed_type="timestep")), dict(class_labels=[2, 70])),
    "text-and-classes": (
        lambda: with_sampler(stable_diffusion(conditional_unet(**LATENT, **CLASSES)), "ddim"),
        dict(prompts=PROMPTS[:3], class_labels=[1, 2]),
    ),
    "sdxl": (stable_diffusion_xl, dict(prompts=PROMPTS[:3])),
    "lcm": (latent_consistency, dict(prompts=PROMPTS[:3])),
}
"""Pipelines with more conditions than time and text, and what they are asked to draw."""
