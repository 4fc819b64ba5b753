"""Exercises and quiz of lesson 5: the rounding penalty, the hard decision, two codes in a byte."""

import torch
from torch import Tensor

from ...quantizers.adaround import GAMMA, ZETA, AdaRound
from ...quantizers.packing import unpack
from ..checks import Answer, Wrong, exercise
from ..text import Question
from .answers import FLOAT32, compare, numbers

CASES = ((20.0, 64), (8.0, 7), (2.0, 200))  # beta, number of rounding variables


@exercise(
    "05.rounding_penalty",
    hints=(
        "First h: the sigmoid of V lies between 0 and 1; stretch it to [gamma, zeta], then clip it.",
        "h = (torch.sigmoid(v) * (zeta - gamma) + gamma).clamp(0, 1), with gamma = -0.1 and zeta = 1.1.",
        "2 h - 1 lies between -1 and 1. Take its size, raise it to beta, subtract from 1, and sum.",
    ),
)
def rounding_penalty(answer: Answer, seed: int) -> str:
    generator = torch.Generator().manual_seed(seed + 5)
    for beta, n in CASES:
        v = 3 * torch.randn(n, generator=generator, dtype=torch.float64).float()
        v[0] = -9.0  # far beyond the clip
        found = numbers(answer(v.clone(), beta), (), "one number, the sum over all variables")
        h = soft(v)
        right = penalty(h, beta).sum()
        # each of n terms is at most 1 and is off by a few float32 roundings, which beta multiplies
        slack = 4 * n * (beta + 2) * FLOAT32
        compare(
            found,
            right,
            slack,
            f"{n} float32 terms, roundings grow {beta:g} times",
            penalty_mistakes(v, beta),
        )
    return f"right for {len(CASES)} values of beta, to the rounding of float32. It is 0 where all is decided."


