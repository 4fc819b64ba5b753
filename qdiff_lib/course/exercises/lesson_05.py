"""Exercises and quiz of lesson 5: the rounding penalty, the hard decision, two codes in a byte."""

import torch
from torch import Tensor

from ...quantizers.adaround import GAMMA, ZETA
from ...quantizers.packing import pack, unpack
from ..checks import Answer, Wrong, exercise
from ..text import Question
from .answers import FLOAT32, compare, describe, numbers, sources


@exercise(
    "05.rounding_penalty",
    hints=(
        "First h: the sigmoid of V lies between 0 and 1; stretch it to [gamma, zeta], then clip it.",
        "To stretch, multiply by the new width, zeta - gamma, and move the low end to gamma.",
        "2 h - 1 lies between -1 and 1. The exponent beta is for its absolute value. The sum comes last.",
    ),
)
def rounding_penalty(answer: Answer, seed: int) -> str:
    dice, generator = sources("05.rounding_penalty", seed)
    betas = (
        dice.randint(9, 20),
        2 * dice.randint(1, 4) + 1,
        dice.uniform(2.1, 2.9),
        14 + dice.uniform(0.1, 0.9),
    )
    for beta in map(float, betas):
        n = dice.randint(20, 200)
        v = 3 * torch.randn(n, generator=generator)
        v[0], v[1] = -9.0, 9.0  # far beyond the clip on both sides
        found = numbers(answer(v, beta), (), "one number, the sum over all variables")
        # each of n terms is at most 1 and is off by a few float32 roundings, which beta multiplies
        slack = 4 * n * (beta + 2) * FLOAT32
        why = f"{n} float32 terms, roundings grow {beta:.3g} times"
        mistakes = penalty_mistakes(v, beta)
        compare(found, penalty(soft(v), beta).sum(), slack, why, mistakes, f"with beta={beta:.4g}")
    return f"tested with {len(betas)} values of beta. The penalty of a decided weight is 0."


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
        f"take the size |2 h - 1| first, by .abs(): a negative number to the power {beta:.4g} is negative, "
        "or NaN.": (1 - (2 * h - 1).pow(beta)).sum(),
        "multiply the sigmoid by zeta - gamma = 1.2: with zeta alone the high end is at 1.": penalty(
            (plain * ZETA + GAMMA).clamp(0, 1), beta
        ).sum(),
        "beta is the exponent, not a factor.": (1 - beta * (2 * h - 1).abs()).sum(),
        "the exponent beta is missing.": (1 - (2 * h - 1).abs()).sum(),
    }


@exercise(
    "05.decide_codes",
    hints=(
        "Begin with the floor of w / s. Where h is at least one half, add one step. Elsewhere add nothing.",
        "What you have after hint 1 counts steps from the number 0. But the code of the number 0 is z.",
        "A comparison of tensors gives True and False, which count as 1 and 0 in a sum. At the end, some "
        "codes lie outside of the grid.",
    ),
)
def decide_codes(answer: Answer, seed: int) -> str:
    dice, generator = sources("05.decide_codes", seed)
    for bits, s, zero in ((4, 0.125, 7), (3, dice.uniform(0.2, 0.7), 0), (4, dice.uniform(0.1, 0.3), 15)):
        n, z = dice.randint(30, 60), float(zero)
        steps = torch.randint(-(2**bits), 2**bits + 1, (n,), generator=generator)
        rest = 0.05 + 0.9 * torch.rand(n, generator=generator)  # no floor depends on the rounding of w / s
        if s == 0.125:
            rest[::5] = 0.0  # on the grid, exactly
        w = ((steps + rest) * s).float()
        h = torch.rand(n, generator=generator)
        h[0], h[1], h[2], h[3] = 0.5, 0.0, 1.0, 0.5
        w[0], w[3] = 0.3 * s, 1.2 * s
        found = numbers(answer(w, s, z, h, bits), (n,), "the codes of all weights")
        floor = torch.floor(w.double() / s)
        right = (floor + (h >= 0.5) + z).clamp(0, 2**bits - 1)
        mistakes = code_mistakes(w.double(), floor, s, z, h, bits)
        case = f"for s={s:.4g}, z={z:g}, bits={bits}, at weight"
        compare(found, right, 0.0, "codes are whole numbers", mistakes, case)
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
        "the largest code is 2^bits - 1, not 2^bits.": (floor + up + z).clamp(0, top + 1),
        "the zero point is missing: the code of the weight 0 is z.": (floor + up).clamp(0, top),
        "clip after the zero point is added, not before.": (floor + up).clamp(0, top) + z,
        "clip last: h may lift the largest code out of the grid.": (floor + z).clamp(0, top) + up,
        "h is still soft in your codes: at the end each weight goes up (h >= 0.5) or down.": (
            floor + h.double() + z
        ).clamp(0, top),
        "that goes down where h is large: h is the share of a step that is added.": (
            floor + 1 - up + z
        ).clamp(0, top),
        "that goes down where h is large: use h >= 0.5, not 1 - h.": (floor + (h <= 0.5) + z).clamp(0, top),
        "h = 0.5 goes up: use h >= 0.5.": (floor + (h > 0.5) + z).clamp(0, top),
        "round w / s down, by floor: trunc, int() and .int() round negative numbers up.": (
            torch.trunc(w / s) + up + z
        ).clamp(0, top),
        "all weights go down: add 1 where h is at least one half.": (floor + z).clamp(0, top),
    }


