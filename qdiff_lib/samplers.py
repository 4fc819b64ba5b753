"""The samplers of the paper's tables: DDIM with even and with quadratic steps, PLMS, and DPM-Solver++."""

import functools
import inspect
from fractions import Fraction

import numpy as np
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, PNDMScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin

QUADRATIC_SHARE = 0.8  # of the training process at which the quadratic steps start, as in DDIM's code


class QuadraticDDIMScheduler(DDIMScheduler):
    """DDIM whose times are squares of even steps, so that most of them lie near the clean end.

    The paper's sampler for CIFAR-10 (Song et al., 2021, appendix D.2): with T training steps and S denoising
    steps, the times are ``floor((i sqrt(0.8 T) / (S - 1))^2)`` for i = 0 ... S - 1, each once.
    """

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Choose the times, in falling order. Raises ValueError for more steps than the model has."""
        super().set_timesteps(num_inference_steps, device)
        start = np.sqrt(QUADRATIC_SHARE * self.config.num_train_timesteps)
        times = np.unique((np.linspace(0, start, num_inference_steps) ** 2).astype(np.int64))
        self.timesteps = torch.from_numpy(times[::-1].copy()).to(device)

    @functools.wraps(DDIMScheduler.step)
    def step(self, model_output, timestep, sample, *args, **kwargs):
        """One step to the next time of the list, by DDIM's own formula, which assumes even gaps."""
        later = self.timesteps[self.timesteps < timestep]
        gap = int(timestep) - (int(later[0]) if len(later) else -1)
        steps, self.num_inference_steps = (
            self.num_inference_steps,
            Fraction(self.config.num_train_timesteps, gap),
        )
        try:
            return super().step(model_output, timestep, sample, *args, **kwargs)
        finally:
            self.num_inference_steps = steps


SAMPLERS = {
    "ddim": (DDIMScheduler, {}),
    "ddim-quadratic": (QuadraticDDIMScheduler, {"set_alpha_to_one": True}),
    "plms": (PNDMScheduler, {"skip_prk_steps": True}),
    "dpm++": (DPMSolverMultistepScheduler, {}),
}
"""Classes and settings by name."""


def make_scheduler(sampler: str, config: dict, latent: bool) -> SchedulerMixin:
    """The named sampler with the noise schedule of another one's ``config``; latents are never clipped.

    Raises ValueError for an unknown name.
    """
    if sampler not in SAMPLERS:
        names = ", ".join(map(repr, SAMPLERS))
        raise ValueError(
            f"sampler={sampler!r} is unknown; use {names}, or None for the pipeline's own scheduler"
        )
    kind, settings = SAMPLERS[sampler]
    if latent and "clip_sample" in inspect.signature(kind.__init__).parameters:
        settings = {**settings, "clip_sample": False}
    return kind.from_config(config, **settings)