def soft(v: Tensor) -> Tensor:
    """The rectified sigmoid, in double precision."""
    return (torch.sigmoid(v.double()) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def penalty(h: Tensor, beta: float) -> Tensor:
    """The regularizer's terms."""
    return 1 - (2 * h - 1).abs().pow(beta)


def penalty_mistakes(v: Tensor, beta: float) -> dict[str, Tensor]:
    """What likely mistakes give."""
    h, plain = soft(v), torch.sigmoid(v.double())
    unclipped = plain * (ZETA - GAMMA) + GAMMA
    return {
        "that is the penalty of the plain sigmoid: stretch it to [gamma, zeta] and clip, or h never "
        "reaches 0 and 1.": penalty(plain, beta).sum(),
        "clip h to [0, 1] after stretching the sigmoid; without it the penalty can be negative.": penalty(
            unclipped, beta
        ).sum(),
        "sum over the variables, do not average: the penalty of a layer grows with its size.": penalty(
            h, beta
        ).mean(),
        "that is the sum of |2h - 1|^beta, which is largest where all is decided: subtract it from 1.": (
            1 - penalty(h, beta)
        ).sum(),
        "use 2 h - 1, which is -1 or 1 for a decided h: with h alone, rounding down would cost 1.": (
            1 - h.pow(beta)
        ).sum(),
    }


@exercise(
    "05.decide_codes",
    hints=(
        "Where h is at least one half the weight goes up, elsewhere down: up by one step from the floor.",
        "The code is floor(w / s) + (1 or 0) + z: the zero point belongs to the code.",
        "codes = (torch.floor(w / s) + (h >= 0.5) + z).clamp(0, 2**bits - 1)",
    ),
)
def decide_codes(answer: Answer, seed: int) -> str:
    generator = torch.Generator().manual_seed(seed + 6)
    for n, bits, s, z in ((40, 4, 0.125, 7.0), (25, 3, 0.5, 0.0), (60, 4, 0.25, 15.0)):
        w = torch.randn(n, generator=generator) * s * 2 ** (bits - 1)
        h = torch.rand(n, generator=generator)
        h[0] = 0.5
        found = numbers(answer(w.clone(), s, z, h.clone(), bits), (n,), "the codes of all weights")
        library = AdaRound(w, torch.tensor(s), torch.tensor(z), bits)
        library.h = lambda h=h: h
        right = (library.decided() / s + z).round().double()
        floor = torch.floor(w.double() / s)
        compare(found, right, 0.0, "codes are whole numbers", code_mistakes(w.double(), floor, s, z, h, bits))
    return "exact for three layers: this is the moment in which the soft weights become integers."


def code_mistakes(w: Tensor, floor: Tensor, s: float, z: float, h: Tensor, bits: int) -> dict[str, Tensor]:
    """What likely mistakes give."""
    top, up = 2**bits - 1, (h >= 0.5).double()
    return {
        "that rounds to nearest: the learned h decides, not the fraction of w / s.": (
            torch.round(w / s) + z
        ).clamp(0, top),
        "those are real values s (q - z): return the codes q.": s * ((floor + up + z).clamp(0, top) - z),
        "clip the codes to 0 ... 2^bits - 1: some weights lie outside of the grid.": floor + up + z,
        "the zero point is missing: the code of the weight 0 is z.": (floor + up).clamp(0, top),
        "clip after the zero point is added, not before.": (floor + up).clamp(0, top) + z,
        "h is still soft in your codes: at the end each weight goes up (h >= 0.5) or down.": (
            floor + h.double() + z
        ).clamp(0, top),
        "that goes down where h is large: h is the share of a step that is added.": (
            floor + 1 - up + z
        ).clamp(0, top),
        "h = 0.5 goes up: use h >= 0.5.": (floor + (h > 0.5) + z).clamp(0, top),
    }


@exercise(
    "05.pack_nibbles",
    hints=(
        "A byte has 8 bits: the first code takes the lower four, the second the upper four.",
        "Moving a code up by four bits is multiplying it by 16: byte = first + 16 * second.",
        "With an odd number of codes the last byte has a first code only: append a 0 before you pair them.",
    ),
)
def pack_nibbles(answer: Answer, seed: int) -> str:
    generator = torch.Generator().manual_seed(seed + 7)
    for n in (2, 10, 64, 7):
        codes = torch.randint(16, (n,), generator=generator, dtype=torch.uint8)
        codes[:2] = torch.tensor([3, 15], dtype=torch.uint8)
        count = -(-n // 2)
        found = numbers(answer(codes.clone()), (count,), f"{count} bytes for {n} codes")
        if ((found < 0) | (found > 255) | (found != found.round())).any():
            raise Wrong(
                f"a byte is a whole number from 0 to 255; yours go from {found.min():g} to {found.max():g}."
            )
        if not torch.equal(unpack(found.to(torch.uint8), 4, (n,)), codes.int()):
            raise Wrong(packing_mistake(found.to(torch.uint8), codes))
    return "what you packed, the library unpacks: exact for even and odd numbers of codes."


def packing_mistake(found: Tensor, codes: Tensor) -> str:
    """What wrong bytes suggest."""
    even = torch.cat([codes, codes.new_zeros(len(codes) % 2)])
    first, second = even[::2], even[1::2]
    half = len(even) // 2
    mistakes = {
        "the order is reversed: the first code belongs into the lower four bits.": second + 16 * first,
        "the second code must move up by four bits: multiply it by 16, or shift by 4.": first + second,
        "pair neighbours (codes 0 and 1, 2 and 3, ...), not the first half with the second.": even[:half]
        + 16 * even[half:],
        "16 values need a factor of 16: 10 is for decimal digits.": first + 10 * second,
    }
    for message, value in mistakes.items():
        if torch.equal(found, value):
            return message
    wrong = int((unpack(found, 4, (len(codes),)) != codes.int()).nonzero()[0])
    got = unpack(found, 4, (len(codes),))[wrong].item()
    return f"unpacked again, code {wrong} is {got} instead of {codes[wrong].item()} (exact, no tolerance)."


QUIZ = (
    Question(
        "Why does AdaRound beat rounding each weight to nearest, on the same grid?",
        (
            ("It moves each weight less.", "No rounding moves a single weight less than nearest does."),
            (
                "The errors of many weights add up in one output, and it lets them cancel.",
                "It judges a rounding by the output, for inputs as the network really gets them.",
            ),
            ("It uses more values.", "The grid is the same: 16 values for 4 bits."),
        ),
        right=1,
    ),
    Question(
        "What does the regularizer do as beta falls?",
        (
            (
                "It pulls every weight to nearest.",
                "It pulls h to 0 or to 1, whichever side it is on by then.",
            ),
            (
                "At first it leaves most h alone, in the end it pushes all of them to 0 or 1.",
                "A high beta is flat in the middle; a low one has a slope nearly everywhere.",
            ),
            (
                "It makes the weights smaller.",
                "It does not see the size of a weight, only the share of a step.",
            ),
        ),
        right=1,
    ),
    Question(
        "The packed file takes 14 % of the original's bytes, and sampling from it here is no faster. Why?",
        (
            (
                "The course simulates integers in floating point; speed needs kernels for integers.",
                "The file shows the bytes. The arithmetic is the same numbers, computed as floats.",
            ),
            (
                "Four-bit models are never faster.",
                "With integer kernels they are; such kernels are not shown here.",
            ),
            (
                "The file is still unpacked from disk at every step.",
                "It is unpacked once, when it is loaded.",
            ),
        ),
        right=0,
    ),
)
