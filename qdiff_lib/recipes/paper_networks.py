"""The noise networks of the paper's four models as plain diffusers configs (Q-Diffusion, section 4).

A config is the content of diffusers' ``config.json``, with the class under "_class_name".
``graph.networks.build`` makes a network with random weights from a config. This module needs no torch.

Sources: google/ddpm-cifar10-32 and CompVis/stable-diffusion-v1-4 on the Hugging Face hub; for the two LSUN
models `lsun_bedrooms-ldm-vq-4.yaml` and `lsun_churches-ldm-kl-8.yaml` of CompVis/latent-diffusion.
"""

from typing import Any

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
# Every attention has 8 heads: 24, 48, 48 and 96 channels a head on the four levels with attention. But
# UNet2DModel takes one head size for all levels, so a class of its own sets the number of heads.
LDM8_CHURCHES: dict[str, Any] = {
    "_class_name": "FixedHeadsUNet2DModel",
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

# 4 x 64 x 64 latents and 77 text tokens of 768 channels, 859.5 M parameters. In UNet2DConditionModel
# "attention_head_dim" means the number of heads: diffusers keeps this wrong name for old configs.
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
