"""Lesson 00: right answers unlike the solution, and wrong ones with words that they must get."""

import math
from fractions import Fraction
from functools import partial, reduce

import numpy as np
import torch


def bytes_of_bit_string(count, bits, channels):
    """Right, and written with strings."""
    codes = "0" * (count * bits)
    return len(range(0, len(codes), 8)) + 2 * 4 * channels


def dot_by_formula(q_w, z_w, q_x, z_x):
    """Right: the product multiplied out, which integer hardware does."""
    w, x = q_w.long(), q_x.long()
    return w @ x - z_x * w.sum() - z_w * x.sum() + len(w) * z_w * z_x


BYTES_BEFORE = {}  # a table that a loop fills: whole bytes of 0 to 7 bits
for rest in range(8):
    BYTES_BEFORE[rest] = 1 if rest else 0


class Layer:
    """Right: an object that is called, and keeps the bytes of a channel's grid."""

    def __init__(self, grid):
        self.grid = grid

    def __call__(self, count, bits, channels):
        whole, rest = divmod(count * bits, 8)
        return whole + BYTES_BEFORE[rest] + self.grid * channels


def with_grid(grid, count, bits, channels):
    return (count * bits + 7 >> 3) + grid * channels


def dot_in_numpy(q_w, z_w, q_x, z_x):
    """Right: numpy, with an integer of numpy as the result."""
    return np.dot(q_w.numpy().astype(np.int64) - z_w, q_x.numpy().astype(np.int64) - z_x)


def dot_in_a_loop(q_w, z_w, q_x, z_x):
    total = 0
    for i in range(len(q_w)):
        total += (q_w[i].item() - z_w) * (q_x[i].item() - z_x)
    return total


def dot_in_float32(q_w, z_w, q_x, z_x):
    return (q_w.float() - z_w) @ (q_x.float() - z_x)


def dot_one_by_one_in_float32(q_w, z_w, q_x, z_x):
    return reduce(lambda total, new: total + new, (q_w.float() - z_w) * (q_x.float() - z_x))


RIGHT = {
    "00.file_bytes": [
        bytes_of_bit_string,
        lambda count, bits, channels: math.ceil(count * bits / 8) + 8 * channels,
        lambda count, bits, channels: float((count * bits + 7) // 8 + channels * 8),
        Layer(8),
        partial(with_grid, 8),
        lambda count, bits, channels: np.int64(np.ceil(count * bits / 8)) + np.int64(8) * channels,
        lambda count, bits, channels: torch.tensor((count * bits + 7) // 8 + 8 * channels),
        lambda count, bits, channels: np.array([-(count * bits // -8) + 8 * channels]),
        lambda count, bits, channels: Fraction(math.ceil(Fraction(count * bits, 8)) + 8 * channels),
    ],
    "00.integer_dot": [
        dot_by_formula,
        lambda q_w, z_w, q_x, z_x: sum(
            (int(w) - z_w) * (int(x) - z_x) for w, x in zip(q_w, q_x, strict=True)
        ),
        lambda q_w, z_w, q_x, z_x: float((q_w.double() - z_w) @ (q_x.double() - z_x)),
        dot_in_numpy,
        dot_in_a_loop,
        lambda q_w, z_w, q_x, z_x: [int(((q_w.int() - z_w) * (q_x.int() - z_x)).sum())],
        lambda q_w, z_w, q_x, z_x: torch.dot(q_w.long() - z_w, q_x.long() - z_x),
    ],
}
WRONG = {
    "00.file_bytes": [
        (lambda n, b, c: n * b + 8 * c, "a byte has 8"),
        (lambda n, b, c: n * b, "a byte has 8"),
        (lambda n, b, c: -(-n * b // 8), "each channel also needs"),
        (lambda n, b, c: -(-n * b // 8) + 4 * c, "each channel also needs"),
        (lambda n, b, c: -(-n * b // 8) + 8, "for each channel, not one pair for all"),
        (lambda n, b, c: n * b // 8 + 8 * c, "round up"),
        (lambda n, b, c: n * b / 8 + 8 * c, "round up"),
        (lambda n, b, c: n + 8 * c, "not a whole byte"),
        (lambda n, b: n * b, "raised TypeError"),
        (partial(with_grid, 4), "each channel also needs"),
        (lambda n, b, c: c * -(-(n // c) * b // 8) + 8 * c, "a channel may start inside a byte"),
        (lambda n, b, c: n * b // 8 + 1 + 8 * c, "round up only where"),
        (lambda n, b, c: round(n * b / 8) + 8 * c, "round up"),
        (lambda n, b, c: -(-n * b // 8) + 2 * c, "8 bytes for each channel"),
        (lambda n, b, c: -(-(n * b + 64 * c) // 8) * 8, "a byte has 8"),
        (lambda n, b, c: -(-n * 4 // 8) + 8 * c, "add the bytes"),
        (lambda n, b, c: str(-(-n * b // 8) + 8 * c), "you returned the text"),
        (lambda n, b, c: print(end=""), "returned None"),
        (lambda n, b, c: torch.tensor([-(-n * b // 8), 8 * c]), "shape (2,)"),
        (lambda n, b, c: float("nan"), "you give nan"),
        (lambda n, b, c: (-(-n * b // 8) + 8 * c) * (1 + 0j), "you returned a complex"),
    ],
    "00.integer_dot": [
        (lambda a, b, c, d: (a.int() * c.int()).sum().item(), "subtract the zero points"),
        (lambda a, b, c, d: ((a - b) * (c - d)).sum().item(), "wraps around"),
        (lambda a, b, c, d: (a.int() * c.int()).sum().item() - b * d * len(a), "from its own code"),
        (lambda a, b, c, d: (a.int() - b).sum().item() * (c.int() - d).sum().item(), "multiply code by code"),
        (lambda a, b, c, d: (a.int() - b) * (c.int() - d), "return one whole number"),
        (lambda a, b, c, d: 0.1 * ((a.int() - b) @ (c.int() - d)), "without scales"),
        (dot_in_float32, "float32 holds whole numbers only up to 2^24"),
        (dot_one_by_one_in_float32, "float32 holds"),
        (lambda a, b, c, d: ((a.numpy() - b) * (c.numpy() - d)).sum(), "wrap"),
        (lambda a, b, c, d: ((a - b).int() * (c - d).int()).sum(), "wrap around in uint8"),
        (lambda a, b, c, d: ((a.int() - d) * (c.int() - b)).sum(), "zero points are swapped"),
        (lambda a, b, c, d: ((a.int() - b) * (c.char() - d)).sum(), "without scales"),
        (lambda a, b, c, d: (a.int() - b).abs() @ (c.int() - d).abs(), "without scales"),
        (lambda a, b, c, d: (a.int() - b)[:-1] @ (c.int() - d)[:-1], "without scales"),
        (lambda a, b, c, d: (a.short() - b) @ (c.short() - d), "without scales"),
        (lambda a, b, c, d: ((a.int() - b) * (c.int() - d)).float().mean(), "without scales"),
        (lambda a, b, c, d: None, "returned None"),
    ],
}
