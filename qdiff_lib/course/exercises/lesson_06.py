"""Exercises and quiz of lesson 6: a bias that holds the zero points, requantization, Amdahl's law."""

import torch
from torch import Tensor

from ..checks import Answer, exercise
from ..text import Question
from .answers import FLOAT32, compare, numbers, sources

MANY = 9000  # inputs of a neuron whose correction is above 2^24
EXACT = "whole numbers are exact"


@exercise(
    "06.folded_bias",
    hints=(
        "Multiply out (q_x - z_x) times the level of a weight. One of the two terms does not depend on q_x.",
        "For each output channel, sum this term over all inputs. It is minus z_x times a sum of levels.",
        "uint8 has no negative numbers: convert codes and zero points to a type that has them before you "
        "subtract. And z_w has one entry for each row of q_w.",
    ),
)
def folded_bias(answer: Answer, seed: int) -> str:
    dice, generator = sources("06.folded_bias", seed)
    for outputs, inputs, z_x in ((5, 12, dice.randint(20, 120)), (4, 4, 255), (3, MANY, 231)):
        q_w = torch.randint(16, (outputs, inputs), generator=generator, dtype=torch.uint8)
        z_w = torch.randint(4, 12, (outputs,), generator=generator, dtype=torch.uint8)
        if inputs == MANY:
            q_w[0] |= 8
            q_w[0, 0], z_w[0] = 15 - int(q_w[0, 1:].sum()) % 2, 2  # an odd correction above 2^24
        bias = 2 * torch.randint(-4999, 5000, (outputs,), generator=generator, dtype=torch.int32)
        found = numbers(answer(q_w, z_w, z_x, bias), (outputs,), "one whole number for each output channel")
        levels = q_w.long() - z_w.long()[:, None]
        right = (bias.long() - z_x * levels.sum(1)).double()
        mistakes = bias_mistakes(q_w, z_w, z_x, bias)
        compare(found, right, 0.0, EXACT, mistakes, f"with {inputs} inputs and z_x={z_x}, output channel")
    return "exact for three layers. An engine adds this bias, and never subtracts a zero point from an input."


def bias_mistakes(q_w: Tensor, z_w: Tensor, z_x: int, bias: Tensor) -> dict[str, Tensor]:
    """What likely mistakes give."""
    levels, codes, n = q_w.long() - z_w.long()[:, None], q_w.long().sum(1), q_w.shape[1]
    total, b = levels.sum(1), bias.long()
    wrapped = (q_w - z_w[:, None]).long().sum(1)
    return {
        "q_w - z_w wraps around in uint8: convert both with .int() first.": b - z_x * wrapped,
        "subtract the correction: the input's level is q_x minus z_x.": b + z_x * total,
        "the weight has a zero point, too: sum the levels q_w - z_w, not the codes.": b - z_x * codes,
        "that is the correction alone: the engine adds your result, so the bias belongs to it.": -z_x * total,
        "multiply the sum by z_x: each level meets the same zero point of the input.": b - total,
        "the zero point of the weight is in every one of the n products: subtract it n times.": b
        - z_x * (codes - z_w.long()),
        "that is the term with both zero points alone; the codes of the weight are missing.": b
        + n * z_x * z_w.long(),
        "sum over the inputs, do not average.": b - z_x * levels.double().mean(1),
        "bias unchanged: then every input would be too large by z_x.": b,
    }


@exercise(
    "06.requantize",
    hints=(
        "Python and torch write a shift to the right by k bits as `>> k`. It divides by 2^k and rounds down.",
        "To round to nearest, add half of 2^shift before the shift. After the shift it is worth 1/2.",
        "The product of a sum and the multiplier needs 64 bits, so convert the sums first. The zero point "
        "comes after the shift. Clip last.",
    ),
)
def requantize(answer: Answer, seed: int) -> str:
    dice, generator = sources("06.requantize", seed)
    large = dice.randrange(2**29 + 1, 2**30, 2)
    for multiplier, shift, z in (
        (3, 4, dice.randint(5, 120)),
        (large, 38, 0),
        (large, 41, dice.randint(9, 99)),
    ):
        n, reach = dice.randint(40, 80), 300 * 2**shift // multiplier
        sums = torch.randint(-reach, reach + 1, (n,), generator=generator).to(torch.int32)
        sums[:6] = torch.tensor(
            [reach, -reach, 8, -8, 24, -24]
        )  # both ends, and halves if the factor is 3 / 16
        found = numbers(answer(sums, multiplier, shift, z), (n,), "one code for each sum")
        right = ((sums.long() * multiplier + 2 ** (shift - 1)) >> shift).add(z).clamp(0, 255).double()
        case = f"with multiplier={multiplier}, shift={shift}, zero_point={z}, sum"
        compare(found, right, 0.0, EXACT, code_mistakes(sums, multiplier, shift, z), case)
    return "exact for three factors: from sums to codes, and no floating-point number anywhere."


