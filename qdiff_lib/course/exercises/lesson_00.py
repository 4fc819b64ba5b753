"""Exercises and quiz of lesson 0: bytes of a file, an integer dot product."""

import torch
from torch import Tensor

from ...quantizers.packing import packed_bytes
from ..checks import Answer, Wrong, exercise
from ..text import Question

CASES = ((36_864, 4, 64), (7, 3, 1), (1_000, 8, 10), (9, 2, 3))  # numbers, bits, channels


@exercise(
    "00.file_bytes",
    hints=(
        "How many bits do all codes take? How many bits has a byte?",
        "7 codes of 3 bits are 21 bits: two bytes are not enough. Round up.",
        "Add 8 bytes for each channel: 4 for its scale, 4 for its zero point.",
    ),
)
def file_bytes(answer: Answer, seed: int) -> str:
    for count, bits, channels in CASES:
        found, codes, grids = answer(count, bits, channels), packed_bytes(count, bits), 8 * channels
        if found != codes + grids:
            raise Wrong(bytes_mistake(found, count, bits, channels, codes, grids))
    return f"exact for {len(CASES)} layers. The scales are why small layers gain less."


def bytes_mistake(found: object, count: int, bits: int, channels: int, codes: int, grids: int) -> str:
    """What the wrong number of bytes suggests."""
    case = f"for count={count}, bits={bits}, channels={channels} you give {found}, not {codes + grids}"
    if found in (count * bits, count * bits + grids):
        return f"{case}: that counts bits; a byte has 8"
    if found in (codes, codes + 4 * channels):
        return f"{case}: each channel also needs a scale and a zero point, of 4 bytes each"
    if found == codes + 8:
        return f"{case}: a scale and a zero point for each channel, not one pair for all"
    if found in (count * bits / 8 + grids, count * bits // 8 + grids):
        return f"{case}: {count * bits} bits need {codes} whole bytes, so round up"
    return f"{case}: add the bytes of the packed codes and 8 bytes for each channel (exact, no tolerance)"


@exercise(
    "00.integer_dot",
    hints=(
        "Each number is its scale times (code minus zero point). Take both scales out of the sum.",
        "What is left is the sum of (q_w - z_w) (q_x - z_x): whole numbers only.",
        "The codes are uint8, which has no negative numbers: convert both with .int() before you subtract.",
    ),
)
def integer_dot(answer: Answer, seed: int) -> str:
    generator = torch.Generator().manual_seed(seed)
    for n, z_w, z_x in ((8, 6, 40), (8, 0, 128), (64, 9, 17)):
        q_w = torch.randint(16, (n,), generator=generator, dtype=torch.uint8)
        q_x = torch.randint(256, (n,), generator=generator, dtype=torch.uint8)
        found = answer(q_w.clone(), z_w, q_x.clone(), z_x)
        expected = sum((w - z_w) * (x - z_x) for w, x in zip(q_w.tolist(), q_x.tolist(), strict=True))
        if not isinstance(found, int | float | Tensor) or torch.as_tensor(found).numel() != 1:
            raise Wrong(f"return one whole number; you return {type(found).__name__}")
        if found != expected:
            raise Wrong(dot_mistake(float(found), expected, q_w, z_w, q_x, z_x))
    return "exact for three pairs of vectors: no rounding anywhere, so no tolerance is needed."


def dot_mistake(found: float, expected: int, q_w: Tensor, z_w: int, q_x: Tensor, z_x: int) -> str:
    """What the wrong sum suggests."""
    w, x = q_w.int(), q_x.int()
    case = f"with {len(w)} codes, z_w={z_w}, z_x={z_x} you give {found:g}, not {expected}"
    wrapped = ((q_w - z_w) * (q_x - z_x)).sum().item()
    mistakes = {
        (w * x).sum().item(): "subtract the zero points first: the code of 0 is z, not 0",
        wrapped: "the codes are uint8, where 3 - 6 wraps around to 253: convert with .int() first",
        (w * x).sum().item()
        - z_w * z_x * len(w): "subtract each zero point from its own code, then multiply",
        (w - z_w).sum().item() * (x - z_x).sum().item(): "multiply code by code, then sum, not the two sums",
    }
    hint = mistakes.get(int(found), "it is the sum of (q_w - z_w) (q_x - z_x) over all codes, without scales")
    return f"{case}: {hint} (whole numbers, so the answer must be exact)"


QUIZ = (
    Question(
        "A layer's weights go from 32 bits to 4. What does its file shrink by?",
        (
            ("Exactly 8 times.", "The codes do, but each channel also stores a scale and a zero point."),
            (
                "A little less than 8 times.",
                "The codes are 8 times smaller; scales and zero points are added.",
            ),
            ("16 times, as 4 bits have 16 values.", "The number of values is not the number of bits."),
        ),
        right=1,
    ),
    Question(
        "Eight numbers are put on a grid that covers them all. How far can each move?",
        (
            ("By at most half a step.", "Between two neighbours, the nearer is at most half a step away."),
            (
                "By at most one step.",
                "That holds too, but rounding goes to the nearer neighbour: half of it.",
            ),
            (
                "There is no limit.",
                "There is one while the grid covers the number; beyond its ends it is cut.",
            ),
        ),
        right=0,
    ),
    Question(
        "One of the eight numbers becomes a hundred times larger. What happens to the other seven?",
        (
            (
                "Nothing, each number is rounded alone.",
                "They share one step, and the large number stretches it.",
            ),
            ("They get finer codes.", "The step grows with the range, so the codes get coarser."),
            (
                "They share very few codes.",
                "One step must reach the large number, so the small ones fall together.",
            ),
        ),
        right=2,
    ),
)
