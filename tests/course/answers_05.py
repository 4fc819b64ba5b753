"""Lesson 05: right answers unlike the solution, and wrong ones with words that they must get."""

import torch

from qdiff_lib.quantizers.packing import pack


def stretched(v):
    return (torch.sigmoid(v) * 1.2 - 0.1).clamp(0, 1)


def penalty_in_a_loop(v, beta):
    total = 0.0
    for value in v.tolist():
        h = min(1.0, max(0.0, 1.2 / (1 + torch.tensor(-value).exp().item()) - 0.1))
        total += 1 - abs(2 * h - 1) ** beta
    return total


def codes_in_a_loop(w, s, z, h, bits):
    found = []
    for weight, share in zip(w.tolist(), h.tolist(), strict=True):
        code = weight // s + (share >= 0.5) + z
        found.append(min(max(code, 0), 2**bits - 1))
    return found


def decided(w, s, z, h, bits):
    return torch.floor(w / s) + torch.where(h < 0.5, 0, 1) + z


def shifted(codes):
    padded = torch.cat([codes, torch.zeros(len(codes) % 2, dtype=torch.uint8)]).view(-1, 2)
    return padded[:, 0] | (padded[:, 1] << 4)


def even(codes):
    return torch.cat([codes, codes.new_zeros(len(codes) % 2)])


RIGHT = {
    "05.rounding_penalty": [
        penalty_in_a_loop,
        lambda v, beta: (1 - (2 * stretched(v) - 1).abs() ** beta).sum(),
    ],
    "05.decide_codes": [
        codes_in_a_loop,
        lambda w, s, z, h, bits: decided(w, s, z, h, bits).clamp(0, 2**bits - 1).to(torch.uint8),
    ],
    "05.pack_nibbles": [
        shifted,
        lambda codes: pack(codes, 4),
    ],
}
WRONG = {
    "05.rounding_penalty": [
        (lambda v, beta: None, "returned None"),
        (lambda v, beta: 1 - (2 * stretched(v) - 1).abs() ** beta, "shape"),
        (lambda v, b: (1 - (2 * torch.sigmoid(v) - 1).abs() ** b).sum(), "plain sigmoid"),
        (lambda v, b: (1 - (2 * stretched(v) - 1).abs() ** b).mean(), "do not average"),
        (lambda v, b: (2 * stretched(v) - 1).abs().pow(b).sum(), "subtract it from 1"),
        (lambda v, b: (1 - stretched(v) ** b).sum(), "use 2 h - 1"),
        (lambda v, b: (1 - (2 * (torch.sigmoid(v) * 1.2 - 0.1) - 1).abs() ** b).sum(), "clip h"),
        (lambda v, beta: 3.0, "allowed difference"),
    ],
    "05.decide_codes": [
        (lambda w, s, z, h, b: (torch.round(w / s) + z).clamp(0, 2**b - 1), "to nearest"),
        (lambda w, s, z, h, b: decided(w, s, z, h, b), "clip the codes"),
        (lambda w, s, z, h, b: s * (decided(w, s, z, h, b).clamp(0, 2**b - 1) - z), "real values"),
        (lambda w, s, z, h, b: decided(w, s, 0, h, b).clamp(0, 2**b - 1), "zero point"),
        (lambda w, s, z, h, b: (torch.floor(w / s) + h + z).clamp(0, 2**b - 1), "still soft"),
        (lambda w, s, z, h, b: decided(w, s, z, 1 - h, b).clamp(0, 2**b - 1), "goes down where h is large"),
        (lambda w, s, z, h, b: (torch.floor(w / s) + (h > 0.5) + z).clamp(0, 2**b - 1), "h = 0.5 goes up"),
    ],
    "05.pack_nibbles": [
        (lambda codes: even(codes)[1::2] + 16 * even(codes)[::2], "order is reversed"),
        (lambda codes: even(codes)[::2] + even(codes)[1::2], "up by four bits"),
        (lambda codes: even(codes)[::2] + 10 * even(codes)[1::2], "factor of 16"),
        (lambda codes: codes, "bytes for 2 codes"),
        (lambda codes: codes[: len(codes) // 2 * 2][::2].int() * 1000, "from 0 to 255"),
        (lambda codes: codes[::2] + 16 * codes[1::2], "raised RuntimeError"),
    ],
}
