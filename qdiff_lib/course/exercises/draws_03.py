"""The learner's draws of trajectories: whether they fit the counts, are fair, and depend on no others."""

import random

import torch
from torch import Tensor

from ..checks import Answer, Wrong
from .answers import as_float64, describe


def made(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draws(answer: object, counts: list[int], trajectories: int) -> list[list[int]]:
    """The learner's draws as lists. Raises Wrong where they do not fit the counts."""
    if isinstance(answer, Tensor) and answer.dim() == 2:
        answer = list(answer)
    if not isinstance(answer, list | tuple) or len(answer) != len(counts):
        raise Wrong(
            f"return a list of {len(counts)} tensors, one for each step, also where it is empty; you "
            f"returned {describe(answer)}."
        )
    found = []
    for step, (part, count) in enumerate(zip(answer, counts, strict=True)):
        try:
            row = as_float64(part).flatten().tolist()
        except (TypeError, ValueError, OverflowError, RuntimeError):
            raise Wrong(
                f"each step needs a tensor of numbers; at step {step} you have {describe(part)}."
            ) from None
        if len(row) != count:
            raise Wrong(f"step {step} asks for {count} trajectories; you drew {len(row)}.")
        if len(set(row)) < count:
            raise Wrong(f"at step {step} you drew a trajectory twice: draw without replacement.")
        if not all(0 <= i < trajectories and i.is_integer() for i in row):
            raise Wrong(
                f"trajectories have the numbers 0 to {trajectories - 1}; at step {step} you drew "
                f"{min(row):g} to {max(row):g}."
            )
        found.append([int(i) for i in row])
    return found


def judge_chances(answer: Answer, dice: random.Random) -> None:
    """Raise Wrong unless all trajectories are drawn about equally often, and steps do not depend on others.

    Each count is within 6 standard deviations: a right answer fails in one of ten million.
    """
    steps, count, trajectories = 1600, 10, 40
    counts, p = [count] * steps, count / trajectories
    first = dice.getrandbits(32)
    rows, others = (
        draws(answer(torch.tensor(counts), trajectories, made(number)), counts, trajectories)
        for number in (first, first ^ 1)
    )
    judge_sets([frozenset(row) for row in rows], count)
    if rows == others:
        raise Wrong("another generator gave the same draws: draw from `generator`, and do not seed it anew.")
    seen = torch.bincount(torch.tensor(rows).flatten(), minlength=trajectories)
    if len(missing := (seen == 0).nonzero().flatten().tolist()):
        raise Wrong(f"in {steps} steps the trajectory {missing[-1]} was never drawn: all must have a chance.")
    slack = 6 * (steps * p * (1 - p)) ** 0.5
    worst = int((seen - steps * p).abs().argmax())
    if abs(seen[worst] - steps * p) > slack:
        raise Wrong(
            f"in {steps} steps trajectory {worst} was drawn {seen[worst]} times, {steps * p:.0f} are fair "
            f"(allowed difference {slack:.0f}: 6 standard deviations)."
        )
    judge_neighbours(torch.tensor(rows), trajectories)


def judge_sets(sets: list[frozenset[int]], count: int) -> None:
    """Raise Wrong where steps share their trajectories; two random draws of 10 of 40 never do."""
    if all(row == frozenset(range(count)) for row in sets):
        raise Wrong(f"you took the first {count} trajectories at every step: the others never calibrate.")
    different = len(set(sets))
    if different == 1:
        raise Wrong("you drew once and kept it for all steps: draw anew at every step.")
    if different < len(sets) - 2:
        step = next(i for i, row in enumerate(sets) if row in sets[:i])
        raise Wrong(
            f"in {len(sets)} steps you have only {different} different draws; step {step} repeats step "
            f"{sets.index(sets[step])}. Parts of one shuffled list are no new draw: shuffle at every step."
        )


def judge_neighbours(rows: Tensor, trajectories: int, lags: int = 4) -> None:
    """Raise Wrong where a step shares more or fewer trajectories with an earlier one than by chance."""
    steps, count = rows.shape
    drawn = torch.zeros(steps, trajectories).scatter(1, rows, 1.0)
    share = count / trajectories
    spread = (count * share * (1 - share) * (trajectories - count) / (trajectories - 1)) ** 0.5
    for lag in range(1, lags + 1):
        common = (drawn[lag:] * drawn[:-lag]).sum(1).mean().item()
        if abs(common - count * share) > 6 * spread / (steps - lag) ** 0.5:
            raise Wrong(
                f"a step and the step {lag} before it share {common:.2f} trajectories on average, "
                f"{count * share:.2f} are fair: a step's draw must not depend on earlier ones. Draw anew."
            )
