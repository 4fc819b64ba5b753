"""The samplers of the paper's tables: DDIM with even and with quadratic steps, PLMS, and DPM-Solver++."""

import functools
import inspect

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, PNDMScheduler
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor


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

    @functools.wraps(DDIMScheduler.step, assigned=())  # pipelines ask its signature what a step takes
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


SAMPLERS = {
    "ddim": (DDIMScheduler, {}),
    "ddim-quadratic": (QuadraticDDIM, {}),
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
