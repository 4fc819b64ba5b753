"""Calibration sets: intermediate inputs of the full-precision sampler, drawn by a time-step rule.

No training data is needed (Q-Diffusion, section 3.3.1): the sampler runs from noise for T steps, and at
the steps that a rule chooses (see ``timestep_rules``), some of the inputs that the noise network sees are
kept. Steps count from 0, the noisy end, to T - 1, the clean end.
"""

import contextlib
from collections.abc import Sequence

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from ..diffusion.request import Request
from ..diffusion.sampling import check_counts, images_at_once, run_batch, sampling_times
from ..graph.hooks import hooked
from ..recipes.timestep_rules import Normal, Rule, rule_to_dict
from ..utils.constants import GUIDANCE
from ..utils.progress import progress_bar
from .calibration_set import CalibrationSet, Shared
from .recorder import Enough, Recorder

FRESH_DRAWS = 512  # twice as many trajectories as draws, up to this many, so that each step draws its own


def draw_counts(rule: Rule, steps: int, samples: int, generator: torch.Generator) -> Tensor:
    """How many inputs to keep at each step by ``rule``: (steps,) whole numbers that sum to ``samples``.

    Raises ValueError for a rule that leaves the trajectory.
    """
    if not isinstance(rule, Normal):
        return _spread(rule.chosen(steps), steps, samples)
    time = torch.randn(samples, generator=generator) * rule.std + rule.mean
    index = ((1 - time) * steps).floor().clamp(0, steps - 1).long()
    return torch.bincount(index, minlength=steps)


def _spread(chosen: range, steps: int, samples: int) -> Tensor:
    """``samples`` over the chosen steps as evenly as whole numbers allow; the earlier ones get one more."""
    chosen = list(chosen)
    if not chosen or min(chosen) < 0 or max(chosen) >= steps:
        raise ValueError(f"the rule chooses steps {chosen[:1]} to {chosen[-1:]}, outside of 0 to {steps - 1}")
    counts = torch.zeros(steps, dtype=torch.long)
    counts[chosen] = samples // len(chosen)
    counts[chosen[: samples % len(chosen)]] += 1
    return counts


def record(
    pipe: DiffusionPipeline,
    rule: Rule,
    samples: int,
    steps: int,
    seed: int = 0,
    batch_size: int | None = None,
    progress: bool = False,
    prompts: Sequence[str] | None = None,
    guidance: float = GUIDANCE,
    eta: float = 0.0,
) -> CalibrationSet:
    """Run ``pipe`` for ``steps`` steps from noise and keep ``samples`` inputs of its UNet, drawn by ``rule``.

    At every chosen step other trajectories are drawn, without replacement. The noise never coincides with
    the noise of ``sample``. The other arguments are those of ``sample``. Under classifier-free guidance half
    of the inputs are conditional and half unconditional: of each drawn trajectory both (the paper's
    25 steps x 128 x 2). Raises ValueError for counts below 1, an odd number of samples under guidance, rules
    that leave the trajectory, and what ``sample`` refuses.
    """
    request = Request.checked(pipe, prompts, guidance, eta)
    check_counts(samples, steps, batch_size)
    times = sampling_times(pipe, steps).unique_consecutive()  # PLMS asks twice at one of them
    size = batch_size or images_at_once(pipe)
    if samples % request.passes:
        raise ValueError(f"samples={samples} must be even: half of them with the text, half without")
    generator = torch.Generator().manual_seed(seed)
    counts = draw_counts(rule, len(times), samples // request.passes, generator)
    most = int(counts.max())
    pool = max(most, min(2 * most, FRESH_DRAWS))
    chosen = [torch.randperm(pool, generator=generator)[:n] for n in counts]
    recorder = Recorder(pipe.unet, chosen, len(request.prompts), request.passes)
    with hooked(before=[(pipe.unet, recorder)]):
        for start in progress_bar(range(0, pool, size), "calibration set", shown=progress):
            count = min(size, pool - start)
            recorder.begin(start, count)
            with contextlib.suppress(Enough):
                run_batch(pipe, start, count, steps, seed, "calibration", request)
    order = torch.randperm(samples, generator=generator)
    made_by = {"rule": rule_to_dict(rule), "samples": samples, "steps": steps, "seed": seed}
    return recorded_rows(recorder, order, {**made_by, **request.described()})


def recorded_rows(recorder: Recorder, order: Tensor, made_by: dict) -> CalibrationSet:
    """What a recorder kept, as a calibration set in the given order."""
    inputs: dict[str, Tensor | Shared] = {k: torch.cat(rows)[order] for k, rows in recorder.kept.items()}
    if recorder.texts:
        numbers, index = torch.cat(recorder.text_of)[order].unique(return_inverse=True)
        texts = torch.stack([recorder.texts[number] for number in numbers.tolist()])
        inputs["encoder_hidden_states"] = Shared(texts, index)
    return CalibrationSet(inputs, torch.cat(recorder.steps)[order], made_by)
