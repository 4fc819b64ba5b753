"""Checks and quiz of lesson 03: the uniform rule, draws at random, streams of noise that never meet."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..checks import Answer, Wrong, exercise
from ..text import Question
from .answers import numbers

ROLES, SEEDS, IMAGES, STREAMS = 2, 2**11, 2**20, 2**32
COUNT_CASES = ((20, 100, 1), (100, 256, 5), (50, 100, 7), (12, 10, 3), (30, 4, 5))  # steps, samples, interval


def own_and_true(
    d: Tensor, moments: Tensor, m: int, sets: int, generator: torch.Generator
) -> tuple[float, float]:
    """Mean error of the best roundings for m inputs: on these inputs, and on average over all steps.

    d: what each of k roundings changes, (neurons, k, K). moments: C_t, (T, K, K). Inputs are normal, of
    random steps; a rounding is chosen for each of ``sets`` calibration sets and each neuron.
    """
    step = torch.randint(len(moments), (sets, m), generator=generator)
    noise = torch.randn(sets, m, d.shape[-1], 1, generator=generator, dtype=torch.float64)
    x = (torch.linalg.cholesky(moments)[step] @ noise).squeeze(-1)
    best = torch.einsum("nki,rij,nkj->rnk", d, x.mT @ x / m, d).min(-1)
    true = torch.einsum("nki,ij,nkj->nk", d, moments.mean(0), d).expand(sets, -1, -1)
    return best.values.mean().item(), true.gather(2, best.indices[..., None]).mean().item()


@exercise(
    "03.uniform_counts",
    hints=(
        "First list the chosen steps: 0, interval, 2 * interval, ... below steps.",
        "samples // len(chosen) inputs at each of them is too few where the division leaves a rest.",
        "chosen = range(0, steps, interval); each, rest = divmod(samples, len(chosen)); the first `rest` of "
        "the chosen steps get each + 1, the others each, and all other steps 0.",
    ),
)
def check_uniform_counts(answer: Answer, seed: int) -> str:
    """Intervals that divide the steps and that do not, with and without a rest, more steps than inputs."""
    for steps, samples, interval in COUNT_CASES:
        found = numbers(answer(steps, samples, interval), (steps,), "how many inputs at each step")
        judge_counts(found, samples, interval)
    return "every chosen step counts alike, no other step is used, and the set has exactly its size."


def judge_counts(found: Tensor, samples: int, interval: int) -> None:
    """Raise Wrong unless ``found``, (steps,), is an even spread; any chosen step may have one more."""
    steps = len(found)
    chosen = list(range(0, steps, interval))
    case = f"for steps={steps}, samples={samples}, interval={interval}"
    where, even = found.nonzero().flatten().tolist(), samples / len(chosen)
    if (found != found.round()).any() or (found < 0).any():
        raise Wrong(f"inputs are counted in whole numbers, from 0 on; {case} you have {found.max():g}.")
    if not set(where) <= set(chosen):
        raise Wrong(f"{case}: {stray(where, steps, interval)}")
    if (found[chosen] == samples).all():
        raise Wrong(f"that is `samples` at each chosen step; all {len(chosen)} share them ({case}).")
    if found[chosen].sum() == len(chosen) * (samples // len(chosen)) < samples:
        raise Wrong(
            f"{case} yours sum to {found.sum():.0f}: the division leaves a rest, "
            "and some of the steps must take it."
        )
    if found.sum() != samples:
        raise Wrong(f"{case} yours sum to {found.sum():.0f}; a set of exactly {samples} was asked for.")
    uneven = found[chosen].max() - found[chosen].min()
    if uneven > 1:
        raise Wrong(
            f"{case}: two chosen steps differ by {uneven:.0f} inputs. Each share is {even:.2f}, so they "
            "need not differ by more than 1: hand out the rest one by one."
        )


def stray(where: list[int], steps: int, interval: int) -> str:
    """What the use of steps that were not chosen suggests."""
    if where == list(range(steps)) or len(where) > len(range(0, steps, interval)):
        return (
            f"you use {len(where)} steps; every {interval}-th of {steps} is {len(range(0, steps, interval))}."
        )
    if where and where[0] > 0 and all(b - a == interval for a, b in zip(where, where[1:], strict=False)):
        return f"you start at step {where[0]}: count from step 0, the noisy end."
    if where == list(range(len(where))):
        return (
            f"you take the first {len(where)} steps in a row: leave {interval - 1} out between two of them."
        )
    return f"step {next(i for i in where if i % interval)} is not a multiple of {interval}."


@exercise(
    "03.draw_trajectories",
    hints=(
        "Go through the counts; at each step draw that many different numbers below `trajectories`.",
        "`torch.randint` may draw a number twice. A shuffled list of all numbers never does.",
        "torch.randperm(trajectories, generator=generator)[:count], anew for every step.",
    ),
)
def check_draw_trajectories(answer: Answer, seed: int) -> str:
    """Counts, repeats, reproducibility, and whether all trajectories have the same chance."""
    for counts, trajectories in (([3, 0, 5, 2], 6), ([4, 4, 4], 4), ([1] * 5, 50)):
        drawn = draws(answer(torch.tensor(counts), trajectories, made(seed)), counts, trajectories)
        again = draws(answer(torch.tensor(counts), trajectories, made(seed)), counts, trajectories)
        if drawn != again:
            raise Wrong("two equal generators gave different draws: pass `generator` on, and use no other.")
    judge_chances(answer, seed)
    return "as many as asked for, never one twice, others at each step, and all with the same chance."


def made(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draws(answer: object, counts: list[int], trajectories: int) -> list[list[int]]:
    """The learner's draws as lists. Raises Wrong where they do not fit the counts."""
    if not isinstance(answer, Sequence) or len(answer) != len(counts):
        size = f" of {len(answer)}" if isinstance(answer, Sequence) else ""
        raise Wrong(
            f"return a list of {len(counts)} tensors, one for each step, also where it is empty; you "
            f"returned a {type(answer).__name__}{size}."
        )
    found = []
    for step, (part, count) in enumerate(zip(answer, counts, strict=True)):
        row = torch.as_tensor(part).flatten().tolist()
        if len(row) != count:
            raise Wrong(f"step {step} asks for {count} trajectories; you drew {len(row)}.")
        if len(set(row)) < count:
            raise Wrong(f"at step {step} you drew a trajectory twice: draw without replacement.")
        if row and not (0 <= min(row) and max(row) < trajectories and row == [int(i) for i in row]):
            raise Wrong(
                f"trajectories have the numbers 0 to {trajectories - 1}; you drew {min(row)} to {max(row)}."
            )
        found.append([int(i) for i in row])
    return found


