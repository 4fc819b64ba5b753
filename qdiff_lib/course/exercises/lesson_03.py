"""Checks and quiz of lesson 03: the uniform rule, draws at random, streams of noise that never meet."""

import random

import torch
from torch import Tensor

from ..checks import Answer, Wrong, exercise
from ..text import Question
from .answers import numbers, shown, sources
from .draws_03 import draws, judge_chances, made
from .streams_03 import NEAR, judge_alike, judge_spread, stream_cases, stream_number, words


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
        "First list the chosen steps: 0, interval, 2 * interval, ... below steps. How many are there?",
        "samples // (number of chosen steps) at each of them is too few where the division leaves a rest.",
        "The rest is less than the number of chosen steps: so many of them get one more, the others do not.",
    ),
)
def check_uniform_counts(answer: Answer, seed: int) -> str:
    """Intervals that divide the steps and that do not, with and without a rest, more steps than inputs."""
    for steps, samples, interval in count_cases(sources("03.uniform_counts", seed)[0]):
        found = numbers(answer(steps, samples, interval), (steps,), "how many inputs at each step")
        with shown(found, one_way(steps, samples, interval), "step"):
            judge_counts(found, samples, interval)
    return "every chosen step counts alike, no other step is used, and the set has exactly its size."


def one_way(steps: int, samples: int, interval: int) -> Tensor:
    """One of the right answers, (steps,): the rest goes to the first of the chosen steps."""
    counts, chosen = torch.zeros(steps, dtype=torch.float64), torch.arange(0, steps, interval)
    each, rest = divmod(samples, len(chosen))
    counts[chosen] = each + (torch.arange(len(chosen)) < rest).double()
    return counts


def count_cases(dice: random.Random) -> list[tuple[int, int, int]]:
    """Steps, samples, interval: without a rest, with rests of samples, of both, of steps, few samples."""
    c, each, chosen = dice.randint(3, 6), dice.randint(4, 9), dice.randint(6, 12)
    return [
        (20, 20 * each, 1),
        (c * chosen, chosen * each + dice.randint(2, chosen - 1), c),
        (c * chosen + dice.randint(1, c - 1), (chosen + 1) * each + dice.randint(2, chosen), c),
        (c * chosen - 1, chosen * each, c),
        (c * chosen, dice.randint(2, chosen - 1), c),
        (dice.randint(5, 9), dice.randint(3, 30), 10),
    ]


def judge_counts(found: Tensor, samples: int, interval: int) -> None:
    """Raise Wrong unless ``found``, (steps,), is an even spread; any chosen step may have one more."""
    steps = len(found)
    chosen = list(range(0, steps, interval))
    case = f"for steps={steps}, samples={samples}, interval={interval}"
    where, even = found.nonzero().flatten().tolist(), samples / len(chosen)
    if not ((found == found.round()) & (found >= 0)).all():
        strange = int((~((found == found.round()) & (found >= 0))).nonzero()[0])
        raise Wrong(
            f"inputs are counted in whole numbers, from 0 on; {case} you have {found[strange]:g} at step "
            f"{strange}."
        )
    if not set(where) <= set(chosen):
        raise Wrong(f"{case}: {stray(where, steps, interval)}")
    if len(chosen) > 1 and (found[chosen] == samples).all():
        raise Wrong(f"that is `samples` at each chosen step; all {len(chosen)} share them ({case}).")
    if steps % interval and samples >= len(chosen) and where == chosen[:-1]:
        raise Wrong(
            f"{case} the last chosen step, {chosen[-1]}, gets nothing: {len(chosen)} steps are chosen, not "
            f"{len(where)}. steps // interval rounds down; count them as range(0, steps, interval) does."
        )
    if found[chosen].sum() == len(chosen) * (samples // len(chosen)) < samples:
        raise Wrong(
            f"{case} yours sum to {found.sum():.0f}: the division leaves a rest, "
            "and some of the steps must take it."
        )
    if found.sum() != samples:
        raise Wrong(f"{case} yours sum to {found.sum():.0f}; a set of exactly {samples} was asked for.")
    uneven = found[chosen].max() - found[chosen].min()
    if uneven > 1:
        most, least = (chosen[int(pick(found[chosen]))] for pick in (torch.argmax, torch.argmin))
        raise Wrong(
            f"{case}: steps {most} and {least} differ by {uneven:.0f} inputs. Each share is {even:.2f}, so "
            "they need not differ by more than 1: hand out the rest one by one."
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
        "`torch.randperm` shuffles 0 to n - 1. Shuffle anew for every step, with the generator that you are "
        "given, and keep as many as the step asks for.",
    ),
)
def check_draw_trajectories(answer: Answer, seed: int) -> str:
    """Counts, repeats, reproducibility, and whether all trajectories have the same chance."""
    dice, _ = sources("03.draw_trajectories", seed)
    mixed = [0, *(dice.randint(1, 6) for _ in range(4))]
    dice.shuffle(mixed)
    for counts, trajectories in ((mixed, 6), ([4, 4, 4], 4), ([1] * 8, dice.randint(40, 60))):
        first = dice.getrandbits(32)
        drawn, again = (
            draws(answer(torch.tensor(counts), trajectories, made(first)), counts, trajectories)
            for _ in range(2)
        )
        if drawn != again:
            raise Wrong("two equal generators gave different draws: pass `generator` on, and use no other.")
    judge_chances(answer, dice)
    return "as many as asked for, never one twice, others at each step, and all with the same chance."


