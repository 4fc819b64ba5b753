"""Lesson 05: right answers unlike the solution, and wrong ones with words that they must get."""

from functools import partial

import numpy as np
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


def penalty_in_numpy(v, beta):
    h = np.clip(1.2 / (1 + np.exp(-v.numpy().astype(np.float64))) - 0.1, 0, 1)
    return np.sum(1 - np.abs(2 * h - 1) ** beta)


def penalty_by_distance(v, beta, middle=0.5):
    """Right: the distance from the middle, doubled."""
    distance = 2 * (stretched(v.double()) - middle).abs()
    return len(v) - (distance**beta).sum()


def codes_in_numpy(w, s, z, h, bits):
    up = np.where(h.numpy() >= 0.5, 1, 0)
    return np.clip(np.floor(w.numpy() / s) + up + z, 0, 2**bits - 1).astype(np.uint8)


class Decider:
    """Right: an object with a method for each step."""

    def __call__(self, w, s, z, h, bits):
        return torch.stack([self.one(*pair, s, z, 2**bits - 1) for pair in zip(w, h, strict=True)])

    def one(self, weight, share, s, z, top):
        code = torch.div(weight, s, rounding_mode="floor") + int(share >= 0.5) + z
        return code.clamp(0, top)


def bytes_in_numpy(codes):
    padded = np.pad(codes.numpy(), (0, len(codes) % 2))
    return padded[::2] | padded[1::2] << 4


def bytes_in_a_loop(codes):
    found = []
    for i in range(0, len(codes), 2):
        pair = codes[i : i + 2].tolist() + [0]
        found.append(pair[0] + 16 * pair[1])
    return torch.tensor(found, dtype=torch.uint8)


def bytes_with(factor, codes):
    padded = torch.cat([codes, codes[:0].new_zeros(len(codes) % 2)])
    return (padded.view(-1, 2).int() @ torch.tensor([1, factor], dtype=torch.int32)).to(torch.uint8)


