"""The learner's numbers of streams: whether two meet, and whether all numbers are used."""

import random

import torch

from ..checks import Wrong
from .answers import numbers

ROLES, SEEDS, IMAGES, STREAMS = 2, 2**11, 2**20, 2**32
DRAWN = 300_000  # streams: two of that many random numbers below 2^32 are equal but for one case in 30,000


NEAR = 2000  # streams at the ends and near each other, before those
Stream = tuple[int, int, int]  # role, seed, image


def stream_cases(dice: random.Random) -> list[Stream]:
    """Different (role, seed, image): the ends and neighbours of both ranges, then ``DRAWN`` at random."""
    few = (0, 1, 2, 3, 7, 64, 1000, 1023, 1024)
    seeds = (*few, 1025, SEEDS - 2, SEEDS - 1)
    images = (*few, *range(100, 200), 2**19, 2**19 + 1, IMAGES - 2, IMAGES - 1)
    near = [(role, seed, image) for role in range(ROLES) for seed in seeds for image in images]
    far = (dice.getrandbits(32) for _ in range(DRAWN))
    return list(dict.fromkeys([*near, *((n & 1, n >> 1 & SEEDS - 1, n >> 12) for n in far)]))


def stream_number(found: object, case: Stream) -> int:
    """The learner's number of a stream. Raises Wrong where it cannot be a seed."""
    value = found if type(found) is int else numbers(found, (), "one whole number").item()
    if not 0 <= value < STREAMS or value != int(value):
        raise Wrong(
            f"{words(case)} gets {value:,}. torch keeps 32 bits of a seed, so that larger numbers wrap "
            "around onto others' streams: stay whole, and from 0 to 2^32 - 1."
        )
    return int(value)


def judge_alike(values: list[int], cases: list[Stream]) -> None:
    """Raise Wrong where two streams have the same number."""
    owner: dict[int, Stream] = {}
    if len(set(values)) == len(values):
        return
    value, case = next(pair for pair in zip(values, cases, strict=True) if owner.setdefault(*pair) != pair[1])
    if owner[value][1:] == case[1:]:
        raise Wrong(
            f"{words(case)} gets the same number in both roles: calibration noise would be evaluated on."
        )
    hint = " float32 cannot hold whole numbers above 2^24." if value > 2**24 and value % 128 == 0 else ""
    raise Wrong(
        f"{words(case)} and {words(owner[value])} get the same number, {value:,}: they would share their "
        f"noise. A number drawn by chance, such as a hash, is no solution: at 2^32 streams some meet.{hint}"
    )


def judge_spread(streams: list[int]) -> None:
    """Raise Wrong unless numbers of random streams lie evenly below 2^32, in 64 parts, within 6 deviations.

    There are as many streams as numbers, so that no number may be left out.
    """
    values = torch.tensor(streams[-DRAWN // 2 :])  # of random streams alone
    fair = len(values) / 64
    for part in (values >> 26, values % 64):
        counts = torch.bincount(part, minlength=64)
        if (counts - fair).abs().max() > 6 * fair**0.5:
            raise Wrong(
                "there are 2^32 streams and 2^32 numbers, so every number is needed; yours lie from "
                f"{values.min():,} to {values.max():,}, and leave some out. A number that counts calls "
                "changes with their order: compute it from role, seed and image."
            )


def words(case: Stream) -> str:
    """A stream in words."""
    return f"(role {case[0]}, seed {case[1]}, image {case[2]})"
