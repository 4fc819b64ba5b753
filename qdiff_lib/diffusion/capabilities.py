"""Which diffusers pipelines can be quantized, and why the others cannot."""

import inspect

from diffusers import DiffusionPipeline
from torch import nn

from ..graph.networks import UNET_CLASSES

SUPPORTED = (
    "supported are pipelines whose `unet` is a UNet2DModel or a UNet2DConditionModel with time and text as "
    "its only conditions: DDPMPipeline, DDIMPipeline, LDMPipeline, StableDiffusionPipeline and their like"
)
CONDITIONS = {
    "class_embed_type": "class embeddings",
    "num_class_embeds": "class embeddings",
    "addition_embed_type": "added conditions, as SDXL has",
    "time_cond_proj_dim": "an embedding of the guidance scale, as LCM has",
    "dual_cross_attention": "two texts",
}
"""Settings of a UNet's config that need inputs other than the sample, its time and its text."""

PLAIN = {"attention_type": ("default",), "encoder_hid_dim_type": (None, "text_proj")}
"""Settings of a UNet's config, and their values that need no such inputs."""

PICTURES = ("image", "control_image", "mask_image")
"""Arguments of pipelines whose UNet also reads an image."""


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
    for name, meaning in CONDITIONS.items():
        if config.get(name):
            raise ValueError(f"the UNet's config has {name}={config[name]!r}, {meaning}: {SUPPORTED}")
    for name, allowed in PLAIN.items():
        if config.get(name, allowed[0]) not in allowed:
            raise ValueError(
                f"the UNet's config has {name}={config[name]!r}, not one of {allowed}: {SUPPORTED}"
            )


def check_pipeline(pipe: DiffusionPipeline) -> None:
    """Check that ``pipe`` has a UNet that can be quantized, and that no image guides it.

    Raises:
        ValueError: otherwise, for example for diffusion transformers (DiT), SDXL, ControlNet and pipelines
            that start from an image.
    """
    name, unet = type(pipe).__name__, getattr(pipe, "unet", None)
    if unet is None:
        networks = ", ".join(f"{key} ({type(part).__name__})" for key, part in pipe.components.items())
        raise ValueError(f"{name} has no unet, but {networks}: {SUPPORTED}")
    check_unet(unet)
    pictures = [key for key in inspect.signature(pipe.__call__).parameters if key in PICTURES]
    if pictures:
        raise ValueError(f"{name} takes {pictures[0]!r}, which the UNet sees beside its sample: {SUPPORTED}")


def takes_prompts(pipe: DiffusionPipeline) -> bool:
    """Return whether the pipeline draws from a text."""
    return "prompt" in inspect.signature(pipe.__call__).parameters
