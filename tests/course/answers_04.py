"""Lesson 04: right answers unlike the solution, and wrong ones with words that they must get."""

import torch

from qdiff_lib.course.exercises import lesson_04 as exercises
from qdiff_lib.quantizers.grid import Grid, fake_quantize, quantize
from qdiff_lib.quantizers.range_finders import min_max


def on_grid(x, bits):
    return fake_quantize(x, *min_max(x, Grid(bits)), bits)


def split_by_hand(x, sizes, bits):
    """Right, and written with slices and codes."""
    out, start = torch.empty_like(x), 0
    for size in sizes:
        part = x[:, start : start + size]
        scale, zero = min_max(part, Grid(bits))
        out[:, start : start + size] = (quantize(part, scale, zero, bits).float() - zero) * scale
        start += size
    return out


def split_by_formula(x, sizes, bits):
    """Right, and written without the library's grid."""
    parts = []
    for part in torch.split(x, list(sizes), 1):
        low, high = min(part.min().item(), 0.0), max(part.max().item(), 0.0)
        scale = (high - low) / (2**bits - 1)
        zero = round(-low / scale)
        parts.append(scale * ((part / scale).round() + zero).clamp(0, 2**bits - 1).sub(zero))
    return torch.cat(parts, 1)


def split_in_place(x, sizes, bits):
    x.copy_(exercises.split_values(x, sizes, bits))
    return x


def split_codes(x, sizes, bits):
    return torch.cat([quantize(p, *min_max(p, Grid(bits)), bits).float() for p in x.split(sizes, 1)], 1)


def split_each_channel(x, sizes, bits):
    return torch.cat([on_grid(channel, bits) for channel in x.split(1, 1)], 1)


def product_by_einsum(first, second):
    """Right, and written in 64-bit integers."""
    out = 0.0
    for h in (first, second):
        w = h.w_codes.long() - h.w_zero.long()[:, None]
        total = torch.einsum("nc,oc->no", h.x_codes.long() - h.x_zero.long(), w)
        out = out + total * (h.x_scale * h.w_scale)
    return out


def product_of_values(first, second):
    """Right: the dequantized halves, in floating point."""
    x, w = (torch.cat(pair, 1) for pair in zip(*map(exercises.to_real, (first, second)), strict=True))
    return (x @ w.T).float()


def product_wrapped(first, second):
    return sum(
        h.x_scale
        * h.w_scale
        * ((h.x_codes - h.x_zero.byte()).float() @ (h.w_codes - h.w_zero.byte()[:, None]).float().T)
        for h in (first, second)
    )


def product_without_zeros(first, second):
    return sum(h.x_scale * h.w_scale * (h.x_codes.float() @ h.w_codes.float().T) for h in (first, second))


def integers(*halves):
    return sum(exercises.integer_product(h) for h in halves)


def one_half(h):
    return h.x_scale * h.w_scale * exercises.integer_product(h)


RIGHT = {
    "04.split_quantize": [
        exercises.split_values,
        split_by_hand,
        split_by_formula,
    ],
    "04.shortcut_output": [
        exercises.shortcut_product,
        product_by_einsum,
        product_of_values,
    ],
}
WRONG = {
    "04.split_quantize": [
        (lambda x, sizes, bits: on_grid(x, bits), "one grid for the whole tensor"),
        (
            lambda x, sizes, bits: torch.cat([on_grid(half, bits) for half in x.chunk(2, 1)], 1),
            "gives at most 0.5",
        ),
        (
            lambda x, sizes, bits: torch.cat([on_grid(image, bits) for image in x.split(1)]),
            "Cut along axis 1",
        ),
        (
            lambda x, sizes, bits: torch.cat([on_grid(p, bits) for p in x.split(sizes, 1)][::-1], 1),
            "keep the order",
        ),
        (split_codes, "these are codes"),
        (split_in_place, "in place"),
        (split_each_channel, "nor for each channel"),
        (lambda x, sizes, bits: [on_grid(p, bits) for p in x.split(sizes, 1)], "the shape of x"),
        (lambda x, sizes, bits: x, "is not on its own grid"),
    ],
    "04.shortcut_output": [
        (product_wrapped, "uint8 wraps"),
        (product_without_zeros, "zero points are missing"),
        (lambda a, b: integers(a, b), "added before they were scaled"),
        (lambda a, b: a.x_scale * a.w_scale * integers(a, b), "with the first one's scales"),
        (lambda a, b: b.x_scale * b.w_scale * integers(a, b), "with the second one's scales"),
        (lambda a, b: one_half(a), "only the first half"),
        (lambda a, b: one_half(b), "only the second half"),
        (lambda a, b: (one_half(a) + one_half(b)).T, "return a tensor of shape"),
        (lambda a, b: 1.01 * (one_half(a) + one_half(b)), "off by up to"),
    ],
}