def judge_chances(
    answer: Answer, seed: int, steps: int = 1600, count: int = 10, trajectories: int = 40
) -> None:
    """Raise Wrong unless every trajectory is drawn about equally often: within 6 standard deviations."""
    counts = [count] * steps
    rows = draws(answer(torch.tensor(counts), trajectories, made(seed + 1)), counts, trajectories)
    sets = [frozenset(row) for row in rows]
    if all(row == frozenset(range(count)) for row in sets):
        raise Wrong(f"you took the first {count} trajectories at every step: the others never calibrate.")
    if len(set(sets)) == 1:
        raise Wrong("you drew once and kept it for all steps: draw anew at every step.")
    p = count / trajectories
    slack = 6 * (steps * p * (1 - p)) ** 0.5  # a right answer fails in one of ten million
    seen = torch.bincount(torch.tensor(rows).flatten(), minlength=trajectories)
    if len(missing := (seen == 0).nonzero().flatten().tolist()):
        raise Wrong(f"in {steps} steps the trajectory {missing[-1]} was never drawn: all must have a chance.")
    worst = int((seen - steps * p).abs().argmax())
    if abs(seen[worst] - steps * p) > slack:
        raise Wrong(
            f"in {steps} steps trajectory {worst} was drawn {seen[worst]} times, {steps * p:.0f} are fair "
            f"(allowed difference {slack:.0f}: 6 standard deviations)."
        )


