"""Lesson 04: the split, and equation 8 in integers."""

from typing import NamedTuple

import torch
from torch import Tensor

from ...modules.quant_layer import QuantLayer
from ...quantizers.grid import Grid, PerAxis, ScaleZero, dequantize, fake_quantize, quantize
from ...quantizers.range_finders import min_max
from ..checks import Answer, Wrong, exercise
from ..text import Question


class Half(NamedTuple):
    """One half of a shortcut layer, in codes.

    x_codes: (N, C) uint8. x_scale, x_zero: 0-dimensional. w_codes: (O, C) uint8. w_scale, w_zero: (O,).
    """

    x_codes: Tensor
    x_scale: Tensor
    x_zero: Tensor
    w_codes: Tensor
    w_scale: Tensor
    w_zero: Tensor


def make_half(x: Tensor, weight: Tensor, x_bits: int = 8, w_bits: int = 4) -> Half:
    """The codes of ``x`` (N, C) on one grid and of ``weight`` (O, C) on one for each output channel."""
    of_x = ScaleZero(*(value.reshape(()) for value in min_max(x, Grid(x_bits))))
    of_w = min_max(weight, Grid(w_bits, granularity=PerAxis(0)))
    w_codes = quantize(weight, *of_w, w_bits)
    return Half(quantize(x, *of_x, x_bits), *of_x, w_codes, of_w.scale[:, 0], of_w.zero_point[:, 0])


def halves_of(layer: QuantLayer, x: Tensor) -> tuple[Half, ...]:
    """The halves of a split 1x1 convolution and of its input (N, C, H, W), as codes; a row for each pixel."""
    halves = []
    parts = zip(layer.inputs, x.split(layer.sizes, 1), layer.weight_parts(), strict=True)
    for i, (quantizer, x_part, w_part) in enumerate(parts):
        of_x = ScaleZero(quantizer.scale, quantizer.zero_point)
        codes = quantize(x_part, *of_x, quantizer.grid.bits).movedim(1, -1).flatten(0, -2)
        w_codes = quantize(w_part, *layer.part_grid(i), layer.weight_grid.bits).flatten(1)
        halves.append(Half(codes, *of_x, w_codes, layer.weight_scale[:, i], layer.weight_zero_point[:, i]))
    return tuple(halves)


def to_real(half: Half) -> tuple[Tensor, Tensor]:
    """Q(X) (N, C) and Q(W) (O, C) as real values in double precision."""
    x = dequantize(half.x_codes, half.x_scale.double(), half.x_zero)
    return x, dequantize(half.w_codes, half.w_scale.double()[:, None], half.w_zero[:, None])


def integer_product(half: Half) -> Tensor:
    """``(qx - zx) (qw - zw)^T`` (N, O) in int32: exact."""
    x = half.x_codes.int() - half.x_zero.int()
    return x @ (half.w_codes.int() - half.w_zero.int()[:, None]).T


def shortcut_product(first: Half, second: Half) -> Tensor:
    """Equation 8 (N, O) in double precision: each half's integers, scaled by its own scales, then added."""
    return sum(h.x_scale.double() * h.w_scale.double() * integer_product(h) for h in (first, second))


def split_values(x: Tensor, sizes: tuple[int, ...], bits: int) -> Tensor:
    """Each part of ``x`` (N, C, H, W) on a min-max grid of its own, concatenated along the channels."""
    parts = x.split(sizes, dim=1)
    return torch.cat([fake_quantize(part, *min_max(part, Grid(bits)), bits) for part in parts], dim=1)