@exercise(
    "05.pack_nibbles",
    hints=(
        "A byte has 8 bits: the first code takes the lower four, the second the upper four.",
        "To move a code up by four bits, multiply it by 16.",
        "If the number of codes is odd, append a 0 first, so that each code has a partner. `[::2]` takes "
        "every second code.",
    ),
)
def pack_nibbles(answer: Answer, seed: int) -> str:
    dice, generator = sources("05.pack_nibbles", seed)
    for n in (2, 2 * dice.randint(3, 8), 2 * dice.randint(20, 40), 2 * dice.randint(3, 8) + 1, 1):
        codes = torch.randint(16, (n,), generator=generator, dtype=torch.uint8)
        codes[:2] = torch.tensor([dice.randint(1, 4), 15], dtype=torch.uint8)[:n]
        count = -(-n // 2)
        packed = answer(codes)
        found = numbers(
            list(packed) if isinstance(packed, bytes) else packed, (count,), f"{count} bytes for {n} codes"
        )
        if ((found < 0) | (found > 255) | (found != found.round())).any():
            raise Wrong(
                f"a byte is a whole number from 0 to 255; yours go from {found.min():g} to {found.max():g}."
            )
        if not torch.equal(found.to(torch.uint8), pack(codes, 4)):
            raise Wrong(packing_mistake(found.to(torch.uint8), codes))
        if not isinstance(packed, Tensor) or packed.dtype != torch.uint8:
            kind = f"of type {packed.dtype}" if isinstance(packed, Tensor) else f"in {describe(packed)}"
            raise Wrong(
                f"the values are right, but {kind}: return a tensor of type torch.uint8, a byte for each."
            )
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
        "16 values need a factor of 16: 15 is the largest code.": first + 15 * second,
    }
    for message, value in mistakes.items():
        if torch.equal(found, value):
            return message
    back = unpack(found, 4, (len(codes),))
    if torch.equal(back, codes.int()):
        return f"the upper four bits of the last byte must be 0; yours is {found[-1].item()}."
    wrong = int((back != codes.int()).nonzero()[0])
    return (
        f"unpacked again, code {wrong} of {len(codes)} is {back[wrong].item()} instead of "
        f"{codes[wrong].item()} (exact, no tolerance)."
    )


QUIZ = (
    Question(
        "Why is AdaRound better than rounding each weight to nearest, on the same grid?",
        (
            ("It changes each weight less.", "No rounding changes a single weight less than nearest."),
            (
                "The errors of many weights add up in one output, and AdaRound makes them cancel.",
                "It measures the error of the output, for inputs from the real network.",
            ),
            ("It uses more values.", "The grid is the same: 16 values for 4 bits."),
        ),
        right=1,
    ),
    Question(
        "What does the penalty do while beta falls?",
        (
            (
                "It moves every weight to its nearest value.",
                "It moves h to 0 or to 1, whichever is closer at that time.",
            ),
            (
                "At first it has little effect on most h. At the end it moves all of them to 0 or 1.",
                "A large beta makes it flat around h = 0.5. A small beta gives it a slope nearly everywhere.",
            ),
            (
                "It makes the weights smaller.",
                "It does not depend on the size of a weight, only on h.",
            ),
        ),
        right=1,
    ),
    Question(
        "The packed file takes 14 % of the original's bytes. Simulated sampling is no faster. Why?",
        (
            (
                "The course simulates integers in floating point. Speed needs arithmetic in integers.",
                "The file is smaller. But the computer still computes as many products, in floating point.",
            ),
            (
                "Four-bit models are never faster.",
                "With an engine that computes in integers they can be: lesson 6 measures it.",
            ),
            (
                "The file is still unpacked from disk at every step.",
                "It is unpacked once, when it is loaded.",
            ),
        ),
        right=0,
    ),
)
