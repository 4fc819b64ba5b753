"""Which diffusers pipelines can be quantized, and why the others cannot."""

import inspect

from diffusers import DDPMPipeline, DiffusionPipeline, SchedulerMixin
from torch import Tensor, nn

from ..graph.model_inputs import reads_log_time, reads_text, text_width
from ..graph.networks import UNET_CLASSES
from ..utils.typed import check_type
from .pipelines import decoder_of, takes_generator

SUPPORTED = (
    "supported are pipelines whose `unet` is a UNet2DModel or a UNet2DConditionModel with no conditions but "
    "time, text, class labels, and those that SDXL and LCM add: DDPMPipeline, DDIMPipeline, LDMPipeline, "
    "StableDiffusionPipeline, StableDiffusionXLPipeline, LatentConsistencyModelPipeline and their like"
)
PLAIN = {
    "class_embed_type": (
        (None, "timestep"),
        "vectors as class conditions: to quantize the network for one vector, add "
        "unet.class_embedding(vector) to unet.time_embedding.linear_2.bias, set unet.class_embedding = None, "
        "and call unet.register_to_config(class_embed_type=None, num_class_embeds=None)",
    ),
    "addition_embed_type": ((None, "text_time"), "added conditions other than those of SDXL, 'text_time'"),
    "dual_cross_attention": ((None, False), "attention to two texts"),
    "attention_type": (("default",), "boxes with texts, as GLIGEN has: quantize the model without them"),
    "encoder_hid_dim_type": (
        (None, "text_proj"),
        "pictures as conditions, as IP-Adapter has: call pipe.unload_ip_adapter() first if it was loaded",
    ),
}
"""Settings of a UNet's config: the values that can be quantized, and what the others mean."""

STEP = ("model_output", "timestep", "sample")
"""What every pipeline gives to a step of its scheduler."""

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
    if reads_text(unet):
        text_width(unet)


def check_pipeline(pipe: DiffusionPipeline) -> None:
    """Check that ``pipe`` has a UNet that can be quantized, and that no image guides it.

    Raises:
        ValueError: otherwise, for example for diffusion transformers (DiT), ControlNet, inpainting and
            pipelines that start from an image.
        TypeError: ``pipe`` is no pipeline.
    """
    check_type("pipe", pipe, DiffusionPipeline, "a pipeline of diffusers, such as load('ddpm-fashion')")
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


def check_scheduler(pipe: DiffusionPipeline) -> None:
    """Check that the pipeline can take the steps of its scheduler.

    Raises:
        ValueError: the scheduler does not go from one time of the training to the next, or needs what the
            pipeline does not do.
    """
    scheduler, name, kind = pipe.scheduler, type(pipe).__name__, type(pipe.scheduler).__name__
    if not hasattr(scheduler, "step") or "num_train_timesteps" not in scheduler.config:
        raise ValueError(
            f"{name} draws with a {kind}, which does not go from one time of the training to the next: "
            "quantize a network that was trained for times, as those of DDPMPipeline are"
        )
    problem = ""
    if needed := needed_by_steps(scheduler):
        problem = f"whose steps need {', '.join(needed)}"
    elif isinstance(pipe, DDPMPipeline) and not takes_generator(scheduler):
        problem = "which takes no generator"
    if problem:
        raise ValueError(
            f"{name} cannot drive a {kind}, {problem}: use the sampler 'ddim' (with_sampler(pipe, 'ddim'), "
            "sampler='ddim' in a recipe, --sampler ddim in a command)"
        )


def needed_by_steps(scheduler: SchedulerMixin) -> list[str]:
    """Return the arguments that a step of the scheduler needs, and that no pipeline gives to it."""
    given = inspect.signature(scheduler.step).parameters.values()
    named = [each for each in given if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
    return [each.name for each in named if each.default is each.empty and each.name not in STEP]


def check_times(unet: nn.Module, times: Tensor, sampler: str) -> None:
    """Check that the network can embed the diffusion times of a sampler.

    Raises:
        ValueError: it has learned embeddings of other times, or takes the logarithm of a time of 0.
    """
    if unet.config.get("time_embedding_type") == "learned":
        last = unet.config.num_train_timesteps - 1
        if times.is_floating_point() or times.max() > last:
            raise ValueError(
                f"{sampler} asks for time {times.max().item():g}, and the network has learned embeddings of "
                f"the whole times from 0 to {last} (time_embedding_type='learned'): use a sampler of these "
                f"times, such as 'ddim' with num_train_timesteps={last + 1}"
            )
    if reads_log_time(unet) and times.min() <= 0:
        raise ValueError(
            f"{sampler} asks for time 0, and the network embeds the logarithm of the time "
            "(time_embedding_type='fourier'): end at a later time, with timestep_spacing='trailing' in "
            "scheduler_config.json"
        )


def takes_prompts(pipe: DiffusionPipeline) -> bool:
    """Return whether the pipeline draws from a text."""
    return "prompt" in inspect.signature(pipe.__call__).parameters


def reads_guidance(unet: nn.Module) -> bool:
    """Return whether the network reads the guidance scale (LCM). Such a network needs no second pass."""
    return bool(unet.config.get("time_cond_proj_dim"))