def code_mistakes(sums: Tensor, multiplier: int, shift: int, z: int) -> dict[str, Tensor]:
    """What likely mistakes give."""
    wide, half = sums.long() * multiplier, 2 ** (shift - 1)
    rounded = (wide + half) >> shift
    narrow = (sums * torch.tensor(multiplier, dtype=torch.int32)).long()
    return {
        "the product wraps around in int32: convert the sums with .long() first.": (
            ((narrow + half) >> shift) + z
        ).clamp(0, 255),
        "a shift alone rounds down: add half a unit, 2^(shift - 1), before it.": ((wide >> shift) + z).clamp(
            0, 255
        ),
        "clip last: the zero point moves codes out of 0 ... 255.": rounded.clamp(0, 255) + z,
        "clip the codes to 0 ... 255: some sums lie outside of the grid.": rounded + z,
        "the largest code is 255, not 256.": (rounded + z).clamp(0, 256),
        "the zero point is missing: the code of 0 is zero_point.": rounded.clamp(0, 255),
        "codes are uint8, from 0 to 255: clip to these, not to int8.": (rounded + z).clamp(-128, 127),
        "the zero point is a code: add it after the shift, where codes are counted.": (
            (wide + z + half) >> shift
        ).clamp(0, 255),
        "halves round up here, also where torch.round takes the even number.": (
            torch.round(wide.double() / 2**shift) + z
        ).clamp(0, 255),
        "halves of negative numbers round up, too, so towards zero.": (
            wide.sign() * ((wide.abs() + half) >> shift) + z
        ).clamp(0, 255),
    }


@exercise(
    "06.amdahl_speedup",
    hints=(
        "The speed-up is the old time divided by the new time. The old time is the sum of all milliseconds.",
        "In the new time, only the products are faster. Everything else takes as long as before.",
        "The conversions to integers are new: add their milliseconds to the new time, not to the old time.",
    ),
)
def amdahl_speedup(answer: Answer, seed: int) -> str:
    dice, generator = sources("06.amdahl_speedup", seed)
    for n, rate, added in (
        (4, 4.0, dice.uniform(0.3, 1)),
        (7, dice.uniform(1.5, 9), dice.uniform(0.5, 3)),
        (5, 0.5, 2.0),
    ):
        milliseconds = 0.2 + 9.8 * torch.rand(n, generator=generator)
        products = torch.zeros(n, dtype=torch.bool)
        products[torch.randperm(n, generator=generator)[: n // 2]] = True
        found = numbers(answer(milliseconds, products, rate, added), (), "one number, the speed-up")
        ms = milliseconds.double()
        right = ms.sum() / (ms[~products].sum() + ms[products].sum() / rate + added)
        slack = (2 * n + 8) * FLOAT32 * right  # two sums of n terms, some products and quotients
        why = f"float32 sums of {n} terms"
        mistakes = speed_mistakes(ms, products, rate, added)
        compare(found, right, slack, why, mistakes, f"with rate={rate:.4g}, added={added:.4g}")
    return "tested with three lists of times. The faster the products, the more the other operations matter."


def speed_mistakes(ms: Tensor, products: Tensor, rate: float, added: float) -> dict[str, Tensor]:
    """What likely mistakes give."""
    rest, fast, whole = ms[~products].sum(), ms[products].sum(), ms.sum()
    new = rest + fast / rate + added
    return {
        "that is the new time over the old one: a speed-up is the reverse.": new / whole,
        "the conversions are missing: add their milliseconds to the new time.": whole / (new - added),
        "the products become faster, not the rest.": whole / (rest / rate + fast + added),
        "not all of the time is made faster: the rest stays.": whole / (whole / rate + added),
        "that is what the products alone gain.": fast / (fast / rate),
        "divide by the rate: faster products take less time.": whole / (rest + fast * rate + added),
        "the conversions are new: they were not in the old time.": (whole + added) / new,
        "the conversions do not get faster with the products.": whole / (rest + (fast + added) / rate),
        "a time is missing: that is the new time, in milliseconds.": new,
        "that is what is saved, in milliseconds.": whole - new,
        "the rest of the network is in the new time, too.": whole / (fast / rate + added),
    }


QUIZ = (
    Question(
        "A neuron has 1152 products of a 4-bit weight and an 8-bit input. Which accumulator is safe?",
        (
            ("int8: the codes have at most 8 bits.", "One product alone has up to 15 x 255 = 3825."),
            (
                "int16: a product of 4 and 8 bits has 12 bits.",
                "One product fits into 16 bits. The sum of nine products can need 17.",
            ),
            ("int32: 1152 x 3825 is far below 2^31.", "It would be enough for half a million such products."),
        ),
        right=2,
    ),
    Question(
        "An input has the zero point 13. With which code does an integer convolution pad its border?",
        (
            ("0, as floating-point convolutions do.", "The code 0 stands for -13 times the scale, not 0."),
            ("13: the code of the number 0.", "Then a padded input has level 0 and adds nothing."),
            ("128, the middle of the codes.", "The code 128 stands for another number than 0."),
        ),
        right=1,
    ),
    Question(
        "Products take half of a network's time. Integers make them ten times faster. What follows?",
        (
            ("The network is ten times faster.", "Only half of its time becomes ten times shorter."),
            (
                "The network is 5.5 times faster.",
                "That is the mean of 10 and 1. Add the times, not the speed-ups: 0.5 + 0.05 is left.",
            ),
            (
                "The network is less than twice as fast.",
                "0.5 + 0.05 of the time is left, so it is 1.8 times as fast. The other half sets the limit.",
            ),
        ),
        right=2,
    ),
)
