"""Rules that choose the denoising steps at which calibration inputs are taken (Q-Diffusion, section 3.3.1).

A rule is a value: recipes store it, and the command line reads it as "uniform:5". ``calibration.record``
applies it. Steps count from 0, the noisy end, to T - 1, the clean end.
"""

from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from ..utils.kinds import Checked, Kind, Maybe, Number, Whole, setting

PAPER_STEPS = 20  # the paper's code takes inputs at 20 of the sampler's denoising steps


@dataclass(frozen=True)
class Uniform(Checked):
    """Every ``interval``-th step: the paper's rule."""

    interval: int | None = setting(None, Maybe(Whole(1)), "None: the interval that gives about 20 steps.")

    def chosen(self, steps: int) -> range:
        """Return the chosen steps when the sampler takes ``steps`` denoising steps."""
        return range(0, steps, self.interval or max(1, steps // PAPER_STEPS))


@dataclass(frozen=True)
class Single(Checked):
    """One step only."""

    step: int = setting(MISSING, Whole(0), "The step, from 0.")

    def chosen(self, steps: int) -> range:
        """See ``Uniform.chosen``."""
        return range(self.step, self.step + 1)


@dataclass(frozen=True)
class First(Checked):
    """The first ``n`` steps, at the noisy end (Q-Diffusion, Figure 4)."""

    n: int = setting(MISSING, Whole(1), "How many.")

    def chosen(self, steps: int) -> range:
        """See ``Uniform.chosen``."""
        return range(self.n)


@dataclass(frozen=True)
class Middle(Checked):
    """The middle ``n`` steps (Q-Diffusion, Figure 4)."""

    n: int = setting(MISSING, Whole(1), "How many.")

    def chosen(self, steps: int) -> range:
        """See ``Uniform.chosen``."""
        start = (steps - self.n) // 2
        return range(start, start + self.n)


@dataclass(frozen=True)
class Last(Checked):
    """The last ``n`` steps, at the clean end (Q-Diffusion, Figure 4)."""

    n: int = setting(MISSING, Whole(1), "How many.")

    def chosen(self, steps: int) -> range:
        """See ``Uniform.chosen``."""
        return range(steps - self.n, steps)


@dataclass(frozen=True)
class Normal(Checked):
    """Diffusion times drawn from a normal distribution, as in PTQ4DM (Shang et al., CVPR 2023).

    Mean and deviation are shares of the diffusion time, where 0 is the clean end. PTQ4DM's mean is below one
    half. If the sampler's times are not equally spaced, they are shares of its steps.
    """

    mean: float = setting(0.4, Number(0, 1), "Mean of the times, as a share.")
    std: float = setting(0.2, Number(0), "Standard deviation of the times, as a share.")


Rule = Uniform | Single | First | Middle | Last | Normal
RULES = {rule.__name__.lower(): rule for rule in (Uniform, Single, First, Middle, Last, Normal)}
EXAMPLES = "uniform, uniform:5, single:0, first:4, middle:4, last:4 or normal:0.4,0.4"


@dataclass(frozen=True)
class TimestepRule(Kind):
    """The kind of a setting whose value is a rule. The command line's "uniform:5" is ``Uniform(5)``."""

    allowed = "a rule of timestep_rules, such as Uniform(5)"
    typed = f"a rule such as {EXAMPLES}"

    def has_type(self, value: Any) -> bool:
        return isinstance(value, Rule)

    def read(self, text: str) -> Rule:
        name, _, numbers = text.partition(":")
        words = numbers.split(",") if numbers else []
        rule = RULES[name] if name in RULES else None
        if rule is None or len(words) > len(fields(rule)):
            raise ValueError(text)
        kinds = [each.metadata["kind"] for each in fields(rule)]
        return rule(*(kind.read(word) for kind, word in zip(kinds, words, strict=False)))


def rule_to_dict(rule: Rule) -> dict:
    """Return a JSON form of a rule: its name in lower case, and its numbers."""
    return {"name": type(rule).__name__.lower(), **asdict(rule)}


def rule_from_dict(value: dict) -> Rule:
    """Return the rule of a JSON form that ``rule_to_dict`` made. Raises ValueError for an unknown name."""
    numbers = dict(value)
    name = numbers.pop("name")
    if name not in RULES:
        raise ValueError(f"rule {name!r} is unknown; use one of {tuple(RULES)}")
    return RULES[name](**numbers)
