"""Sampling with any diffusers pipeline and scheduler, from the same noise for every model."""

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from torch import Tensor

from .progress import progress_bar

ROLES = ("evaluation", "calibration")
LAST_SEED = 2**11 - 1
LAST_IMAGE = 2**20 - 1


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
    """One CPU generator for each image: its noise depends on role, seed and index, not on its batch.

    The two roles never share a stream, so calibration noise is never evaluated on. torch seeds its CPU
    generator with 32 bits: 1 for the role, 11 for the seed, 20 for the index. Raises ValueError beyond.
    """
    if not 0 <= seed <= LAST_SEED:
        raise ValueError(f"seed={seed!r} must be from 0 to {LAST_SEED}")
    if start + count > LAST_IMAGE + 1:
        raise ValueError(f"image {start + count - 1} is beyond {LAST_IMAGE}, the last one of a seed")
    base = ROLES.index(role) << 31 | seed << 20
    return [torch.Generator().manual_seed(base + i) for i in range(start, start + count)]


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
    pipe: DiffusionPipeline,
    n: int,
    steps: int,
    seed: int = 0,
    first: int = 0,
    batch_size: int = 64,
    record: bool = False,
    progress: bool = False,
) -> Samples:
    """Draw images ``first`` to ``first + n - 1`` of a seed, in ``steps`` denoising steps.

    The noise of an image depends on the seed and its number alone, whatever the model and the batch size.
    record: keep the whole trajectory, as for Figure 3 of the paper. progress: show a bar with an ETA. Raises
    ValueError for counts below 1 and for more steps than the model has.
    """
    check_counts(pipe, n, steps, batch_size)
    images, trajectories = [], []
    starts = range(first, first + n, batch_size)
    with progress_bar(total=steps * len(starts), desc=f"{n} images", unit="step", shown=progress) as bar:
        for start in starts:
            kept: list[Tensor] = []

            def after_step(x: Tensor, kept: list[Tensor] = kept) -> None:
                bar.update()
                if record:
                    kept.append(x.cpu())

            with each_step(pipe, after_step):
                images.append(run_batch(pipe, start, min(batch_size, first + n - start), steps, seed))
            if record:
                trajectories.append(torch.stack(kept))
    return Samples(torch.cat(images), torch.cat(trajectories, dim=1) if record else None)
