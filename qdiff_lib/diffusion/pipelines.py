"""Copies of a diffusers pipeline with another sampler or network, and access to each denoising step."""

import functools
import inspect
from collections.abc import Callable
from contextlib import contextmanager

import torch
from diffusers import DDPMPipeline, DiffusionPipeline
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor, nn

from ..graph.finite import check_weights, is_finite
from ..utils.typed import check_type
from .schedulers import make_scheduler


def with_sampler(pipe: DiffusionPipeline, sampler: str | None) -> DiffusionPipeline:
    """Return the same pipeline with another sampler. The given pipeline does not change.

    Args:
        sampler: a key of ``schedulers.SAMPLERS``; None: the pipeline's own.

    Raises:
        ValueError: the name is unknown, or the pipeline cannot drive this sampler, as LCM's, which needs its
            own.
    """
    check_type("pipe", pipe, DiffusionPipeline, "a pipeline of diffusers, such as load('ddpm-fashion')")
    if sampler is None:
        return with_components(pipe)
    scheduler = make_scheduler(sampler, pipe.scheduler, latent=decoder_of(pipe) is not None)
    changed = with_components(pipe, scheduler=scheduler)
    if "original_inference_steps" in inspect.signature(pipe.__call__).parameters:  # LCM
        raise ValueError(
            f"sampler={sampler!r}: {type(pipe).__name__} draws with its own sampler only; use sampler=None, "
            "or on the command line --sampler own"
        )
    unfit = isinstance(pipe, DDPMPipeline) and not takes_generator(scheduler)  # it passes one to each step
    if unfit or type(changed.scheduler) is not type(scheduler):  # DDIMPipeline turns any other into DDIM
        kind, own = type(scheduler).__name__, "sampler=None, or on the command line --sampler own"
        raise ValueError(
            f"sampler={sampler!r}: {type(pipe).__name__} cannot drive a {kind}; use "
            f"{own if sampler == 'ddim' else repr('ddim')}"
        )
    return changed


def takes_generator(scheduler: SchedulerMixin) -> bool:
    """Return whether a denoising step of the scheduler takes a ``generator`` for its noise."""
    return "generator" in inspect.signature(scheduler.step).parameters


def with_components(pipe: DiffusionPipeline, **changes) -> DiffusionPipeline:
    """Return a pipeline of the same class that shares all components and settings except ``changes``."""
    components = {**pipe.components, **changes}
    names = inspect.signature(type(pipe).__init__).parameters
    settings = {name: pipe.config[name] for name in names if name in pipe.config and name not in components}
    if "add_watermarker" in names:  # SDXL, which does not keep this setting
        settings["add_watermarker"] = pipe.watermark is not None
    changed = type(pipe)(**components, **settings)
    changed.set_progress_bar_config(disable=True)
    return changed


def decoder_of(pipe: DiffusionPipeline) -> nn.Module | None:
    """Return the decoder of a latent pipeline, which turns latents into images; None for other pipelines."""
    return getattr(pipe, "vae", None) or getattr(pipe, "vqvae", None)


@contextmanager
def replaced_step(pipe: DiffusionPipeline, wrap: Callable[[Callable], Callable]):
    """Within the block, replace the scheduler's ``step`` by ``wrap(step)``, with the same signature."""
    original, own = pipe.scheduler.step, vars(pipe.scheduler).get("step")
    pipe.scheduler.step = functools.wraps(original)(wrap(original))
    try:
        yield
    finally:
        del pipe.scheduler.step
        if own is not None:
            pipe.scheduler.step = own


def each_step(pipe: DiffusionPipeline, callback: Callable[[Tensor], None]):
    """Within the block, call ``callback(x_t)`` with the scheduler's output after every denoising step."""

    def wrap(original):
        def step(*args, **kwargs):
            out = original(*args, **kwargs)
            callback((out[0] if isinstance(out, tuple) else out.prev_sample).detach())
            return out

        return step

    return replaced_step(pipe, wrap)


def seeded_steps(pipe: DiffusionPipeline, generators: list[torch.Generator]):
    """Within the block, draw the noise that a step adds from ``generators``, one for each image.

    Some pipelines do not pass their generators to the steps. Without this, their noise would have no seed.
    """
    added = {"generator": generators} if takes_generator(pipe.scheduler) else {}

    def wrap(original):
        def step(*args, **kwargs):
            return original(*args, **{**added, **kwargs})

        return step

    return replaced_step(pipe, wrap)


def finite_steps(pipe: DiffusionPipeline):
    """Within the block, check what the network predicts and what the scheduler makes of it, at each step.

    Raises:
        ValueError: a value is not finite. The message names the weight, the network or the scheduler.
    """

    def wrap(original: Callable) -> Callable:
        def step(*args, **kwargs):
            given = dict(zip(("model_output", "timestep", "sample"), args, strict=False)) | kwargs
            time = torch.as_tensor(given["timestep"]).flatten()[0].item()
            if not is_finite(given["model_output"]):
                check_weights(pipe.unet, "the network")
                raise ValueError(
                    f"the network's prediction at time {time:g} is not finite, although its weights are: use "
                    "float32 (pipe.to(torch.float32)), or look for a layer that overflows"
                )
            out = original(*args, **kwargs)
            if not is_finite(out[0] if isinstance(out, tuple) else out.prev_sample):
                kind = type(pipe.scheduler).__name__
                raise ValueError(
                    f"{kind} gives values that are not finite after time {time:g}: use another sampler, such "
                    "as 'ddim', or another number of steps"
                )
            return out

        return step

    return replaced_step(pipe, wrap)
