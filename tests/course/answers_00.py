"""Lesson 00: right answers unlike the solution, and wrong ones with words that they must get."""

import math


def bytes_of_bit_string(count, bits, channels):
    """Right, and written with strings."""
    codes = "0" * (count * bits)
    return len(range(0, len(codes), 8)) + 2 * 4 * channels


def dot_by_formula(q_w, z_w, q_x, z_x):
    """Right: the product multiplied out, which integer hardware does."""
    w, x = q_w.long(), q_x.long()
    return w @ x - z_x * w.sum() - z_w * x.sum() + len(w) * z_w * z_x


RIGHT = {
    "00.file_bytes": [
        bytes_of_bit_string,
        lambda count, bits, channels: math.ceil(count * bits / 8) + 8 * channels,
        lambda count, bits, channels: float((count * bits + 7) // 8 + channels * 8),
    ],
    "00.integer_dot": [
        dot_by_formula,
        lambda q_w, z_w, q_x, z_x: sum(
            (int(w) - z_w) * (int(x) - z_x) for w, x in zip(q_w, q_x, strict=True)
        ),
        lambda q_w, z_w, q_x, z_x: float((q_w.double() - z_w) @ (q_x.double() - z_x)),
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
        (lambda n, b, c: n + 8 * c, "add the bytes of the packed codes"),
        (lambda n, b: n * b, "raised TypeError"),
    ],
    "00.integer_dot": [
        (lambda a, b, c, d: (a.int() * c.int()).sum().item(), "subtract the zero points"),
        (lambda a, b, c, d: ((a - b) * (c - d)).sum().item(), "wraps around"),
        (lambda a, b, c, d: (a.int() * c.int()).sum().item() - b * d * len(a), "from its own code"),
        (lambda a, b, c, d: (a.int() - b).sum().item() * (c.int() - d).sum().item(), "multiply code by code"),
        (lambda a, b, c, d: (a.int() - b) * (c.int() - d), "return one whole number"),
        (lambda a, b, c, d: 0.1 * ((a.int() - b) @ (c.int() - d)), "without scales"),
    ],
}
