"""Lesson 03: right answers unlike the solution, and wrong ones with words that they must get."""

import hashlib
import zlib
from functools import partial
from itertools import count

import numpy as np
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


def counts_in_numpy(steps, samples, interval):
    """Right: numpy; array_split hands out the rest."""
    found = np.zeros(steps, dtype=np.int32)
    chosen = np.arange(0, steps, interval)
    found[chosen] = [len(part) for part in np.array_split(np.arange(samples), len(chosen))]
    return found


def counts_by_dealing(steps, samples, interval):
    chosen = range(0, steps, interval)
    dealt = [chosen[i % len(chosen)] for i in range(samples)]
    return [dealt.count(step) for step in range(steps)]


def counts_rounded_down(steps, samples, interval):
    """Wrong where the interval does not divide the steps: the last chosen step is missing."""
    chosen = max(steps // interval, 1)
    each, rest = divmod(samples, chosen)
    found = [0] * steps
    for i in range(chosen):
        found[i * interval] = each + (i < rest)
    return found


def counts_with_rest(place):
    def answer(steps, samples, interval):
        found = counts_without_rest(steps, samples, interval)
        found[place(steps, interval)] += samples - sum(found)
        return found

    return answer


class Drawer:
    """Right: an object that shuffles one list again and again, by the generator."""

    def __call__(self, counts, trajectories, generator):
        order, found = torch.arange(trajectories), []
        for n in counts:
            order = order[torch.randperm(trajectories, generator=generator)]
            found.append(order[: int(n)].numpy())
        return found


def by_rejection(counts, trajectories, generator):
    """Right: draws until it has enough different ones."""
    found = []
    for n in counts.tolist():
        kept = []
        while len(kept) < n:
            new = torch.randint(trajectories, (1,), generator=generator).item()
            kept += [new] * (new not in kept)
        found.append(kept)
    return tuple(found)


def cyclic_shifts(counts, trajectories, generator):
    """Wrong: one draw, and then neighbours in its order."""
    order, found = torch.randperm(trajectories, generator=generator), []
    for n in counts:
        found.append(order[: int(n)])
        order = order.roll(-int(n))
    return found


def random_windows(counts, trajectories, generator):
    order = torch.randperm(trajectories, generator=generator)
    starts = torch.randint(trajectories, (len(counts),), generator=generator).tolist()
    return [order.roll(start)[: int(n)] for start, n in zip(starts, counts, strict=True)]


def half_renewed(counts, trajectories, generator):
    """Wrong: each step keeps half of the trajectories of the step before."""
    order, found = torch.randperm(trajectories, generator=generator), []
    for n in counts.tolist():
        found.append(order[:n])
        rest = order[n:][torch.randperm(trajectories - n, generator=generator)]
        order = torch.cat([order[n // 2 : n], rest, order[: n // 2]])
    return found


def own_seed(counts, trajectories, generator):
    """Wrong: the same draws for every generator."""
    return with_argsort(counts, trajectories, torch.Generator().manual_seed(7))


def neighbours(counts, trajectories, generator):
    starts = torch.randint(trajectories, (len(counts),), generator=generator)
    return [(s + torch.arange(int(n))) % trajectories for s, n in zip(starts, counts, strict=True)]


def sorted_sample(counts, trajectories, generator):
    return [torch.randperm(trajectories, generator=generator)[: int(n)].sort().values for n in counts]


def stream_in_words(role, seed, image):
    """Right: binary digits as text."""
    return int(f"{role:01b}{seed:011b}{image:020b}", 2)


TABLE = {}


def counted(role, seed, image):
    """Wrong: a number for each new stream, in the order of the calls."""
    return TABLE.setdefault((role, seed, image), len(TABLE))


def in_float32(role, seed, image):
    return torch.tensor(float((role * 2**11 + seed) * 2**20 + image), dtype=torch.float32)


def drawn_stream(role, seed, image):
    text = f"{role} {seed} {image}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest())


def mixed_radix(order, role, seed, image):
    sizes, values = dict(r=2, s=2**11, i=2**20), dict(r=role, s=seed, i=image)
    number = 0
    for letter in order:
        number = number * sizes[letter] + values[letter]
    return number


RIGHT = {
    "03.uniform_counts": [
        counts_by_hand,
        lambda steps, samples, interval: draw_counts(Uniform(interval), steps, samples, torch.Generator()),
        counts_in_numpy,
        counts_by_dealing,
        lambda steps, samples, interval: torch.tensor(counts_by_hand(steps, samples, interval)).double(),
    ],
    "03.draw_trajectories": [
        with_multinomial,
        with_argsort,
        Drawer(),
        by_rejection,
        sorted_sample,
    ],
    "03.stream_number": [
        lambda role, seed, image: role << 31 | seed << 20 | image,
        lambda role, seed, image: 2 * (image * 2**11 + seed) + role,
        partial(mixed_radix, "sir"),
        partial(mixed_radix, "irs"),
        stream_in_words,
        lambda role, seed, image: np.uint32(role << 31 | seed << 20 | image),
        lambda role, seed, image: float((role * 2**11 + seed) * 2**20 + image),
        lambda role, seed, image: 2**32 - 1 - mixed_radix("rsi", role, seed, image),
    ],
}
WRONG = {
    "03.uniform_counts": [
        (lambda steps, samples, interval: None, "returned None"),
        (lambda steps, samples, interval: torch.ones(3), "shape (20,)"),
        (counts_without_rest, "the division leaves a rest"),
        (lambda s, n, c: [n * (i % c == 0) for i in range(s)], "at each chosen step"),
        (counts_at(lambda s, c: range(s)), "you use 66 steps; every 6-th of 66 is 11"),
        (lambda s, n, c: [1.5] * s, "whole numbers"),
        (counts_at(lambda s, c: range(c - 1, s, c)), "start at step 5"),
        (counts_at(lambda s, c: range(s // c)), "first 11 steps in a row"),
        (counts_at(lambda s, c: [0, *range(c + (c > 1), s, c)]), "not a multiple of 6"),
        (rest_on_one_step, "differ by 4 inputs"),
        (lambda s, n, c: [-(-n // -(-s // c)) * (i % c == 0) for i in range(s)], "exactly 81"),
        (counts_rounded_down, "the last chosen step"),
        (counts_with_rest(lambda steps, interval: steps - 1), "you use 12 steps"),
        (counts_with_rest(lambda steps, interval: 0), "differ by"),
        (counts_at(lambda s, c: range(0, s, max(c - 1, 1))), "you use 14 steps"),
        (lambda s, n, c: [n / s] * s, "whole numbers"),
        (lambda s, n, c: [n] + [0] * (s - 1), "differ by"),
        (lambda s, n, c: [0] * s, "sum to 0"),
        (lambda s, n, c: torch.arange(0, s, c), "yours sum to 190"),
        (lambda s, n, c: [n - (s - 1)] + [1] * (s - 1), "steps 0 and 1 differ"),
        (lambda s, n, c: counts_by_hand(s, n, c)[:-1], "shape"),
    ],
    "03.draw_trajectories": [
        (lambda counts, n, generator: None, "a list of 5 tensors"),
        (lambda counts, n, generator: [torch.arange(2)], "a list of 5 tensors"),
        (lambda counts, n, generator: [torch.arange(7)] * 5, "you drew 7"),
        (repeating, "a trajectory twice"),
        (first_ones, "the first 10 trajectories at every step"),
        (once, "drew once and kept it"),
        (without_the_last, "trajectory 39 was never drawn"),
        (no_generator, "two equal generators"),
        (counted_from_one, "0 to 5"),
        (mostly_early, "6 standard deviations"),
        (cyclic_shifts, "shuffle at every step"),
        (random_windows, "shuffle at every step"),
        (neighbours, "shuffle at every step"),
        (half_renewed, "must not depend on earlier ones"),
        (own_seed, "another generator gave the same"),
        (
            lambda counts, n, generator: with_argsort(counts, n, generator)[:-1],
            "a list of 5",
        ),
        (
            lambda counts, n, generator: torch.cat(
                list(map(torch.tensor, with_argsort(counts, n, generator)))
            ),
            "list",
        ),
        (lambda counts, n, generator: [["a"] * int(k) for k in counts], "you have a list"),
        (lambda counts, n, generator: [torch.rand(int(k), generator=generator) for k in counts], "0 to 5"),
    ],
    "03.stream_number": [
        (lambda role, seed, image: seed + image, "share their noise"),
        (lambda role, seed, image: seed << 20 | image, "the same number in both roles"),
        (lambda role, seed, image: role << 32 | seed << 20 | image, "wrap around"),
        (lambda role, seed, image: seed * 1000 + image + role * 2**31, "share their noise"),
        (lambda role, seed, image: (role << 31 | seed << 20 | image) + 0.5, "stay whole"),
        (lambda role, seed, image: next(UNUSED), "the same number every time"),
        (lambda role, seed, image: hash((role, seed, image)) % 2**32, "drawn by chance"),
        (lambda role, seed, image: zlib.crc32(bytes(f"{role},{seed},{image}", "ascii")), "the same number"),
        (counted, "counts calls"),
        (drawn_stream, "drawn by chance"),
        (in_float32, "float32 cannot hold"),
        (lambda role, seed, image: (role * 2**11 + seed) ^ image, "share their noise"),
        (lambda role, seed, image: (role * 2**10 + seed) * 2**20 + image, "share their noise"),
        (lambda role, seed, image: (role * 2**11 + seed) * 2**19 + image, "share their noise"),
        (lambda role, seed, image: (role * 2**11 + seed) * (2**20 - 1) + image, "share their noise"),
        (lambda role, seed, image: 1 + mixed_radix("rsi", role, seed, image), "wrap around"),
        (lambda role, seed, image: -mixed_radix("rsi", role, seed, image), "wrap around"),
        (lambda role, seed, image: (role, seed, image), "one whole number"),
        (lambda role, seed, image: f"{role}-{seed}-{image}", "one whole number"),
    ],
}
