"""Lesson 06: right answers unlike the solution, and wrong ones with words that they must get."""

import math
from fractions import Fraction
from functools import partial

import numpy as np
import torch


def bias_of_three_terms(q_w, z_w, z_x, bias):
    """Right: the product multiplied out."""
    return bias.long() - z_x * q_w.long().sum(1) + q_w.shape[1] * z_x * z_w.long()


def bias_in_a_loop(q_w, z_w, z_x, bias):
    found = []
    for row, zero, start in zip(q_w.tolist(), z_w.tolist(), bias.tolist(), strict=True):
        found.append(start + sum(-z_x * (code - zero) for code in row))
    return found


def bias_in_numpy(q_w, z_w, z_x, bias):
    levels = q_w.numpy().astype(np.int64) - z_w.numpy().astype(np.int64)[:, None]
    return bias.numpy() - z_x * levels.sum(axis=1)


def bias_by_a_product(q_w, z_w, z_x, bias):
    """Right: the output of the layer for inputs whose codes are all 0."""
    levels = (q_w.int() - z_w.int().unsqueeze(1)).double()
    return bias + levels @ torch.full((q_w.shape[1],), -float(z_x), dtype=torch.float64)


def levels(q_w, z_w):
    return q_w.long() - z_w.long()[:, None]


def codes_by_fractions(sums, multiplier, shift, z):
    """Right: exact fractions, and the floor of one half more."""
    exact = [math.floor(Fraction(value * multiplier, 2**shift) + Fraction(1, 2)) for value in sums.tolist()]
    return [min(max(code + z, 0), 255) for code in exact]


def codes_in_numpy(sums, multiplier, shift, z):
    wide = sums.numpy().astype(np.int64) * multiplier
    return np.clip((wide + (1 << (shift - 1)) >> shift) + z, 0, 255).astype(np.uint8)


def codes_by_division(sums, multiplier, shift, z):
    doubled = torch.div(2 * sums.long() * multiplier + 2**shift, 2 ** (shift + 1), rounding_mode="floor")
    return (doubled + z).clamp(0, 255)


def codes_in_float64(sums, multiplier, shift, z, half=0.5):
    return (torch.floor(sums.double() * (multiplier / 2**shift) + half) + z).clamp(0, 255)


def shifted(sums, multiplier, shift):
    return (sums.long() * multiplier + 2 ** (shift - 1)) >> shift


def speedup_in_a_loop(milliseconds, products, rate, added):
    old, new = 0.0, added
    for time, faster in zip(milliseconds.tolist(), products.tolist(), strict=True):
        old += time
        new += time / rate if faster else time
    return old / new


def speedup_from_shares(milliseconds, products, rate, added):
    """Right: Amdahl's formula with shares of the old time."""
    share = (milliseconds * products).sum() / milliseconds.sum()
    return 1 / (1 - share + share / rate + added / milliseconds.sum())


def speedup_in_numpy(milliseconds, products, rate, added):
    times = milliseconds.numpy().astype(np.float64)
    return times.sum() / (np.where(products.numpy(), times / rate, times).sum() + added)


def speedup_by_factors(milliseconds, products, rate, added):
    factors = torch.where(products, rate, 1.0)
    return [float(milliseconds.sum() / ((milliseconds / factors).sum() + added))]


def rest(ms, products):
    return ms[~products].sum()


def fast(ms, products):
    return ms[products].sum()


