"""Lesson 04: the split, and equation 8 in integers."""

import torch
from torch import Tensor

from ...modules.quant_layer import QuantLayer
from ...quantizers.grid import Grid, PerAxis, ScaleZero, dequantize, fake_quantize, quantize
from ...quantizers.range_finders import min_max
from ..checks import Answer, Wrong, exercise
from ..text import Question
from .answers import numbers, sources
from .halves_04 import Half, integer_product
from .inputs_04 import cancelling_codes, parts_of_widths, random_values
from .mistakes_04 import product_slips, split_slips


def make_half(x: Tensor, weight: Tensor, x_bits: int = 8, w_bits: int = 4) -> Half:
    """The codes of ``x`` (N, C) on one grid and of ``weight`` (O, C) on one for each output channel."""
    of_x = ScaleZero(*(value.reshape(()) for value in min_max(x, Grid(x_bits))))
    of_w = min_max(weight, Grid(w_bits, granularity=PerAxis(0)))
    w_codes = quantize(weight, *of_w, w_bits)
    x_codes, w_zero = quantize(x, *of_x, x_bits), of_w.zero_point[:, 0].byte()
    return Half(x_codes, of_x.scale, of_x.zero_point.byte(), w_codes, of_w.scale[:, 0], w_zero)


def halves_of(layer: QuantLayer, x: Tensor) -> tuple[Half, ...]:
    """The halves of a split 1x1 convolution and of its input (N, C, H, W), as codes; a row for each pixel."""
    halves = []
    parts = zip(layer.inputs, x.split(layer.sizes, 1), layer.weight_parts(), strict=True)
    for i, (quantizer, x_part, w_part) in enumerate(parts):
        of_x = ScaleZero(quantizer.scale, quantizer.zero_point)
        codes = quantize(x_part, *of_x, quantizer.grid.bits).movedim(1, -1).flatten(0, -2)
        w_codes = quantize(w_part, *layer.part_grid(i), layer.weight_grid.bits).flatten(1)
        w_scale, w_zero = layer.weight_scale[:, i], layer.weight_zero_point[:, i].byte()
        halves.append(Half(codes, of_x.scale, of_x.zero_point.byte(), w_codes, w_scale, w_zero))
    return tuple(halves)


def to_real(half: Half) -> tuple[Tensor, Tensor]:
    """Q(X) (N, C) and Q(W) (O, C) as real values in double precision."""
    x = dequantize(half.x_codes, half.x_scale.double(), half.x_zero)
    return x, dequantize(half.w_codes, half.w_scale.double()[:, None], half.w_zero[:, None])


def shortcut_product(first: Half, second: Half) -> Tensor:
    """Equation 8 (N, O) in double precision: each half's integers, scaled by its own scales, then added."""
    return sum(h.x_scale.double() * h.w_scale.double() * integer_product(h) for h in (first, second))


def split_values(x: Tensor, sizes: tuple[int, ...], bits: int) -> Tensor:
    """Each part of ``x`` (N, C, H, W) on a min-max grid of its own, concatenated along the channels."""
    parts = x.split(sizes, dim=1)
    return torch.cat([fake_quantize(part, *min_max(part, Grid(bits)), bits) for part in parts], dim=1)


@exercise(
    "04.split_quantize",
    hints=(
        "Channels are axis 1 of (N, C, H, W). `x.split(sizes, dim=1)` cuts there, and takes unequal sizes.",
        "Go through the parts. Each needs a scale and a zero point of its own before it is quantized.",
        "Collect the quantized parts, and put them together in their old order, along the axis of the cut.",
    ),
)
def split_quantize(answer: Answer, seed: int) -> str:
    """The result must lie on each part's own grid, at most half a step from the input."""
    dice, generator = sources("04.split_quantize", seed)
    wide, narrow = dice.uniform(20, 60), dice.uniform(0.05, 0.2)
    for sizes, widths, bits in (
        ((3, 5), (wide, 1), 4),
        ((4, 2), (narrow, 1), 8),
        ((3, 2, 4), (1, 7, narrow), 4),
    ):
        x = parts_of_widths(sizes, widths, bits, generator)
        found = numbers(answer(x, sizes, bits), tuple(x.shape), "a tensor of the shape of x")
        if answer.changed:
            raise Wrong("your function changed its input x in place; other layers read it too: make a copy")
        judge_split(found, x, sizes, bits)
    return "every value is within half a step of its own half's grid: no side pays for the other's range."


def judge_split(found: Tensor, x: Tensor, sizes: tuple[int, ...], bits: int) -> None:
    """Raise Wrong where ``found``, float64, is not the split of ``x``.

    A thousandth of a grid's step is allowed for the order of floating-point operations. Values within a
    thousandth of a step of a tie may go either way.
    """
    slips = split_slips(x, sizes, bits)
    for i, (part, mine) in enumerate(zip(x.split(sizes, 1), found.split(sizes, 1), strict=True)):
        scale, zero = (value.squeeze().double() for value in min_max(part, Grid(bits)))
        right = scale * ((part / scale).round() + zero).clamp(0, 2**bits - 1).sub(zero)
        tie = ((part / scale).frac().abs() - 0.5).abs() < 1e-3
        off = ~((mine - right).abs() <= torch.where(tie, 1.001, 1e-3) * scale)
        if not off.any():
            continue
        for message, slip in slips.items():
            if slip.shape == found.shape and torch.allclose(
                found, slip.double(), rtol=1e-4, atol=1e-3 * scale
            ):
                raise Wrong(message)
        place = tuple(off.nonzero()[0].tolist())
        raise Wrong(
            f"part {i} of sizes {sizes} is wrong at {place}: {mine[place]:.5g} where the input is "
            f"{part[place]:.5g}, and {right[place]:.5g} is the nearest value of its own min-max grid, a "
            f"multiple of {scale:.4g} (tolerance: a thousandth of that). Cut along axis 1, at these sizes, "
            "find the scale of each part by itself, and keep the order."
        )


