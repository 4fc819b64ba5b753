"""Which diffusers pipelines can be quantized, and why the others cannot."""

import inspect

from diffusers import DiffusionPipeline
from torch import nn

from ..graph.networks import UNET_CLASSES
from .pipelines import decoder_of

SUPPORTED = (
    "supported are pipelines whose `unet` is a UNet2DModel or a UNet2DConditionModel with no conditions but "
    "time, text, class labels, and those that SDXL and LCM add: DDPMPipeline, DDIMPipeline, LDMPipeline, "
    "StableDiffusionPipeline, StableDiffusionXLPipeline, LatentConsistencyModelPipeline and their like"
)
PLAIN = {
    "class_embed_type": ((None,), "class embeddings other than of num_class_embeds=..."),
    "addition_embed_type": ((None, "text_time"), "added conditions other than those of SDXL, 'text_time'"),
    "dual_cross_attention": ((None, False), "attention to two texts"),
    "attention_type": (("default",), "boxes with texts, as GLIGEN has: quantize the model without them"),
    "encoder_hid_dim_type": (
        (None, "text_proj"),
        "pictures as conditions, as IP-Adapter has: call pipe.unload_ip_adapter() first if it was loaded",
    ),
}
"""Settings of a UNet's config: the values that can be quantized, and what the others mean."""

PICTURES = ("image", "control_image", "mask_image")
"""Arguments of pipelines whose UNet also reads an image, or that start from one."""


def check_unet(unet: nn.Module) -> None:
    """Check that ``unet`` can be quantized.

    Raises:
        ValueError: its class or one of its inputs is not supported, it is compiled, or it has adapters
            (LoRA).
    """
    if hasattr(unet, "_orig_mod"):
        raise ValueError(
            "the UNet is wrapped by torch.compile: quantize the network itself (pipe.unet = "
            "pipe.unet._orig_mod), and compile the quantized one"
        )
    if not isinstance(unet, tuple(UNET_CLASSES.values())):
        raise ValueError(f"the noise network is a {type(unet).__name__}: {SUPPORTED}")
    if any(type(module).__module__.partition(".")[0] == "peft" for module in unet.modules()):
        raise ValueError(
            "the UNet has adapters (LoRA) beside its layers: call pipe.fuse_lora(); "
            "pipe.unload_lora_weights() first, so that the layers alone are quantized"
        )
    config = unet.config
    for name, (allowed, meaning) in PLAIN.items():
        found = getattr(config, name, config.get(name, allowed[0]))  # IP-Adapter sets only the attribute
        if found not in allowed:
            raise ValueError(f"the UNet's config has {name}={found!r}, {meaning}; {SUPPORTED}")


def check_pipeline(pipe: DiffusionPipeline) -> None:
    """Check that ``pipe`` has a UNet that can be quantized, and that no image guides it.

    Raises:
        ValueError: otherwise, for example for diffusion transformers (DiT), ControlNet, inpainting and
            pipelines that start from an image.
    """
    name, unet = type(pipe).__name__, getattr(pipe, "unet", None)
    if unet is None:
        networks = ", ".join(f"{key} ({type(part).__name__})" for key, part in pipe.components.items())
        raise ValueError(f"{name} has no unet, but {networks}: {SUPPORTED}")
    check_unet(unet)
    pictures = [key for key in inspect.signature(pipe.__call__).parameters if key in PICTURES]
    if pictures:
        raise ValueError(
            f"{name} takes {pictures[0]!r}, so it does not draw from noise and text alone: quantize its "
            "UNet in a pipeline without images, such as StableDiffusionPipeline.from_pipe(pipe), and put the "
            f"quantized `unet` back; {SUPPORTED}"
        )
    decoder, channels = decoder_of(pipe), unet.config.in_channels
    latents = channels if decoder is None else decoder.config.get("latent_channels", channels)
    if channels != latents:
        raise ValueError(
            f"the UNet reads {channels} channels, and a latent of {name} has {latents}: it also reads an "
            f"image, as for inpainting; {SUPPORTED}"
        )


def takes_prompts(pipe: DiffusionPipeline) -> bool:
    """Return whether the pipeline draws from a text."""
    return "prompt" in inspect.signature(pipe.__call__).parameters


def reads_guidance(unet: nn.Module) -> bool:
    """Return whether the network reads the guidance scale (LCM). Such a network needs no second pass."""
    return bool(unet.config.get("time_cond_proj_dim"))