def toy_sides(ratio: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two images (2, 3, 4, 4) and (2, 5, 4, 4) of uniform noise, the first ``ratio`` times as wide."""
    generator = torch.Generator().manual_seed(seed)
    deep, skip = (2 * torch.rand(2, c, 4, 4, generator=generator) - 1 for c in (3, 5))
    return ratio * deep, skip


@exercise(
    "04.split_quantize",
    hints=(
        "Channels are axis 1 of (N, C, H, W). `x.split(sizes, dim=1)` cuts there, and takes unequal sizes.",
        "Find scale and zero point for each part alone: `min_max(part, Grid(bits))`.",
        "Put the fake-quantized parts together in their old order: `torch.cat(parts, dim=1)`.",
    ),
)
def split_quantize(answer: Answer, seed: int) -> str:
    """The result must lie on each part's own grid, at most half a step from the input."""
    for sizes, ratio, bits in (((3, 5), 40.0, 4), ((3, 5), 0.1, 8), ((3, 2, 3), 7.0, 4)):
        x = torch.cat(toy_sides(ratio, seed=seed + bits), dim=1)
        found = answer(x, sizes, bits)
        if not isinstance(found, Tensor) or found.shape != x.shape:
            raise Wrong(f"return a tensor of the shape of x, {tuple(x.shape)}; got {describe(found)}")
        if answer.changed:
            raise Wrong("your function changed its input x in place; other layers read it too: make a copy")
        judge_split(found, x, sizes, bits)
    return "every value is within half a step of its own half's grid: no side pays for the other's range."


def describe(value: object) -> str:
    """A shape for a tensor, the type's name for anything else."""
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__


def judge_split(found: Tensor, x: Tensor, sizes: tuple[int, ...], bits: int) -> None:
    """Raise Wrong where ``found`` is not the split of ``x``.

    Rounding to nearest moves a value inside the range by at most half a step; a thousandth of a step is
    allowed for the order of floating-point operations, which may also flip a tie.
    """
    if torch.allclose(found, fake_quantize(x, *min_max(x, Grid(bits)), bits)):
        raise Wrong("this is one grid for the whole tensor: find a scale for each part")
    if (found == found.round()).all() and found.min() >= 0:
        raise Wrong("these are codes; return values on the grid, s (q - z): use fake_quantize or dequantize")
    for i, (part, mine) in enumerate(zip(x.split(sizes, 1), found.split(sizes, 1), strict=True)):
        scale, zero = (value.squeeze() for value in min_max(part, Grid(bits)))
        steps = mine / scale
        if (mine - part).abs().max() > 0.501 * scale:
            worst = ((mine - part).abs().max() / scale).item()
            raise Wrong(
                f"part {i} of sizes {sizes} is off by up to {worst:.2f} of its steps; rounding to nearest on "
                "its own min-max grid gives at most 0.5. Cut along axis 1, at these sizes, and keep the order"
            )
        if (steps - steps.round()).abs().max() > 1e-3 or len(steps.round().unique()) > 2**bits:
            raise Wrong(
                f"part {i} of sizes {sizes} is not on its own grid: all of its values must be multiples "
                f"of one step, {scale.item():.4f} (tolerance: a thousandth of it). One grid for each part, "
                "neither for the whole tensor nor for each channel or image. Cut along axis 1, the channels."
            )


@exercise(
    "04.shortcut_output",
    hints=(
        "Do one half at a time: subtract the zero points, multiply the integers, and only then scale.",
        "Codes are uint8, and 3 - 5 is 254 there: call `.int()` on codes and zero points first.",
        "One half: `x = h.x_codes.int() - h.x_zero.int()`, `w = h.w_codes.int() - h.w_zero.int()[:, None]`, "
        "`h.x_scale * h.w_scale * (x @ w.T)`. Add the two halves at the end.",
    ),
)
def shortcut_output(answer: Answer, seed: int) -> str:
    """Compare with the product of the dequantized halves in double precision."""
    for i, ratio in enumerate((50.0, 1.7)):
        halves = random_halves(seed + i, ratio)
        expected = sum(x @ w.T for x, w in map(to_real, halves))
        found = answer(*halves)
        if not isinstance(found, Tensor) or found.shape != expected.shape:
            raise Wrong(f"return a tensor of shape (N, O) = {tuple(expected.shape)}; got {describe(found)}")
        judge_product(found.double(), expected, halves)
    return "eq. 8 holds: the halves meet only after each was scaled by its own scales."


def judge_product(found: Tensor, expected: Tensor, halves: tuple[Half, Half]) -> None:
    """Raise Wrong where ``found`` is not the product; name the slip if it is a known one.

    The integers are exact, so only the scaling may round: a few units of float32, 6e-8 of the largest term.
    """
    first, second = halves
    terms = [h.x_scale.double() * h.w_scale.double() * integer_product(h) for h in halves]
    allowed = 16 * 2.0**-24 * sum(term.abs().max() for term in terms)
    products = sum(integer_product(h) for h in halves)
    wrapped = sum(h.x_scale * h.w_scale * ((h.x_codes - h.x_zero.byte()).double()
                  @ (h.w_codes - h.w_zero.byte()[:, None]).double().T) for h in halves)  # fmt: skip
    plain = sum(h.x_scale * h.w_scale * (h.x_codes.double() @ h.w_codes.double().T) for h in halves)
    slips = {
        "uint8 wraps around: 3 - 5 gives 254. Turn codes and zero points into int32 first": wrapped,
        "the zero points are missing: a code q stands for s (q - z)": plain,
        "the integers were added before they were scaled, but the halves have different scales": products,
        "both halves were scaled with the first one's scales": first.x_scale * first.w_scale * products,
        "both halves were scaled with the second one's scales": second.x_scale * second.w_scale * products,
        "only the first half is there: add the second": terms[0],
        "only the second half is there: add the first": terms[1],
    }
    if (found - expected).abs().max() <= allowed:
        return
    for message, slip in slips.items():
        if torch.allclose(found, slip.double(), rtol=1e-5):
            raise Wrong(message)
    worst = (found - expected).abs().max().item()
    raise Wrong(
        f"off by up to {worst:.3g}; integer products are exact, so at most {allowed.item():.1g} is allowed "
        "(rounding of float32 in the scaling)"
    )


def random_halves(seed: int, ratio: float) -> tuple[Half, Half]:
    """Two halves of 6 and 4 channels; the inputs' ranges differ by ``ratio``, the weights' by its inverse."""
    generator = torch.Generator().manual_seed(seed)
    halves = []
    for channels, size in ((6, ratio), (4, 1.0)):
        x = torch.randn(5, channels, generator=generator) + 0.3
        weight = torch.randn(3, channels, generator=generator)
        halves.append(make_half(x * size, weight / size))
    return tuple(halves)


QUIZ = (
    Question(
        "X1 is 200 times as wide as X2, and both share one 8-bit grid. How many codes does X2 get, about?",
        (
            ("256, like X1", "The grid has 256 codes for the whole range; X2 fills a small part of it."),
            ("128", "Half of the channels do not get half of the codes: codes go by range."),
            ("1 or 2", "255 / 200 is 1.3 steps: X2 is nearly a constant, whatever it says."),
        ),
        2,
    ),
    Question(
        "Why may the two products of equation 8 not be added as integers?",
        (
            ("They would overflow", "Not at these sizes: 128 channels of 8 by 4 bits need 20 bits."),
            (
                "They count in different units",
                "Each half's integers are multiples of its own s_x s_w. Scale first, then add.",
            ),
            ("Integer addition is slow", "It is as fast as any; the sum would be wrong, not slow."),
        ),
        1,
    ),
    Question(
        "In a shortcut layer the ranges differ by 1.7, as in a mild model. What does the split buy there?",
        (
            (
                "Under one bit for the smaller half, and less in the layer's output",
                "log2(1.7) = 0.77 bits for that half; the wider half gains nothing.",
            ),
            ("Nothing at all", "The smaller half's step does become 1.7 times finer."),
            ("Everything: without it the layer collapses", "That takes a ratio near 2^b - 1."),
        ),
        0,
    ),
)
