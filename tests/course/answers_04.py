"""Lesson 04: right answers unlike the solution, and wrong ones with words that they must get."""

from functools import reduce

import numpy as np
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


def split_in_numpy(x, sizes, bits):
    """Right: numpy in float64."""
    parts = []
    for part in np.split(x.numpy().astype(np.float64), np.cumsum(sizes)[:-1], axis=1):
        low, high = min(part.min(), 0), max(part.max(), 0)
        scale = (high - low) / (2**bits - 1)
        zero = np.rint(-low / scale)
        parts.append(scale * (np.clip(np.rint(part / scale) + zero, 0, 2**bits - 1) - zero))
    return np.concatenate(parts, axis=1)


def split_in_double(x, sizes, bits):
    return split_by_formula(x.double(), sizes, bits)


def split_with_lists(x, sizes, bits):
    return split_in_double(x, sizes, bits).tolist()


def split_with(
    scale_of=lambda low, high, bits: (high - low) / (2**bits - 1),
    zero_of=round,
    clip=True,
    nearest=torch.round,
):
    """The split with one of its formulas changed."""

    def answer(x, sizes, bits):
        parts = []
        for part in x.split(sizes, 1):
            low, high = min(part.min().item(), 0.0), max(part.max().item(), 0.0)
            scale = scale_of(low, high, bits)
            zero = zero_of(-low / scale)
            codes = (nearest(part / scale) + zero).clamp(0, 2**bits - 1)
            parts.append(scale * (codes - zero))
        return torch.cat(parts, 1)

    return answer


def split_without_zero(x, sizes, bits):
    parts = []
    for part in x.split(sizes, 1):
        scale = (part.max() - part.min()) / (2**bits - 1)
        parts.append(part.min() + scale * ((part - part.min()) / scale).round())
    return torch.cat(parts, 1)


def product_in_numpy(first, second):
    """Right: numpy's integers of 64 bits."""
    total = 0
    for h in (first, second):
        x = h.x_codes.numpy().astype(int) - int(h.x_zero)
        w = h.w_codes.numpy().astype(int) - h.w_zero.numpy().astype(int)[:, None]
        total = total + float(h.x_scale) * h.w_scale.numpy() * (x @ w.T)
    return total


def product_in_loops(first, second):
    """Right: one channel after the other, as in a small chip."""
    out = torch.zeros(len(first.x_codes), len(first.w_codes), dtype=torch.float64)
    for h in (first, second):
        total = torch.zeros(out.shape, dtype=torch.int32)
        x, w = h.x_codes.int() - h.x_zero.int(), h.w_codes.int() - h.w_zero.int()[:, None]
        for c in range(x.shape[1]):
            total += x[:, c, None] * w[None, :, c]
        out += h.x_scale * h.w_scale * total
    return out


def product_by_terms(first, second):
    """Right: the zero points multiplied out, as fast kernels do."""
    out = 0
    for h in (first, second):
        x, w, zx, zw = (v.long() for v in (h.x_codes, h.w_codes, h.x_zero, h.w_zero))
        whole = x @ w.T - zx * w.sum(1) - x.sum(1, keepdim=True) * zw + x.shape[1] * zx * zw
        out = out + whole * h.x_scale * h.w_scale
    return out


def product_of_values_in_float32(first, second):
    """Wrong: the dequantized values are rounded, and their sum is."""
    x, w = (
        torch.cat([v.float() for v in pair], 1)
        for pair in zip(*map(exercises.to_real, (first, second)), strict=True)
    )
    return x @ w.T


def product_one_by_one_in_float32(first, second):
    out = 0
    for h in (first, second):
        x, w = h.x_codes.float() - h.x_zero, h.w_codes.float() - h.w_zero[:, None]
        steps = (x[:, None] * w[None]).movedim(-1, 0)
        out = out + h.x_scale * h.w_scale * reduce(torch.add, steps)
    return out


def product_with(
    x=lambda h: h.x_codes.int() - h.x_zero, w=lambda h: h.w_codes.int() - h.w_zero[:, None], kind=None
):
    """Equation 8 with one of its factors changed."""

    def answer(first, second):
        parts = [(x(h).to(kind), w(h).to(kind), h.x_scale * h.w_scale) for h in (first, second)]
        return sum(scale * (a @ b.T) for a, b, scale in parts)

    return answer


