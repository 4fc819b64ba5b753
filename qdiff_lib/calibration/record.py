"""Drawing a calibration set from the full-precision sampler, by a time-step rule.

No training data is needed (Q-Diffusion, section 3.3.1). The sampler runs from noise for T denoising steps. A
rule chooses some of the steps (see ``recipes.timestep_rules``). At each chosen step some of the noise
network's inputs are kept. Steps count from 0, the noisy end, to T - 1, the clean end.
"""

import contextlib
from collections.abc import Callable, Sequence

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from ..diffusion.request import Request
from ..diffusion.sampling import batches, check_counts, images_at_once, run_batch, sampling_times
from ..graph.hooks import hooked
from ..recipes.timestep_rules import Normal, Rule, rule_to_dict
from ..utils.constants import GUIDANCE
from ..utils.processes import ALONE, Processes
from ..utils.progress import progress_bar
from ..utils.typed import check_type
from .calibration_set import CalibrationSet, Shared
from .recorder import Enough, Kept, Recorder

FRESH_DRAWS = 512
"""Most trajectories in the pool from which each denoising step draws, unless one step draws more.

The pool has twice as many trajectories as one step draws, up to this number, so that steps draw different
trajectories.
"""


def draw_counts(rule: Rule, steps: int, samples: int, generator: torch.Generator) -> Tensor:
    """How many inputs ``rule`` keeps at each denoising step: (steps,) whole numbers with the sum ``samples``.

    Raises ValueError for a rule that chooses steps outside of the trajectory.
    """
    if not isinstance(rule, Normal):
        return _spread(rule.chosen(steps), steps, samples)
    time = torch.randn(samples, generator=generator) * rule.std + rule.mean
    index = ((1 - time) * steps).floor().clamp(0, steps - 1).long()
    return torch.bincount(index, minlength=steps)


def _spread(chosen: range, steps: int, samples: int) -> Tensor:
    """Spread ``samples`` evenly over the chosen steps; the remainder goes to the earliest steps, one each."""
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
    class_labels: Sequence[int] | None = None,
    processes: Processes = ALONE,
) -> CalibrationSet | None:
    """Run ``pipe`` from noise and keep inputs of its UNet as a calibration set (Q-Diffusion, section 3.3.1).

    rule: which denoising steps inputs are taken from. samples: how many inputs in total. steps: denoising
    steps of the sampler. The other arguments are those of ``sample``. As there, several processes share the
    batches, and their number changes no bit of the set. It is None in all of them except the main one.

    Each chosen step draws its own trajectories, without replacement. The noise is never the noise of
    ``sample``. With classifier-free guidance, a drawn trajectory gives two inputs, one with its text and one
    without (the paper's 25 steps x 128 x 2).

    Raises ValueError for counts below 1, an odd number of samples under guidance, a rule that chooses steps
    outside of the trajectory, and what ``sample`` refuses.
    """
    request = Request.checked(pipe, prompts, guidance, eta, class_labels)
    check_counts(samples, steps, batch_size)
    check_type("rule", rule, Rule, "a rule, such as Uniform(5)")
    times = sampling_times(pipe, steps).unique_consecutive()  # PLMS repeats one time
    size = batch_size or images_at_once(pipe)
    if samples % request.passes:
        raise ValueError(f"samples={samples} must be even: half of them with the text, half without")
    generator = torch.Generator().manual_seed(seed)
    counts = draw_counts(rule, len(times), samples // request.passes, generator)
    most = int(counts.max())
    pool = max(most, min(2 * most, FRESH_DRAWS))
    chosen = [torch.randperm(pool, generator=generator)[:n] for n in counts]
    recorder = Recorder(pipe.unet, chosen, len(request.prompts), request.passes)
    all_batches = batches(0, pool, size)
    drawing = dict(steps=steps, seed=seed, role="calibration", request=request)
    parts = kept_of(pipe, recorder, all_batches, drawing, progress, processes)
    if not processes.is_main:
        return None
    order = torch.randperm(samples, generator=generator)
    made_by = {"rule": rule_to_dict(rule), "samples": samples, "steps": steps, "seed": seed}
    made_by |= request.described()
    return joined([parts[k] for k in range(len(all_batches))], order, made_by)


def kept_of(
    pipe: DiffusionPipeline,
    recorder: Recorder,
    all_batches: list[range],
    drawing: dict,
    progress: bool,
    processes: Processes,
) -> dict[int, Kept]:
    """What ``recorder`` keeps of each batch, by number; in the main process of all batches, else of none.

    drawing: the other arguments of ``run_batch``.
    """

    def kept(batch: range) -> Kept:
        recorder.begin(batch.start, len(batch))
        with contextlib.suppress(Enough):
            run_batch(pipe, batch.start, len(batch), **drawing)
        return recorder.kept

    own, shown = processes.share(all_batches), progress and processes.is_main
    with hooked(before=[(pipe.unet, recorder)]), progress_bar(own, "calibration set", shown=shown) as bar:
        return dict(processes.gathered(map(kept, bar), len(all_batches)))


def joined(parts: list[Kept], order: Tensor, made_by: dict) -> CalibrationSet:
    """The calibration set of what was kept of all batches; ``order``, (N,), is a permutation of its rows."""

    def column(of: Callable[[Kept], list[Tensor]]) -> Tensor:
        return torch.cat([rows for part in parts for rows in of(part)])[order]

    names = parts[0].columns
    inputs: dict[str, Tensor | Shared] = {k: column(lambda part, k=k: part.columns[k]) for k in names}
    if parts[0].prompt_of:
        texts = {number: each for part in reversed(parts) for number, each in part.prompted.items()}
        numbers, index = column(lambda part: part.prompt_of).unique(return_inverse=True)
        found = [texts[number] for number in numbers.tolist()]
        for name in found[0]:  # a copy of the index: files hold no tensor twice
            inputs[name] = Shared(torch.stack([each[name] for each in found]), index.clone())
    return CalibrationSet(inputs, column(lambda part: part.steps), made_by)
