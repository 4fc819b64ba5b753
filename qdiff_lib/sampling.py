"""Sampling with any diffusers pipeline and scheduler, from the same noise for every model."""

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
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


class QuadraticDDIM(DDIMScheduler):
    """DDIM, eta 0, whose times are dense near the clean end: the paper's sampler for CIFAR-10.

    Step i of n, from the clean end, is at ``floor(0.8 T (i / (n - 1))^2)``, as in DDIM's code (Song et al.,
    2021, appendix D.3), which repeats its first times where these lie closer together than 1. Here no time
    comes twice: step i is at time i or later.
    """

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Raises ValueError for fewer than 2 steps, or a network that does not predict the noise."""
        if num_inference_steps < 2 or self.config.prediction_type != "epsilon":
            raise ValueError(
                f"num_inference_steps={num_inference_steps} must be at least 2, and prediction_type="
                f"{self.config.prediction_type!r} must be 'epsilon', for quadratic steps: use sampler='ddim'"
            )
        super().set_timesteps(num_inference_steps, device)
        index = torch.arange(num_inference_steps)
        share = (index.double() / (num_inference_steps - 1)).square()
        times = (0.8 * self.config.num_train_timesteps * share).long().maximum(index)
        self.timesteps = times.flip(0).to(device)

    def step(
        self, model_output: Tensor, timestep: Tensor, sample: Tensor, return_dict: bool = True, **options
    ) -> DDIMSchedulerOutput | tuple[Tensor, Tensor]:
        """DDIM's step (equation 12 there) from ``timestep`` to the next one of ``timesteps``, without noise.

        Raises ValueError for an ``eta`` other than 0.
        """
        if options.get("eta"):
            raise ValueError(
                f"eta={options['eta']!r} adds noise; quadratic steps have eta 0: use sampler='ddim'"
            )
        clean = super().step(model_output, timestep, sample, **options).pred_original_sample
        later = self.timesteps[self.timesteps < timestep]
        alpha = self.alphas_cumprod[later[0].item()] if len(later) else self.final_alpha_cumprod
        following = alpha.sqrt() * clean + (1 - alpha).sqrt() * model_output
        return DDIMSchedulerOutput(following, clean) if return_dict else (following, clean)


SAMPLERS = {"ddim": DDIMScheduler, "ddim-quadratic": QuadraticDDIM}


def with_sampler(pipe: DiffusionPipeline, sampler: str | None) -> DiffusionPipeline:
    """The same pipeline with the named sampler of ``SAMPLERS``, or None for its own.

    "ddim": DDIM (Song et al., 2021; eta 0) at equally spaced times; "ddim-quadratic": ``QuadraticDDIM``.
    """
    if sampler is None:
        return pipe
    if sampler not in SAMPLERS:
        named = ", ".join(map(repr, SAMPLERS))
        raise ValueError(f"sampler={sampler!r} is unknown; use {named}, or None for the pipeline's own")
    return with_components(pipe, scheduler=SAMPLERS[sampler].from_config(pipe.scheduler.config))


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