RIGHT = {
    "06.folded_bias": [
        bias_of_three_terms,
        bias_in_a_loop,
        bias_in_numpy,
        bias_by_a_product,
        lambda q_w, z_w, z_x, bias: torch.stack(
            [b - z_x * row.sum() for b, row in zip(bias, levels(q_w, z_w), strict=True)]
        ),
    ],
    "06.requantize": [
        codes_by_fractions,
        codes_in_numpy,
        codes_by_division,
        partial(codes_in_float64, half=0.5),
        lambda sums, m, shift, z: (shifted(sums, m, shift) + z).clamp(0, 255).tolist(),
    ],
    "06.amdahl_speedup": [
        speedup_in_a_loop,
        speedup_from_shares,
        speedup_in_numpy,
        speedup_by_factors,
    ],
}
WRONG = {
    "06.folded_bias": [
        (lambda q, z, x, b: b - x * (q - z[:, None]).long().sum(1), "wraps around"),
        (lambda q, z, x, b: b + x * levels(q, z).sum(1), "subtract the correction"),
        (lambda q, z, x, b: b - x * q.long().sum(1), "zero point, too"),
        (lambda q, z, x, b: -x * levels(q, z).sum(1), "correction alone"),
        (lambda q, z, x, b: b - levels(q, z).sum(1), "multiply the sum by z_x"),
        (lambda q, z, x, b: b - x * (q.long().sum(1) - z.long()), "n times"),
        (lambda q, z, x, b: b + q.shape[1] * x * z.long(), "both zero points alone"),
        (lambda q, z, x, b: b - x * levels(q, z).double().mean(1), "do not average"),
        (lambda q, z, x, b: b, "bias unchanged"),
        (lambda q, z, x, b: b - x * levels(q, z), "shape"),
        (lambda q, z, x, b: b - x * levels(q, z).sum(), "expected"),
        (lambda q, z, x, b: b.float() - x * levels(q, z).float().sum(1), "expected"),
        (lambda q, z, x, b: (b - x * levels(q, z).sum(1)).short(), "expected"),
        (lambda q, z, x, b: b - 128 * levels(q, z).sum(1), "expected"),
        (lambda q, z, x, b: b - x * (q.int() - z.int()).sum(1), "raised RuntimeError"),
        (lambda q, z, x, b: b - x * (q.char() + z.char()[:, None]).long().sum(1), "expected"),
        (lambda q, z, x, b: None, "returned None"),
    ],
    "06.requantize": [
        (lambda s, m, k, z: (((s * m + 2 ** (k - 1)) >> k) + z).clamp(0, 255), ""),
        (lambda s, m, k, z: ((s.long() * m >> k) + z).clamp(0, 255), "rounds down"),
        (lambda s, m, k, z: shifted(s, m, k).clamp(0, 255) + z, "clip last"),
        (lambda s, m, k, z: shifted(s, m, k) + z, "clip the codes"),
        (lambda s, m, k, z: (shifted(s, m, k) + z).clamp(0, 256), "not 256"),
        (lambda s, m, k, z: shifted(s, m, k).clamp(0, 255), "zero point is missing"),
        (lambda s, m, k, z: (shifted(s, m, k) + z).clamp(-128, 127), "not to int8"),
        (lambda s, m, k, z: ((s.long() * m + z + 2 ** (k - 1)) >> k).clamp(0, 255), "after the shift"),
        (lambda s, m, k, z: (torch.round(s.double() * m / 2**k) + z).clamp(0, 255), "halves round up"),
        (
            lambda s, m, k, z: (s.sign() * ((s.long().abs() * m + 2 ** (k - 1)) >> k) + z).clamp(0, 255),
            "towards zero",
        ),
        (lambda s, m, k, z: ((s.long() * m + 2**k >> k) + z).clamp(0, 255), "expected"),
        (lambda s, m, k, z: (shifted(s, m, k + 1) + z).clamp(0, 255), "expected"),
        (lambda s, m, k, z: (shifted(s, m, k) - z).clamp(0, 255), "expected"),
        (lambda s, m, k, z: (shifted(s, m, k) + z).to(torch.uint8), "expected"),
        (lambda s, m, k, z: (shifted(s, m, k) + z).clamp(0, 255)[:5], "shape"),
        (partial(codes_in_float64, half=0.0), "rounds down"),
        (lambda s, m, k, z: None, "returned None"),
    ],
    "06.amdahl_speedup": [
        (lambda t, p, r, a: (rest(t, p) + fast(t, p) / r + a) / t.sum(), "a speed-up is the reverse"),
        (lambda t, p, r, a: t.sum() / (rest(t, p) / r + fast(t, p) + a), "not the rest"),
        (lambda t, p, r, a: t.sum() / (rest(t, p) + fast(t, p) / r), "conversions are missing"),
        (lambda t, p, r, a: t.sum() / (t.sum() / r + a), "not all of the time"),
        (lambda t, p, r, a: r, "products alone gain"),
        (lambda t, p, r, a: t.sum() / (rest(t, p) + fast(t, p) * r + a), "divide by the rate"),
        (lambda t, p, r, a: (t.sum() + a) / (rest(t, p) + fast(t, p) / r + a), "not in the old time"),
        (lambda t, p, r, a: t.sum() / (rest(t, p) + (fast(t, p) + a) / r), "do not get faster"),
        (lambda t, p, r, a: rest(t, p) + fast(t, p) / r + a, "new time, in milliseconds"),
        (lambda t, p, r, a: t.sum() - rest(t, p) - fast(t, p) / r - a, "what is saved"),
        (lambda t, p, r, a: t.sum() / (fast(t, p) / r + a), "rest of the network"),
        (lambda t, p, r, a: 1 + p.float().mean() * (r - 1), "expected"),
        (lambda t, p, r, a: t.mean() / (rest(t, p) + fast(t, p) / r + a), "expected"),
        (lambda t, p, r, a: t / (rest(t, p) + fast(t, p) / r + a), "shape"),
        (lambda t, p, r, a: round(speedup_in_a_loop(t, p, r, a), 1), "expected"),
        (lambda t, p, r, a: None, "returned None"),
    ],
}