RIGHT = {
    "05.rounding_penalty": [
        penalty_in_a_loop,
        lambda v, beta: (1 - (2 * stretched(v) - 1).abs() ** beta).sum(),
        penalty_in_numpy,
        penalty_by_distance,
        partial(penalty_by_distance, middle=0.5),
        lambda v, beta: [penalty_in_numpy(v, beta)],
    ],
    "05.decide_codes": [
        codes_in_a_loop,
        lambda w, s, z, h, bits: decided(w, s, z, h, bits).clamp(0, 2**bits - 1).to(torch.uint8),
        codes_in_numpy,
        Decider(),
        lambda w, s, z, h, bits: decided(w.double(), s, z, h, bits).clamp(0, 2**bits - 1).long().tolist(),
    ],
    "05.pack_nibbles": [
        shifted,
        lambda codes: pack(codes, 4),
        bytes_in_numpy,
        bytes_in_a_loop,
        partial(bytes_with, 16),
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
        (lambda v, b: (1 - (2 * stretched(v) - 1) ** b).sum(), "take the size"),
        (lambda v, b: (1 - (2 * stretched(v) - 1).abs()).sum(), "exponent beta is missing"),
        (lambda v, b: (1 - b * (2 * stretched(v) - 1).abs()).sum(), "not a factor"),
        (
            lambda v, b: (1 - (2 * (torch.sigmoid(v) * 1.1 - 0.1).clamp(0, 1) - 1).abs() ** b).sum(),
            "with zeta alone",
        ),
        (lambda v, b: (1 - (2 * (torch.sigmoid(v) * 1.2).clamp(0, 1) - 1).abs() ** b).sum(), "expected"),
        (lambda v, b: (1 - (2 * stretched(v) - 1).abs() ** 2).sum(), "expected"),
        (lambda v, b: (1 - (2 * stretched(v) - 1).abs() ** int(b)).sum(), "expected"),
        (lambda v, b: (1 - (2 * v.clamp(0, 1) - 1).abs() ** b).sum(), "expected"),
        (lambda v, b: -(1 - (2 * stretched(v) - 1).abs() ** b).sum(), "expected"),
    ],
    "05.decide_codes": [
        (lambda w, s, z, h, b: (torch.round(w / s) + z).clamp(0, 2**b - 1), "to nearest"),
        (lambda w, s, z, h, b: decided(w, s, z, h, b), "clip the codes"),
        (lambda w, s, z, h, b: s * (decided(w, s, z, h, b).clamp(0, 2**b - 1) - z), "real values"),
        (lambda w, s, z, h, b: decided(w, s, 0, h, b).clamp(0, 2**b - 1), "zero point"),
        (lambda w, s, z, h, b: (torch.floor(w / s) + h + z).clamp(0, 2**b - 1), "still soft"),
        (lambda w, s, z, h, b: decided(w, s, z, 1 - h, b).clamp(0, 2**b - 1), "not 1 - h"),
        (lambda w, s, z, h, b: (torch.floor(w / s) + (h > 0.5) + z).clamp(0, 2**b - 1), "h = 0.5 goes up"),
        (lambda w, s, z, h, b: decided(w, s, z, h, b).clamp(0, 2**b), "largest code"),
        (lambda w, s, z, h, b: decided(w, s, 0, h, b).clamp(0, 2**b - 1) + z, "clip after"),
        (lambda w, s, z, h, b: (torch.floor(w / s) + z).clamp(0, 2**b - 1) + (h >= 0.5), "clip last"),
        (lambda w, s, z, h, b: ((w / s).trunc() + (h >= 0.5) + z).clamp(0, 2**b - 1), "by floor"),
        (lambda w, s, z, h, b: ((w / s).int() + (h >= 0.5) + z).clamp(0, 2**b - 1), "by floor"),
        (lambda w, s, z, h, b: (torch.floor(w / s) + z).clamp(0, 2**b - 1), "all weights go down"),
        (lambda w, s, z, h, b: (torch.ceil(w / s) - (h < 0.5).int() + z).clamp(0, 2**b - 1), "at weight"),
        (lambda w, s, z, h, b: decided(w, s, z, h, b).clamp(0, 15).to(torch.uint8), "at weight"),
        (lambda w, s, z, h, b: (torch.round(w / s + h - 0.5) + z).clamp(0, 2**b - 1), "at weight"),
        (
            lambda w, s, z, h, b: (decided(w, s, z, h, b) - z).clamp(-(2 ** (b - 1)), 2 ** (b - 1) - 1),
            "at weight",
        ),
        (lambda w, s, z, h, b: None, "returned None"),
    ],
    "05.pack_nibbles": [
        (lambda codes: even(codes)[1::2] + 16 * even(codes)[::2], "order is reversed"),
        (lambda codes: even(codes)[::2] + even(codes)[1::2], "up by four bits"),
        (lambda codes: even(codes)[::2] + 10 * even(codes)[1::2], "factor of 16"),
        (lambda codes: codes, "bytes for 2 codes"),
        (lambda codes: codes[: len(codes) // 2 * 2][::2].int() * 1000, "from 0 to 255"),
        (lambda codes: codes[::2] + 16 * codes[1::2], "raised RuntimeError"),
        (lambda codes: bytes_in_a_loop(codes).long(), "torch.int64"),
        (lambda codes: bytes_in_numpy(codes).astype(np.int8), "from 0 to 255"),
        (lambda codes: bytes(bytes_in_numpy(codes)), "in a bytes"),
        (lambda codes: bytes_in_a_loop(codes).tolist(), "in a list"),
        (lambda codes: bytes_in_a_loop(codes).float(), "torch.float32"),
        (partial(bytes_with, 15), "15 is the largest code"),
        (partial(bytes_with, 8), "unpacked again"),
        (
            lambda codes: bytes_in_a_loop(torch.cat([codes, codes[-1:]])[: len(codes) // 2 * 2 + 2]),
            "bytes for 2",
        ),
        (lambda codes: pack(torch.cat([codes, codes[-1:]]), 4)[: -(-len(codes) // 2)], "must be 0"),
        (lambda codes: pack(codes, 4)[: max(len(codes) // 2, 1)], "bytes for"),
        (
            lambda codes: even(codes)[: len(even(codes)) // 2] + 16 * even(codes)[len(even(codes)) // 2 :],
            "neighbours",
        ),
    ],
}
