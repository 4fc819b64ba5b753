"""Sampling with any diffusers pipeline and scheduler, from the same noise for every model."""

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from torch import Tensor

ROLES = ("evaluation", "calibration")


@dataclass(frozen=True)
class Samples:
    """images: uint8 (N, C, H, W). trajectory: x_t after each step, (T, N, C, H, W), None unless recorded."""

    images: Tensor
    trajectory: Tensor | None = None


def with_sampler(pipe: DiffusionPipeline, sampler: str | None) -> DiffusionPipeline:
    """The same pipeline with the named sampler: "ddim" (Song et al., 2021; eta 0), or None for its own."""
    if sampler is None:
        return pipe
    if sampler != "ddim":
        raise ValueError(
            f"sampler={sampler!r} is unknown; use 'ddim', or None for the pipeline's own scheduler"
        )
    scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    return with_components(pipe, scheduler=scheduler)


def with_components(pipe: DiffusionPipeline, **changes) -> DiffusionPipeline:
    """A pipeline of the same class that shares all components but the ones given."""
    changed = type(pipe)(**{**pipe.components, **changes})
    changed.set_progress_bar_config(disable=True)
    return changed


def noise_generators(seed: int, start: int, count: int, role: str = "evaluation") -> list[torch.Generator]:
    """One CPU generator for each image: its noise depends on (role, seed, index), not on the batch it is in.

    The two roles never share a stream, so calibration noise is never evaluated on. Torch's CPU generator
    looks at the lowest 32 bits of its seed only: the role takes the highest of these.
    """
    base, first = ROLES.index(role) << 31, seed * 1_000_003 + start
    return [torch.Generator().manual_seed(base + i % 2**31) for i in range(first, first + count)]


def check_counts(pipe: DiffusionPipeline, n: int, steps: int, batch_size: int) -> None:
    """Raise ValueError for counts below 1 and for more steps than the model was trained with."""
    for name, value in (("n", n), ("steps", steps), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name}={value!r} must be at least 1")
    limit = pipe.scheduler.config.num_train_timesteps
    if steps > limit:
        raise ValueError(f"steps={steps} exceeds the {limit} steps that the model was trained with")


def run_batch(
    pipe: DiffusionPipeline, start: int, count: int, steps: int, seed: int, role: str = "evaluation"
) -> Tensor:
    """One run of the pipeline: ``count`` images of the seed from ``start`` on, uint8 (count, C, H, W)."""
    generators = noise_generators(seed, start, count, role)
    out = pipe(batch_size=count, generator=generators, num_inference_steps=steps, output_type="np").images
    return (torch.from_numpy(out).permute(0, 3, 1, 2) * 255).round().to(torch.uint8)


@contextmanager
def each_step(pipe: DiffusionPipeline, callback: Callable[[Tensor], None]):
    """Call ``callback(x_t)`` with the scheduler's output after every denoising step."""
    original = pipe.scheduler.step

    def step(*args, **kwargs):
        out = original(*args, **kwargs)
        callback((out[0] if isinstance(out, tuple) else out.prev_sample).detach())
        return out

    pipe.scheduler.step = step
    try:
        yield
    finally:
        del pipe.scheduler.step


def sample(
    pipe: DiffusionPipeline, n: int, steps: int, seed: int = 0, batch_size: int = 64, record: bool = False
) -> Samples:
    """Draw ``n`` images in ``steps`` denoising steps, from noise that depends on ``seed`` alone.

    record: keep the whole trajectory, as for Figure 3 of the paper. Raises ValueError for counts below 1 and
    for more steps than the model has.
    """
    check_counts(pipe, n, steps, batch_size)
    images, trajectories = [], []
    for start in range(0, n, batch_size):
        kept: list[Tensor] = []
        with each_step(pipe, lambda x, kept=kept: kept.append(x.cpu()) if record else None):
            images.append(run_batch(pipe, start, min(batch_size, n - start), steps, seed))
        if record:
            trajectories.append(torch.stack(kept))
    return Samples(torch.cat(images), torch.cat(trajectories, dim=1) if record else None)