@exercise(
    "04.shortcut_output",
    hints=(
        "Do one half at a time: subtract the zero points, multiply the integers, and only then scale.",
        "Codes and zero points are uint8, and 3 - 5 is 254 there: call `.int()` on both first.",
        "Rows of w are output channels, so that w_zero needs a second axis, and the product a transpose. The "
        "scales come last: one number for x, one for each column of the product.",
    ),
)
def shortcut_output(answer: Answer, seed: int) -> str:
    """Compare with exact integer products, also of many channels, whose partial sums are above 2^24."""
    dice, generator = sources("04.shortcut_output", seed)
    cases = [random_halves(generator, ratio) for ratio in (dice.uniform(20, 80), dice.uniform(1.5, 3))]
    for halves in (*cases, long_halves(generator)):
        expected = shortcut_product(*halves)
        what = "the output of the layer, (N, O) in floating point"
        judge_product(numbers(answer(*halves), tuple(expected.shape), what), expected, halves)
    return "eq. 8 holds: the halves meet only after each was scaled by its own scales."


def judge_product(found: Tensor, expected: Tensor, halves: tuple[Half, Half]) -> None:
    """Raise Wrong where ``found`` is not the product; name the slip if it is a known one.

    The integers are exact, so only the scaling may round: a few units of float32, 6e-8 of the terms.
    """
    terms = [h.x_scale.double() * h.w_scale.double() * integer_product(h) for h in halves]
    allowed = 16 * 2.0**-24 * sum(term.abs() for term in terms)
    off = ~((found - expected).abs() <= allowed)
    if not off.any():
        return
    for message, slip in product_slips(halves, terms).items():
        if torch.allclose(found, slip.double(), rtol=1e-5):
            raise Wrong(message)
    place = tuple(off.nonzero()[0].tolist())
    channels = halves[0].x_codes.shape[1]
    floats = (
        f" With {channels:,} channels the sums of products are above 2^24, where float32 holds no odd "
        "numbers: multiply and add integers, and scale at the end."
    )
    raise Wrong(
        f"output {place} is {found[place]:.7g}, not {expected[place]:.7g}. Integer products are exact, so at "
        f"most {allowed[place]:.1g} is allowed (rounding of float32 in the scaling)."
        + floats
        * (channels > 4096)
    )


def random_halves(generator: torch.Generator, ratio: float) -> tuple[Half, Half]:
    """Two halves of 6 and 4 channels; the inputs' ranges differ by ``ratio``, the weights' by its inverse."""
    return tuple(make_half(x, weight) for x, weight in random_values(generator, ratio))


def long_halves(generator: torch.Generator) -> tuple[Half, Half]:
    """A half of many channels with small sums, though their parts are large, and a half of four channels."""
    x_codes, w_codes, x_zero, w_zero = cancelling_codes(generator)
    x_scale, w_scale = torch.tensor(0.013), torch.tensor([0.021, 0.017])
    zeros = torch.tensor(x_zero).byte(), torch.tensor([w_zero] * 2).byte()
    long = Half(x_codes, x_scale, zeros[0], w_codes, w_scale, zeros[1])
    x, weight = (torch.randn(n, 4, generator=generator) for n in (1, 2))
    return long, make_half(x, weight)


QUIZ = (
    Question(
        "X2 is 200 times as wide as X1, and both share one 8-bit grid. About how many codes does X1 get?",
        (
            ("256, like X2", "The grid has 256 codes for the whole range. X1 covers a small part of it."),
            ("128", "The number of codes depends on the range, not on the number of channels."),
            ("1 or 2", "The range of X1 is 255 / 200 = 1.3 times the scale. So X1 is nearly constant."),
        ),
        2,
    ),
    Question(
        "Why can the two products of equation 8 not be added as integers?",
        (
            ("They would overflow", "Not at these sizes: 128 channels of 8 by 4 bits need 20 bits."),
            (
                "They have different units",
                "Each half's integers are multiples of its own s_x s_w. Scale first, then add.",
            ),
            ("Integer addition is slow", "It is fast. The sum would be wrong, not slow."),
        ),
        1,
    ),
    Question(
        "In a shortcut layer the ratio of the two ranges is 1.7. What does the split gain there?",
        (
            (
                "Less than one bit for the smaller half, and less in the layer's output",
                "The smaller half gains log2(1.7) = 0.77 bits. The wider half gains nothing.",
            ),
            ("Nothing at all", "The scale of the smaller half becomes 1.7 times smaller."),
            ("Very much: one grid erases the smaller half", "This needs a ratio near 2^b - 1."),
        ),
        0,
    ),
)
