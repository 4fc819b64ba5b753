"""Calibration sets: intermediate inputs of the full-precision sampler, drawn by a time-step rule.

No training data is needed (Q-Diffusion, section 4.1): the sampler runs from noise for T steps, and at
the steps that a rule chooses, some of the inputs that the noise network sees are kept. Steps count from 0,
the noisy end, to T - 1, the clean end.
"""

import contextlib
import inspect
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from .files import atomic_path
from .progress import progress_bar
from .sampling import check_counts, run_batch

PAPER_STEPS = 20  # the paper's code takes inputs at 20 of the sampler's steps
FRESH_DRAWS = 512  # twice as many trajectories as draws, up to this many, so that each step draws its own


@dataclass(frozen=True)
class Uniform:
    """Every ``interval``-th step (the paper's rule); None: the interval that gives about 20 steps."""

    interval: int | None = None

    def chosen(self, steps: int) -> range:
        return range(0, steps, self.interval or max(1, steps // PAPER_STEPS))

    def counts(self, steps: int, samples: int, generator: torch.Generator) -> Tensor:
        """How many inputs to keep at each step: (steps,) whole numbers that sum to ``samples``."""
        return _spread(self.chosen(steps), steps, samples)


@dataclass(frozen=True)
class Single:
    """One step only."""

    step: int

    def counts(self, steps: int, samples: int, generator: torch.Generator) -> Tensor:
        """See ``Uniform.counts``."""
        return _spread([self.step], steps, samples)


@dataclass(frozen=True)
class First:
    """The first ``n`` steps: the noisy end (Figure 4)."""

    n: int

    def counts(self, steps: int, samples: int, generator: torch.Generator) -> Tensor:
        """See ``Uniform.counts``."""
        return _spread(range(self.n), steps, samples)


@dataclass(frozen=True)
class Middle:
    """The middle ``n`` steps (Figure 4)."""

    n: int

    def counts(self, steps: int, samples: int, generator: torch.Generator) -> Tensor:
        """See ``Uniform.counts``."""
        start = (steps - self.n) // 2
        return _spread(range(start, start + self.n), steps, samples)


@dataclass(frozen=True)
class Last:
    """The last ``n`` steps: the clean end (Figure 4)."""

    n: int

    def counts(self, steps: int, samples: int, generator: torch.Generator) -> Tensor:
        """See ``Uniform.counts``."""
        return _spread(range(steps - self.n, steps), steps, samples)


@dataclass(frozen=True)
class Normal:
    """Diffusion times drawn from a normal distribution, as in PTQ4DM (Shang et al., CVPR 2023).

    mean, std: shares of the diffusion time, where 0 is the clean end; PTQ4DM's mean lies below one half.
    Where the sampler's times are not equally spaced, they are shares of its steps.
    """

    mean: float = 0.4
    std: float = 0.2

    def counts(self, steps: int, samples: int, generator: torch.Generator) -> Tensor:
        """See ``Uniform.counts``."""
        time = torch.randn(samples, generator=generator) * self.std + self.mean
        index = ((1 - time) * steps).floor().clamp(0, steps - 1).long()
        return torch.bincount(index, minlength=steps)


Rule = Uniform | Single | First | Middle | Last | Normal
RULES = {rule.__name__.lower(): rule for rule in (Uniform, Single, First, Middle, Last, Normal)}


def _spread(chosen, steps: int, samples: int) -> Tensor:
    """``samples`` over the chosen steps as evenly as whole numbers allow; the earlier ones get one more."""
    chosen = list(chosen)
    if not chosen or min(chosen) < 0 or max(chosen) >= steps:
        raise ValueError(f"the rule chooses steps {chosen[:1]} to {chosen[-1:]}, outside of 0 to {steps - 1}")
    counts = torch.zeros(steps, dtype=torch.long)
    counts[chosen] = samples // len(chosen)
    counts[chosen[: samples % len(chosen)]] += 1
    return counts


@dataclass(frozen=True)
class CalibrationSet:
    """Inputs of the noise network.

    inputs: by argument name, each with N rows: ``sample`` (N, C, H, W), ``timestep`` (N,), and for
    conditional models ``encoder_hidden_states`` (N, tokens, width). step: the sampler's step of each, (N,).
    made_by: rule, seed and counts, for the record.
    """

    inputs: dict[str, Tensor]
    step: Tensor
    made_by: dict

    def __len__(self) -> int:
        return len(self.step)

    def rows(self, index, device: str | torch.device = "cpu") -> dict[str, Tensor]:
        """The keyword arguments of one batch: ``index`` is a slice or a tensor of row numbers."""
        return {name: value[index].to(device) for name, value in self.inputs.items()}

    def save(self, path: Path) -> None:
        """Write to one safetensors file, atomically."""
        with atomic_path(path) as temporary:
            tensors = {**self.inputs, "__step__": self.step}
            save_file(tensors, temporary, {"made_by": json.dumps(self.made_by)})

    @classmethod
    def load(cls, path: Path) -> "CalibrationSet":
        """Read what ``save`` wrote. Raises FileNotFoundError."""
        tensors = load_file(path)
        with safe_open(path, "pt") as file:
            made_by = json.loads(file.metadata()["made_by"])
        return cls({k: v for k, v in tensors.items() if k != "__step__"}, tensors["__step__"], made_by)


class _Enough(Exception):
    """Every chosen step of this batch has been seen."""


class _Recorder:
    """A forward pre-hook that keeps chosen rows of the UNet's inputs, call by call."""

    def __init__(self, unet, chosen: list[Tensor]):
        self.signature = inspect.signature(unet.forward)
        self.chosen = chosen  # for each step, the trajectories to keep
        self.last = max(i for i, index in enumerate(chosen) if len(index))
        self.kept: dict[str, list[Tensor]] = {}
        self.steps: list[Tensor] = []
        self.start, self.count, self.step = 0, 0, 0

    def begin(self, start: int, count: int) -> None:
        self.start, self.count, self.step = start, count, 0

    def __call__(self, unet, args, kwargs):
        if self.step > self.last:
            raise _Enough
        chosen = self.chosen[self.step]
        here = chosen[(chosen >= self.start) & (chosen < self.start + self.count)] - self.start
        for name, value in self.signature.bind(*args, **kwargs).arguments.items():
            if name == "timestep":
                value = torch.as_tensor(value).expand(self.count)
            if not isinstance(value, Tensor):
                continue
            if len(value) != self.count:
                raise ValueError(
                    f"the UNet got {len(value)} rows of {name!r} for {self.count} images: "
                    "classifier-free guidance is not supported; call the pipeline with guidance_scale=1"
                )
            self.kept.setdefault(name, []).append(value.detach().cpu()[here])
        self.steps.append(torch.full((len(here),), self.step))
        self.step += 1


def record(
    pipe: DiffusionPipeline,
    rule: Rule,
    samples: int,
    steps: int,
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = False,
) -> CalibrationSet:
    """Run ``pipe`` for ``steps`` steps from noise and keep ``samples`` inputs of its UNet, drawn by ``rule``.

    At every chosen step other trajectories are drawn, without replacement. The noise never coincides with
    the noise of ``sample``. Raises ValueError for counts below 1 and rules that leave the trajectory.
    """
    check_counts(pipe, samples, steps, batch_size)
    generator = torch.Generator().manual_seed(seed)
    pipe.scheduler.set_timesteps(steps)
    counts = rule.counts(len(pipe.scheduler.timesteps), samples, generator)
    most = int(counts.max())
    pool = max(most, min(2 * most, FRESH_DRAWS))
    recorder = _Recorder(pipe.unet, [torch.randperm(pool, generator=generator)[:n] for n in counts])
    handle = pipe.unet.register_forward_pre_hook(recorder, with_kwargs=True)
    try:
        for start in progress_bar(range(0, pool, batch_size), "calibration set", shown=progress):
            count = min(batch_size, pool - start)
            recorder.begin(start, count)
            with contextlib.suppress(_Enough):
                run_batch(pipe, start, count, steps, seed, role="calibration")
    finally:
        handle.remove()
    inputs = {name: torch.cat(rows) for name, rows in recorder.kept.items()}
    order = torch.randperm(samples, generator=generator)
    made_by = {"rule": rule_to_dict(rule), "samples": samples, "steps": steps, "seed": seed}
    return CalibrationSet(
        {name: value[order] for name, value in inputs.items()}, torch.cat(recorder.steps)[order], made_by
    )


def rule_to_dict(rule: Rule) -> dict:
    """A JSON form of a rule: its lower-case name and its numbers."""
    return {"name": type(rule).__name__.lower(), **asdict(rule)}


def rule_from_dict(value: dict) -> Rule:
    """The rule that ``rule_to_dict`` described."""
    numbers = dict(value)
    return RULES[numbers.pop("name")](**numbers)
