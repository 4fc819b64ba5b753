"""The samplers of the paper's tables: DDIM with even and with quadratic steps, PLMS, and DPM-Solver++."""

import functools
import inspect

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, PNDMScheduler
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor


class QuadraticDDIM(DDIMScheduler):
    """DDIM with eta 0 and quadratic steps, dense near the clean end: the paper's sampler for CIFAR-10.

    Step i of n, counted from the clean end, is at time ``floor(0.8 T (i / (n - 1))^2)``, as in DDIM's code
    (Song et al., 2021, appendix D.3). DDIM's code repeats a time where two of these round to the same number.
    Here every time is different: step i is at time i or later.
    """

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Set the diffusion times of the denoising steps.

        Raises:
            ValueError: there are fewer than 2 steps, or the network does not predict the noise.
        """
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

    @functools.wraps(DDIMScheduler.step, assigned=())  # pipelines read from the signature what a step takes
    def step(
        self, model_output: Tensor, timestep: Tensor, sample: Tensor, return_dict: bool = True, **options
    ) -> DDIMSchedulerOutput | tuple[Tensor, Tensor]:
        """Compute DDIM's step from ``timestep`` to the next time, without noise (Song et al., 2021, eq. 12).

        Raises:
            ValueError: ``eta`` is not 0.
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
    "dpm++": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
}
"""The class and settings of each sampler by name."""

PREDICTIONS = {
    "dpm++": ("epsilon", "sample", "v_prediction", "flow_prediction"),
    "plms": ("epsilon", "v_prediction"),
}
"""What networks may predict, by the name of the sampler; for others it is ``PREDICTIONS_OF_DDIM``."""
PREDICTIONS_OF_DDIM = ("epsilon", "sample", "v_prediction")

OWN = "draw with the pipeline's own sampler (sampler=None, on the command line --sampler own)"

SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
"""The noise schedules that all of them know by name."""


def make_scheduler(sampler: str, own: SchedulerMixin, latent: bool) -> SchedulerMixin:
    """Return the named sampler with the noise schedule of another scheduler.

    Args:
        sampler: a key of ``SAMPLERS``.
        own: the scheduler that the network was trained for. A schedule that the new one does not know by name
            (such as "sigmoid") is passed on as numbers.
        latent: whether x_t is a latent, which is never clipped.

    Raises:
        ValueError: the name is unknown, or the network predicts its variance, or another scheduler has no
            noise schedule of this kind.
    """
    if sampler not in SAMPLERS:
        names = ", ".join(map(repr, SAMPLERS))
        raise ValueError(
            f"sampler={sampler!r} is unknown; use {names}, or None for the pipeline's own scheduler"
        )
    check_schedule(sampler, own)
    kind, settings = SAMPLERS[sampler]
    if own.config.get("beta_schedule") not in SCHEDULES and own.config.get("trained_betas") is None:
        settings = {**settings, "beta_schedule": "linear", "trained_betas": own.betas.tolist()}
    if latent and "clip_sample" in inspect.signature(kind.__init__).parameters:
        settings = {**settings, "clip_sample": False}
    # Files of schedulers do not say which settings are defaults of the class: here all are taken as given.
    config = {name: value for name, value in own.config.items() if name != "_use_default_values"}
    try:
        return kind.from_config(config, **settings)
    except (ValueError, ImportError) as error:  # as for sigmas of a kind that needs another package
        raise ValueError(
            f"sampler={sampler!r} cannot take the settings of {type(own).__name__} ({error}): {OWN}"
        ) from error


def check_schedule(sampler: str, own: SchedulerMixin) -> None:
    """Raise ValueError for a scheduler whose place the samplers of ``SAMPLERS`` cannot take."""
    kind, variance = type(own).__name__, own.config.get("variance_type")
    if variance in ("learned", "learned_range"):
        raise ValueError(
            f"sampler={sampler!r}: the network predicts its variance too (variance_type={variance!r}), which "
            f"only {kind} uses: {OWN}"
        )
    predicted = own.config.get("prediction_type", "epsilon")
    if predicted not in PREDICTIONS.get(sampler, PREDICTIONS_OF_DDIM):
        raise ValueError(
            f"sampler={sampler!r}: the network predicts {predicted!r}, which it cannot use: {OWN}"
        )
    if getattr(own, "betas", None) is None:
        raise ValueError(
            f"sampler={sampler!r}: {kind} has no noise schedule of betas that others could take: {OWN}"
        )