RIGHT = {
    "04.split_quantize": [
        exercises.split_values,
        split_by_hand,
        split_by_formula,
        split_in_numpy,
        split_in_double,
        split_with_lists,
        split_with(),
    ],
    "04.shortcut_output": [
        exercises.shortcut_product,
        product_by_einsum,
        product_of_values,
        product_in_numpy,
        product_in_loops,
        product_by_terms,
        product_with(),
    ],
}
WRONG = {
    "04.split_quantize": [
        (lambda x, sizes, bits: on_grid(x, bits), "one grid for the whole tensor"),
        (
            lambda x, sizes, bits: torch.cat([on_grid(half, bits) for half in x.chunk(2, 1)], 1),
            "these are equal parts",
        ),
        (
            lambda x, sizes, bits: torch.cat([on_grid(image, bits) for image in x.split(1)]),
            "one grid for each image",
        ),
        (
            lambda x, sizes, bits: torch.cat([on_grid(p, bits) for p in x.split(sizes, 1)][::-1], 1),
            "keep the order",
        ),
        (split_codes, "these are codes"),
        (split_in_place, "in place"),
        (split_each_channel, "one grid for each channel"),
        (lambda x, sizes, bits: [on_grid(p, bits) for p in x.split(sizes, 1)], "the shape of x"),
        (lambda x, sizes, bits: x, "not quantized"),
        (split_with(scale_of=lambda low, high, bits: (high - low) / 2**bits), "is wrong at"),
        (split_with(scale_of=lambda low, high, bits: 2 * max(-low, high) / (2**bits - 1)), "is wrong at"),
        (split_with(zero_of=lambda z: round(z) + 1), "is wrong at"),
        (split_with(zero_of=lambda z: round(z) - 1), "is wrong at"),
        (split_with(nearest=torch.floor), "is wrong at"),
        (split_without_zero, "is wrong at"),
        (lambda x, sizes, bits: split_by_hand(x, sizes, bits)[:, :-1], "shape"),
        (lambda x, sizes, bits: split_by_hand(x, sizes, 8), "is wrong at"),
        (lambda x, sizes, bits: split_by_hand(x, sizes[::-1], bits), "is wrong at"),
        (lambda x, sizes, bits: split_by_hand(x, sizes, bits).to(torch.int32), "is wrong at"),
        (lambda x, sizes, bits: split_by_hand(x, sizes, bits) * float("nan"), "is wrong at"),
        (lambda x, sizes, bits: split_by_hand(x[:1], sizes, bits).expand(x.shape), "is wrong at"),
    ],
    "04.shortcut_output": [
        (product_wrapped, "uint8 wraps"),
        (product_without_zeros, "zero points are missing"),
        (lambda a, b: integers(a, b), "added before they were scaled"),
        (lambda a, b: a.x_scale * a.w_scale * integers(a, b), "with the first one's scales"),
        (lambda a, b: b.x_scale * b.w_scale * integers(a, b), "with the second one's scales"),
        (lambda a, b: one_half(a), "only the first half"),
        (lambda a, b: one_half(b), "only the second half"),
        (lambda a, b: (one_half(a) + one_half(b)).T, "shape (5, 3)"),
        (lambda a, b: 1.01 * (one_half(a) + one_half(b)), "Integer products are exact"),
        (product_of_values_in_float32, "above 2^24"),
        (product_one_by_one_in_float32, "above 2^24"),
        (product_with(x=lambda h: h.x_codes - h.x_zero, kind=torch.int32), "Integer products"),
        (
            product_with(w=lambda h: h.w_codes - h.w_zero[:, None], kind=torch.int32),
            "Integer products are exact",
        ),
        (product_with(x=lambda h: h.x_codes.int()), "zero point of the inputs"),
        (product_with(w=lambda h: h.w_codes.int()), "zero points of the weights"),
        (product_with(x=lambda h: h.x_codes.int() + h.x_zero), "Integer products are exact"),
        (product_with(w=lambda h: h.w_codes.int() - h.x_zero.int()), "Integer products are exact"),
        (product_with(kind=torch.int16), "Integer products are exact"),
        (lambda a, b: one_half(a) - one_half(b), "Integer products are exact"),
        (lambda a, b: (one_half(a) + one_half(b)).half(), "Integer products are exact"),
        (lambda a, b: (one_half(a), one_half(b)), "shape (5, 3)"),
        (lambda a, b: None, "returned None"),
    ],
}
