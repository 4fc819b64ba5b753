"""Exercises and quiz of lesson 0: bytes of a file, an integer dot product."""

import random

import torch
from torch import Tensor

from ...quantizers.packing import packed_bytes
from ..checks import Answer, Wrong, exercise
from ..text import Question
from .answers import numbers, sources, whole

MANY = 20_001  # codes: their sum of products is above 2^24
Layer = tuple[int, int, int]  # numbers, bits of each, channels


def layers(dice: random.Random) -> list[Layer]:
    """A large layer, and small ones: without a rest of bits, with a small rest, with a large one."""
    channels = dice.choice((64, 128, 320))
    large = (channels * dice.randrange(100, 900), dice.choice((3, 4, 8)), channels)
    return [large, small_layer(dice, (0,)), small_layer(dice, (1, 2, 3)), small_layer(dice, (5, 6, 7))]


def small_layer(dice: random.Random, rests: tuple[int, ...]) -> Layer:
    """A layer whose last byte holds a number of bits in ``rests``; its channels end inside of bytes."""
    while True:
        each, bits, channels = dice.randint(3, 40), dice.randint(2, 7), dice.randint(2, 12)
        if each * channels * bits % 8 in rests and padded(each * channels, bits, channels) > packed_bytes(
            each * channels, bits
        ):
            return each * channels, bits, channels


