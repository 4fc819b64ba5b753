"""Lesson 03: right answers unlike the solution, and wrong ones with words that they must get."""

from itertools import count

import torch

from qdiff_lib.calibration.record import draw_counts
from qdiff_lib.recipes.timestep_rules import Uniform

UNUSED = count()  # numbers that no call has had


def counts_by_hand(steps, samples, interval):
    """Right, and written without tensors; the last chosen steps get one more, not the first."""
    counts, chosen = [0] * steps, list(range(0, steps, interval))
    for i in range(samples):
        counts[chosen[-1 - i % len(chosen)]] += 1
    return counts


def counts_without_rest(steps, samples, interval):
    chosen = range(0, steps, interval)
    return [samples // len(chosen) * (i in chosen) for i in range(steps)]


def counts_at(choose):
    """The wrong answer that spreads the samples over the steps of ``choose(steps, interval)``."""

    def answer(steps, samples, interval):
        counts, chosen = torch.zeros(steps), torch.tensor(list(choose(steps, interval)))
        counts[chosen] = samples // len(chosen)
        counts[chosen[: samples % len(chosen)]] += 1
        return counts

    return answer


def rest_on_one_step(steps, samples, interval):
    counts = torch.tensor(counts_without_rest(steps, samples, interval))
    counts[0] += samples - counts.sum()
    return counts


def with_multinomial(counts, trajectories, generator):
    """Right, and written with another function of torch."""
    weights = torch.ones(trajectories)
    return [
        torch.multinomial(weights, n, generator=generator) if n else torch.empty(0) for n in counts.tolist()
    ]


def with_argsort(counts, trajectories, generator):
    """Right, and written as sorted random numbers, in plain lists."""
    return [torch.rand(trajectories, generator=generator).argsort()[:n].tolist() for n in counts]


def repeating(counts, trajectories, generator):
    return [torch.randint(trajectories, (int(n),), generator=generator) for n in counts]


def first_ones(counts, trajectories, generator):
    return [torch.arange(int(n)) for n in counts]


def once(counts, trajectories, generator):
    order = torch.randperm(trajectories, generator=generator)
    return [order[:n] for n in counts]


def without_the_last(counts, trajectories, generator):
    size = max(trajectories - 1, int(counts.max()))
    return [torch.randperm(size, generator=generator)[:n] for n in counts]


def no_generator(counts, trajectories, generator):
    return [torch.randperm(trajectories)[:n] for n in counts]


def counted_from_one(counts, trajectories, generator):
    return [torch.randperm(trajectories, generator=generator)[:n] + 1 for n in counts]


def mostly_early(counts, trajectories, generator):
    """Different, random, everyone has a chance, but not the same one."""
    weights = torch.linspace(3, 1, trajectories)
    return [torch.multinomial(weights, int(n), generator=generator) if n else [] for n in counts]


RIGHT = {
    "03.uniform_counts": [
        counts_by_hand,
        lambda steps, samples, interval: draw_counts(Uniform(interval), steps, samples, torch.Generator()),
    ],
    "03.draw_trajectories": [
        with_multinomial,
        with_argsort,
    ],
    "03.stream_number": [
        lambda role, seed, image: role << 31 | seed << 20 | image,
        lambda role, seed, image: 2 * (image * 2**11 + seed) + role,
    ],
}
WRONG = {
    "03.uniform_counts": [
        (lambda steps, samples, interval: None, "returned None"),
        (lambda steps, samples, interval: torch.ones(3), "shape (20,)"),
        (counts_without_rest, "the division leaves a rest"),
        (lambda s, n, c: [n * (i % c == 0) for i in range(s)], "at each chosen step"),
        (counts_at(lambda s, c: range(s)), "you use 100 steps; every 5-th of 100 is 20"),
        (lambda s, n, c: [1.5] * s, "whole numbers"),
        (counts_at(lambda s, c: range(c - 1, s, c)), "start at step 4"),
        (counts_at(lambda s, c: range(s // c)), "first 20 steps in a row"),
        (counts_at(lambda s, c: [0, *range(c + (c > 1), s, c)]), "not a multiple of 5"),
        (rest_on_one_step, "differ by 16 inputs"),
        (lambda s, n, c: [-(-n // -(-s // c)) * (i % c == 0) for i in range(s)], "exactly 256"),
    ],
    "03.draw_trajectories": [
        (lambda counts, n, generator: None, "a list of 4 tensors"),
        (lambda counts, n, generator: [torch.arange(2)], "a list of 4 tensors"),
        (lambda counts, n, generator: [torch.arange(3)] * 4, "step 1 asks for 0"),
        (repeating, "a trajectory twice"),
        (first_ones, "the first 10 trajectories at every step"),
        (once, "drew once and kept it"),
        (without_the_last, "trajectory 39 was never drawn"),
        (no_generator, "two equal generators"),
        (counted_from_one, "0 to 5"),
        (mostly_early, "6 standard deviations"),
    ],
    "03.stream_number": [
        (lambda role, seed, image: seed + image, "share their noise"),
        (lambda role, seed, image: seed << 20 | image, "the same number in both roles"),
        (lambda role, seed, image: role << 32 | seed << 20 | image, "wrap around"),
        (lambda role, seed, image: seed * 1000 + image + role * 2**31, "share their noise"),
        (lambda role, seed, image: (role << 31 | seed << 20 | image) + 0.5, "stay whole"),
        (lambda role, seed, image: next(UNUSED), "the same number every time"),
    ],
}