@exercise(
    "03.stream_number",
    hints=(
        "Think of a number with 32 binary digits: some of them say the role, some the seed, some the image.",
        "2 roles need 1 bit, 2,048 seeds need 11, 1,048,576 images need 20: 32 in all, none to spare.",
        "Like hours, minutes and seconds: an hour has room for 60 minutes, a minute for 60 seconds. A seed "
        "has room for all images, a role for all seeds.",
    ),
)
def check_stream_number(answer: Answer, seed: int) -> str:
    """No two of many (role, seed, image) share a number; all of the 2^32 numbers are used alike."""
    dice, _ = sources("03.stream_number", seed)
    cases = stream_cases(dice)
    for some in (cases[:NEAR], cases):  # most mistakes show in the few
        values = [stream_number(found, case) for case, found in zip(some, answer.each(some), strict=True)]
        judge_alike(values, some)
    again = dice.sample(range(len(cases)), 1000)
    for i, found in zip(again, answer.each([cases[i] for i in again]), strict=True):
        if stream_number(found, cases[i]) != values[i]:
            raise Wrong(
                f"{words(cases[i])} gets another number in a second call: the same role, seed and image must "
                "give the same number every time."
            )
    judge_spread(values)
    return f"{len(values):,} streams, no two alike: calibration noise can never be evaluated on."


QUIZ = (
    Question(
        "The weights of the first layer are rounded with a calibration set of pure noise. Which rounding "
        "does it choose?",
        (
            ("A random one.", "White noise has a known covariance, and one rounding is best for it."),
            (
                "Rounding to nearest.",
                "In white noise no two inputs are correlated, so the errors of two weights cannot cancel.",
            ),
            (
                "The best one for pictures.",
                "In pictures neighbouring pixels are correlated, in noise they are not.",
            ),
        ),
        right=1,
    ),
    Question(
        "You need 250 inputs from every 5th of 100 steps. How many come from each chosen step?",
        (
            ("12, so 240 in all.", "The set is too small: 10 inputs are missing."),
            ("13, so 260 in all.", "The set is too large: 10 inputs too many."),
            (
                "13 at ten of the steps and 12 at the other ten.",
                "250 = 20 * 12 + 10. The numbers differ by at most one, and the sum is exactly 250.",
            ),
        ),
        right=2,
    ),
    Question(
        "You calibrate and evaluate on the same noise, and the error falls. What follows?",
        (
            (
                "Nothing yet: the rounding may fit only these inputs.",
                "On the inputs that chose the rounding, the error is too small. Use other seeds.",
            ),
            ("The model is better.", "On these inputs it is. On other inputs it may be worse."),
            ("The set was too large.", "With more inputs, the errors on old and new inputs differ less."),
        ),
        right=0,
    ),
)
