"""Variations of a diffusers pipeline: another sampler or network, and eyes on each denoising step."""

import functools
import inspect
from collections.abc import Callable
from contextlib import contextmanager

import torch
from diffusers import DDPMPipeline, DiffusionPipeline
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor, nn

from .schedulers import make_scheduler


def with_sampler(pipe: DiffusionPipeline, sampler: str | None) -> DiffusionPipeline:
    """The same pipeline with the named sampler, a key of ``schedulers.SAMPLERS``, or with its own for None.

    Raises ValueError for an unknown name, and for a sampler that the pipeline cannot drive.
    """
    if sampler is None:
        return with_components(pipe)
    scheduler = make_scheduler(sampler, pipe.scheduler.config, latent=decoder_of(pipe) is not None)
    changed = with_components(pipe, scheduler=scheduler)
    unfit = isinstance(pipe, DDPMPipeline) and not takes_generator(scheduler)  # it hands one to each step
    if unfit or type(changed.scheduler) is not type(scheduler):  # DDIMPipeline makes its own of any other
        kind = type(scheduler).__name__
        raise ValueError(f"sampler={sampler!r}: {type(pipe).__name__} cannot drive a {kind}; use 'ddim'")
    return changed


def takes_generator(scheduler: SchedulerMixin) -> bool:
    """Whether each step of the scheduler accepts the generator of its noise."""
    return "generator" in inspect.signature(scheduler.step).parameters


def with_components(pipe: DiffusionPipeline, **changes) -> DiffusionPipeline:
    """A pipeline of the same class that shares all components and settings but the ones given."""
    components = {**pipe.components, **changes}
    names = inspect.signature(type(pipe).__init__).parameters
    settings = {name: pipe.config[name] for name in names if name in pipe.config and name not in components}
    changed = type(pipe)(**components, **settings)
    changed.set_progress_bar_config(disable=True)
    return changed


def decoder_of(pipe: DiffusionPipeline) -> nn.Module | None:
    """The first stage of a latent pipeline, which turns latents into images; None for others."""
    return getattr(pipe, "vae", None) or getattr(pipe, "vqvae", None)


@contextmanager
def replaced_step(pipe: DiffusionPipeline, wrap: Callable[[Callable], Callable]):
    """Within the block, the scheduler's ``step`` is ``wrap(step)``; its signature stays readable."""
    original, own = pipe.scheduler.step, vars(pipe.scheduler).get("step")
    pipe.scheduler.step = functools.wraps(original)(wrap(original))
    try:
        yield
    finally:
        del pipe.scheduler.step
        if own is not None:
            pipe.scheduler.step = own


def each_step(pipe: DiffusionPipeline, callback: Callable[[Tensor], None]):
    """Within the block, ``callback(x_t)`` gets the scheduler's output after every denoising step."""

    def wrap(original):
        def step(*args, **kwargs):
            out = original(*args, **kwargs)
            callback((out[0] if isinstance(out, tuple) else out.prev_sample).detach())
            return out

        return step

    return replaced_step(pipe, wrap)


def seeded_steps(pipe: DiffusionPipeline, generators: list[torch.Generator]):
    """Within the block, steps that add noise draw it from ``generators``, though a pipeline forget it."""
    added = {"generator": generators} if takes_generator(pipe.scheduler) else {}

    def wrap(original):
        def step(*args, **kwargs):
            return original(*args, **{**added, **kwargs})

        return step

    return replaced_step(pipe, wrap)
