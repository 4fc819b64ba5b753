"""The noise networks of the paper's four models as plain diffusers configs (Q-Diffusion, section 4).

A config is what diffusers stores as `config.json`, with the class under "_class_name". Nothing is downloaded:
a network built from one has random weights, and `build(LDM4_BEDROOMS, device="meta")` needs no memory at all.

Sources: google/ddpm-cifar10-32 and CompVis/stable-diffusion-v1-4 on the Hugging Face hub; for the two LSUN
models `lsun_bedrooms-ldm-vq-4.yaml` and `lsun_churches-ldm-kl-8.yaml` of CompVis/latent-diffusion.
"""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from diffusers.models.attention_processor import Attention
from torch import nn

UNET_CLASSES = {"UNet2DModel": UNet2DModel, "UNet2DConditionModel": UNet2DConditionModel}

# 3 x 32 x 32 pixels, 35.7 M parameters. One attention head, on the 16 x 16 level only.
DDPM_CIFAR10: dict[str, Any] = {
    "_class_name": "UNet2DModel",
    "sample_size": 32,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": [128, 256, 256, 256],
    "layers_per_block": 2,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
}

# 3 x 64 x 64 latents, 274.1 M parameters. Heads of 32 channels on the 32, 16 and 8 pixel levels.
LDM4_BEDROOMS: dict[str, Any] = {
    "_class_name": "UNet2DModel",
    "sample_size": 64,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": [224, 448, 672, 896],
    "layers_per_block": 2,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": 32,
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "norm_eps": 1e-5,
}

# 4 x 32 x 32 latents, 295.0 M parameters. Residual blocks resample; the time embedding scales and shifts.
# It has 8 heads everywhere, so 24, 48, 48 and 96 channels a head on its four levels with attention, while
# UNet2DModel takes one head size for all; so the number of heads is set afterwards, see `set_heads`.
LDM8_CHURCHES: dict[str, Any] = {
    "_class_name": "UNet2DModel",
    "sample_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [192, 384, 384, 768, 768],
    "layers_per_block": 2,
    "down_block_types": ["AttnDownBlock2D"] * 4 + ["DownBlock2D"],
    "up_block_types": ["ResnetUpsampleBlock2D"]
    + ["AttnUpBlock2D"] * 4,  # UpBlock2D cannot upsample by resnet
    "attention_head_dim": 48,
    "_heads": 8,
    "attn_norm_num_groups": 32,  # without it diffusers leaves out the norm of the middle attention
    "resnet_time_scale_shift": "scale_shift",
    "downsample_type": "resnet",
    "upsample_type": "resnet",
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "norm_eps": 1e-5,
}

# 4 x 64 x 64 latents and 77 text tokens of 768 channels, 859.5 M parameters. UNet2DConditionModel takes
# "attention_head_dim" as the number of heads, a misnomer that it keeps for old configs.
SD_V1_4: dict[str, Any] = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "norm_eps": 1e-5,
}


def build(config: Mapping[str, Any], device: str | torch.device = "cpu") -> nn.Module:
    """Build the UNet that a config describes, with random weights, in eval mode.

    Args:
        config: a diffusers UNet config with "_class_name" UNet2DModel or UNet2DConditionModel.
        device: where the parameters live; "meta" gives shapes without memory.

    Raises:
        TypeError: if `config` is not a mapping.
        ValueError: if "_class_name" is missing or names another class.
    """
    if not isinstance(config, Mapping):
        raise TypeError(
            f"config is a {type(config).__name__}; pass a dict such as architectures.DDPM_CIFAR10"
        )
    name = config.get("_class_name")
    if name not in UNET_CLASSES:
        raise ValueError(f'config["_class_name"] is {name!r}; set it to one of {", ".join(UNET_CLASSES)}')
    with torch.device(device):
        return set_heads(UNET_CLASSES[name].from_config(dict(config)).eval())


def set_heads(unet: nn.Module) -> nn.Module:
    """Give each attention the number of heads that the config has under "_heads"; without it, do nothing.

    diffusers carries that entry along with the config, but does not act on it.
    """
    heads = unet.config.get("_heads")
    for module in unet.modules():
        if heads and isinstance(module, Attention):
            module.heads = module.sliceable_head_dim = heads
            module.scale = (module.inner_dim // heads) ** -0.5
    return unet