def padded(count: int, bits: int, channels: int) -> int:
    """Bytes of the codes if each channel starts in a new byte."""
    return channels * packed_bytes(-(-count // channels), bits)


@exercise(
    "00.file_bytes",
    hints=(
        "How many bits do all codes take? How many bits has a byte?",
        "7 codes of 3 bits are 21 bits: two bytes are not enough. Round up, once, for all codes together.",
        "Two parts: the bytes of the codes, rounded up, and those of two numbers for each channel.",
    ),
)
def file_bytes(answer: Answer, seed: int) -> str:
    cases = layers(sources("00.file_bytes", seed)[0])
    for count, bits, channels in cases:
        found = numbers(answer(count, bits, channels), (), "one whole number of bytes")
        if found != packed_bytes(count, bits) + 8 * channels:
            raise Wrong(bytes_mistake(found, count, bits, channels))
    return f"exact for {len(cases)} layers. The scales are why small layers gain less."


def bytes_mistake(found: Tensor, count: int, bits: int, channels: int) -> str:
    """What the wrong number of bytes suggests."""
    codes, grids = packed_bytes(count, bits), 8 * channels
    mistakes = {
        "that counts bits; a byte has 8": (count * bits, count * bits + grids, 8 * (codes + grids)),
        "each channel also needs a scale and a zero point, of 4 bytes each": (codes, codes + 4 * channels),
        "a scale and a zero point for each channel, not one pair for all": (codes + 8, codes + 4),
        f"{count * bits} bits need {codes} whole bytes, so round up": (
            count * bits / 8 + grids,
            count * bits // 8 + grids,
        ),
        "round up only where the bits do not fill the last byte": (count * bits // 8 + 1 + grids,),
        "the codes are packed without gaps: a channel may start inside a byte. Round up only once": (
            padded(count, bits, channels) + grids,
        ),
        "a code takes its bits, not a whole byte": (count + grids,),
    }
    hint = "add the bytes of the packed codes and 8 bytes for each channel (exact, no tolerance)"
    hint = next((message for message, values in mistakes.items() if found.item() in values), hint)
    total = f"{codes + grids:,}"
    return f"for count={count}, bits={bits}, channels={channels} you give {whole(found)}, not {total}: {hint}"


@exercise(
    "00.integer_dot",
    hints=(
        "Each number is its scale times (code minus zero point). Take both scales out of the sum.",
        "What is left is a sum of products. Each factor is a code minus its zero point: a whole number.",
        "uint8 has no negative numbers. Give both codes a type that has them before you subtract.",
    ),
)
def integer_dot(answer: Answer, seed: int) -> str:
    dice, generator = sources("00.integer_dot", seed)
    for n, z_w, z_x in ((8, dice.randint(4, 11), dice.randint(30, 90)), (9, 0, 128), (MANY, 2, 20)):
        top = 255 if n == 9 else 15  # weights of 8 bits, or of 4
        q_w = torch.randint(top + 1, (n,), generator=generator, dtype=torch.uint8)
        q_x = torch.randint(256, (n,), generator=generator, dtype=torch.uint8)
        q_w[0], q_x[0], q_w[1], q_x[1] = top, 255, 0, 0  # the ends of both grids
        if n == MANY:
            q_w, q_x = odd_and_large(q_w, q_x, z_w, z_x)
        found = numbers(answer(q_w, z_w, q_x, z_x), (), f"one whole number, the sum of all {n} products")
        expected = int(((q_w.long() - z_w) * (q_x.long() - z_x)).sum())
        if found != expected:
            raise Wrong(dot_mistake(found, expected, q_w, z_w, q_x, z_x))
    return "exact for three pairs of vectors: no rounding anywhere, so no tolerance is needed."


def odd_and_large(q_w: Tensor, q_x: Tensor, z_w: int, z_x: int) -> tuple[Tensor, Tensor]:
    """Codes in the upper halves of their grids, with an odd sum of products above 2^24: not in float32."""
    q_w, q_x = q_w | 8, q_x | 128
    q_w[0] = 15 - z_w % 2
    if ((q_w.long() - z_w) * (q_x.long() - z_x)).sum() % 2 == 0:
        q_x[0] = q_x[0] ^ 1  # changes the sum by q_w[0] - z_w, which is odd
    return q_w, q_x


def dot_mistake(found: Tensor, expected: int, q_w: Tensor, z_w: int, q_x: Tensor, z_x: int) -> str:
    """What the wrong sum suggests."""
    w, x = q_w.long(), q_x.long()
    case = f"with {len(w)} codes, z_w={z_w}, z_x={z_x} you give {whole(found)}, not {expected:,}"
    wrapped = ((q_w - z_w) * (q_x - z_x)).sum().item()
    mistakes = {
        (w * x).sum().item(): "subtract the zero points first: the code of 0 is z, not 0",
        wrapped: "the codes are uint8, where 3 - 6 wraps around to 253: convert with .int() first",
        ((q_w - z_w).long() * (q_x - z_x)).sum().item(): "q_w - z_w wraps around in uint8: convert first",
        ((q_w - z_w).long() * (q_x - z_x).long()).sum().item(): "the differences wrap around in uint8: "
        "convert the codes with .int() before you subtract",
        (w * x).sum().item()
        - z_w * z_x * len(w): "subtract each zero point from its own code, then multiply",
        (w - z_w).sum().item() * (x - z_x).sum().item(): "multiply code by code, then sum, not the two sums",
        ((w - z_x) * (x - z_w)).sum().item(): "the zero points are swapped: z_w belongs to q_w",
    }
    if abs(found - expected) < 1e-4 * expected and expected > 2**24:
        return f"{case}: float32 holds whole numbers only up to 2^24 = 16,777,216; add in integers"
    hint = mistakes.get(
        found.item(), "it is the sum of (q_w - z_w) (q_x - z_x) over all codes, without scales"
    )
    return f"{case}: {hint} (whole numbers, so the answer must be exact)"


QUIZ = (
    Question(
        "A layer's weights get 4 bits instead of 32. How many times smaller is its file?",
        (
            ("Exactly 8 times.", "Only the codes are. Each channel also stores a scale and a zero point."),
            (
                "A little less than 8 times.",
                "The codes are 8 times smaller. Scales and zero points are added.",
            ),
            ("16 times: 4 bits have 16 values.", "The number of values is not the number of bits."),
        ),
        right=1,
    ),
    Question(
        "Eight numbers are rounded to a grid that covers them all. How much can each number change?",
        (
            ("By at most half of the scale.", "The nearest value is at most half of the scale away."),
            (
                "By at most the scale.",
                "This is true, but not sharp: rounding goes to the nearest value, so half of it is enough.",
            ),
            (
                "There is no limit.",
                "There is a limit for numbers inside the grid. Only numbers outside are clipped.",
            ),
        ),
        right=0,
    ),
    Question(
        "One of the eight numbers becomes a hundred times larger. What happens to the other seven?",
        (
            (
                "Nothing: each number is rounded alone.",
                "All share one scale, and the large number makes it larger.",
            ),
            ("Their grid gets finer.", "The scale grows with the range, so the grid gets coarser."),
            (
                "They share very few codes.",
                "The grid must reach the large number. So its scale is large: small numbers share a code.",
            ),
        ),
        right=2,
    ),
)