@exercise(
    "03.stream_number",
    hints=(
        "Think of a number with 32 binary digits: some of them say the role, some the seed, some the image.",
        "2 roles need 1 bit, 2,048 seeds need 11, 1,048,576 images need 20: 32 in all, none to spare.",
        "Leave 20 bits of room for the image and 11 more for the seed: role * 2**31 + seed * 2**20 + image.",
    ),
)
def check_stream_number(answer: Answer, seed: int) -> str:
    """No two of many (role, seed, image) share a number, and all numbers are below 2^32."""
    few = (0, 1, 2, 3, 7, 64, 1000, 1023, 1024)
    seeds = (*few, 1025, SEEDS - 2, SEEDS - 1)
    images = (*few, *range(100, 400), 2**19, 2**19 + 1, IMAGES - 2, IMAGES - 1)
    owner: dict[int, tuple[int, int, int]] = {}
    every = [(role, seed, image) for role in range(ROLES) for seed in seeds for image in images]
    every += [
        (role, seed, image) for role in range(ROLES) for seed in range(8, 400) for image in range(8, 200)
    ]
    for case in dict.fromkeys(every):
        found = answer(*case)
        value = found if isinstance(found, int) else numbers(found, (), "one whole number").item()
        judge_stream(int(value) if value == round(value) else value, case, owner)
    if any(int(answer(*case)) != number for number, case in list(owner.items())[:100]):
        raise Wrong("the same role, seed and image must give the same number every time.")
    return f"{len(owner):,} streams, no two alike: calibration noise can never be evaluated on."


def judge_stream(value: float, case: tuple[int, int, int], owner: dict[int, tuple[int, int, int]]) -> None:
    """Note the owner of a number. Raises Wrong where it is taken, or cannot be a seed."""
    words = describe(case)
    if not isinstance(value, int) or not 0 <= value < STREAMS:
        raise Wrong(
            f"{words} gets {value:,}. torch keeps 32 bits of a seed, so that larger numbers wrap around onto "
            "others' streams: stay whole, and from 0 to 2^32 - 1."
        )
    other = owner.setdefault(value, case)
    if other == case:
        return
    if other[1:] == case[1:]:
        raise Wrong(f"{words} gets the same number in both roles: calibration noise would be evaluated on.")
    raise Wrong(
        f"{words} and {describe(other)} get the same number, {value:,}: they would share their noise."
    )


def describe(case: tuple[int, int, int]) -> str:
    return f"(role {case[0]}, seed {case[1]}, image {case[2]})"


QUIZ = (
    Question(
        "A layer's weights are rounded with a calibration set of pure noise only. What does the learned "
        "rounding of the first layer become?",
        (
            ("Random.", "The noise has a covariance, and the rounding that is best for it is definite."),
            (
                "Rounding to nearest.",
                "In white noise no two inputs are alike, so no two weights' errors can cancel.",
            ),
            ("The best for pictures, too.", "Pictures have neighbours that are alike; noise has none."),
        ),
        right=1,
    ),
    Question(
        "250 inputs are asked for from every 5th of 100 steps. How many come from each chosen step?",
        (
            ("12, so 240 in all.", "Then the set is too small; the rest of 10 must be handed out, too."),
            ("13, so 260 in all.", "Then the set is too large, and two runs cannot be compared."),
            (
                "13 at ten of the steps and 12 at the other ten.",
                "250 = 20 * 12 + 10: as even as whole numbers allow, and exactly 250.",
            ),
        ),
        right=2,
    ),
    Question(
        "You calibrate on the noise that you evaluate on, and the error falls. What follows?",
        (
            (
                "Nothing yet: the rounding may have fitted these very inputs.",
                "The error on inputs that the rounding was chosen by is too low. Use other seeds.",
            ),
            ("The model has become better.", "On these inputs. For all others it may be worse."),
            ("The set was too large.", "The more inputs, the smaller the gap between seen and new ones."),
        ),
        right=0,
    ),
)
