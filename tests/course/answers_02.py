"""Lesson 02: right answers unlike the solution, and wrong ones with words that they must get."""

import math

import numpy as np
import torch

from qdiff_lib.quantizers.grid import Grid
from qdiff_lib.quantizers.range_finders import min_max


def grid_of(low, high, bits, gaps=None):
    """Scale and zero point of a range, as a learner writes them."""
    scale = float(high - low) / (gaps or 2**bits - 1)
    return scale, round(float(-low) / scale)


def widened(low, high, bits):
    return grid_of(min(float(low), 0.0), max(float(high), 0.0), bits)


def extremes(batches):
    return min(b.min().item() for b in batches), max(b.max().item() for b in batches)


def pooled(batches):
    return torch.cat([batch.flatten() for batch in batches])


def running_extremes(batches, bits):
    """Right, batch by batch, with tensors."""
    low = high = torch.zeros(())
    for batch in batches:
        low, high = torch.minimum(low, batch.min()), torch.maximum(high, batch.max())
    scale = (high - low) / (2**bits - 1)
    return [scale, (-low / scale).round()]


def ends(batches, percent):
    cut = 1 - percent / 100
    return torch.quantile(pooled(batches), torch.tensor([cut, 1 - cut]))


def percentile_by_sorting(batches, bits, percent):
    """Right, to within the neighbouring values: leaves out the same number of values at each end."""
    values = sorted(pooled(batches).tolist())
    out = int((1 - percent / 100) * (len(values) - 1))
    return widened(values[out], values[-1 - out], bits)


def average_of_ends(batches, bits, percent):
    low, high = torch.stack([ends([batch], percent) for batch in batches]).mean(0)
    return widened(low, high, bits)


def extremes_of_ends(batches, bits, percent):
    each = torch.stack([ends([batch], percent) for batch in batches])
    return widened(each[:, 0].min(), each[:, 1].max(), bits)


def symmetric_percentile(batches, bits, percent):
    size = torch.quantile(pooled(batches).abs(), percent / 100)
    return grid_of(-size, size, bits)


def symmetric(batches, bits):
    size = max(abs(end) for end in extremes(batches))
    return grid_of(-size, size, bits)


def averaged(batches, bits):
    lows, highs = zip(*((b.min().item(), b.max().item()) for b in batches), strict=True)
    return widened(sum(lows) / len(lows), sum(highs) / len(highs), bits)


def codes(x, scale, zero_point, bits):
    return ((x / scale).round() + zero_point).clamp(0, 2**bits - 1)


def share_by_histogram(x, scale, zero_point, bits):
    """Right, and written with counts."""
    counts = torch.bincount(codes(x, scale, zero_point, bits).flatten().long(), minlength=2**bits)
    used = counts.nonzero().flatten().tolist()
    return len(range(used[0], used[-1] + 1)) / len(counts)


def share_of_ends(x, scale, zero_point, bits):
    """Right: rounding keeps the order, so the two extremes are enough."""
    low, high = (codes(end, scale, zero_point, bits) for end in (x.min(), x.max()))
    return (high + 1 - low) / 2**bits


def span(x, s, z, bits):
    found = codes(x, s, z, bits)
    return found.max() - found.min() + 1


def in_numpy(batches, bits):
    """Right: numpy's numbers, in an array of two."""
    values = np.concatenate([batch.numpy().ravel() for batch in batches]).astype(np.float64)
    low, high = min(values.min(), 0), max(values.max(), 0)
    scale = (high - low) / (2**bits - 1)
    return np.array([scale, np.rint(-low / scale)])


class Observer:
    """Right: remembers the ends, as observers of libraries do."""

    def __init__(self):
        self.low = self.high = 0.0

    def see(self, batch):
        self.low = min(self.low, batch.min().item())
        self.high = max(self.high, batch.max().item())

    def __call__(self, batches, bits):
        self.__init__()
        for batch in batches:
            self.see(batch)
        scale = (self.high - self.low) / (2**bits - 1)
        return torch.tensor([scale, math.floor(-self.low / scale + 0.5)], dtype=torch.float64)


def rounded(how, find=widened):
    """The observer with another rounding of the zero point."""

    def answer(batches, bits, *percent):
        low, high = ends(batches, *percent).tolist() if percent else extremes(batches)
        scale = (max(high, 0.0) - min(low, 0.0)) / (2**bits - 1)
        return scale, how(-min(low, 0.0) / scale)

    return answer


def moved(by):
    return rounded(lambda z: round(z) + by)


def percentile_in_numpy(batches, bits, percent):
    values = np.concatenate([batch.numpy().ravel() for batch in batches])
    return widened(*np.percentile(values, [100 - percent, percent]), bits)


def percentile_by_topk(batches, bits, percent):
    values = pooled(batches)
    out = round((1 - percent / 100) * len(values))
    kept = max(out, 1)
    return widened(values.topk(kept, largest=False).values[-1], values.topk(kept).values[-1], bits)


def share_in_numpy(x, scale, zero_point, bits):
    found = np.clip(np.rint(x.numpy() / float(scale)) + float(zero_point), 0, 2**bits - 1)
    return np.float64(np.ptp(found) + 1) / 2**bits


def share_in_a_loop(x, scale, zero_point, bits):
    lowest, highest = 2**bits - 1, 0
    for value in x.flatten().tolist():
        code = min(max(round(value / scale.item()) + int(zero_point), 0), 2**bits - 1)
        lowest, highest = min(lowest, code), max(highest, code)
    return (highest - lowest + 1) / 2**bits


RIGHT = {
    "02.min_max_observer": [
        running_extremes,
        lambda batches, bits: widened(*extremes(batches), bits),
        lambda batches, bits: min_max(pooled(batches), Grid(bits)),
        in_numpy,
        Observer(),
        rounded(round),
    ],
    "02.percentile_observer": [
        percentile_by_sorting,
        lambda batches, bits, percent: widened(*ends(batches, percent), bits),
        percentile_in_numpy,
        percentile_by_topk,
        rounded(round),
    ],
    "02.range_utilisation": [
        share_by_histogram,
        share_of_ends,
        share_in_numpy,
        share_in_a_loop,
        lambda x, s, z, b: span(x.double(), s.double(), z, b) / 2.0**b,
    ],
}
WRONG = {
    "02.min_max_observer": [
        (lambda batches, bits: widened(*extremes(batches[-1:]), bits), "last batch alone"),
        (lambda batches, bits: widened(*extremes(batches[:1]), bits), "first batch alone"),
        (averaged, "average of the batches' ranges"),
        (symmetric, "that range is symmetric"),
        (lambda batches, bits: grid_of(*extremes(batches), bits), "must contain 0"),
        (
            lambda batches, bits: grid_of(
                min(0, extremes(batches)[0]), max(0, extremes(batches)[1]), bits, gaps=2**bits
            ),
            "2^b - 1 gaps",
        ),
        (
            lambda batches, bits: (widened(*extremes(batches), bits)[0], 0),
            "the scale is right, but the zero point",
        ),
        (lambda batches, bits: (lambda s, z: (s, z + 0.5))(*widened(*extremes(batches), bits)), "round it"),
        (lambda batches, bits: extremes(batches)[1], "return a pair"),
        (lambda batches, bits: (-1.0, 0), "must be positive"),
        (lambda batches, bits: (0.5, 0), "allowed difference"),
        (moved(1), "the zero point is"),
        (moved(-1), "the zero point is"),
        (rounded(math.floor), "off by one"),
        (rounded(math.ceil), "off by one"),
        (rounded(int), "off by one"),
        (rounded(lambda z: -round(z)), "the other sign"),
        (rounded(lambda z: z), "round it"),
        (lambda batches, bits: rounded(lambda z: 2**bits - 1 - round(z))(batches, bits), "high end lies"),
        (lambda batches, bits: grid_of(0.0, max(extremes(batches)[1], 0.1), bits), "positive values only"),
        (lambda batches, bits: widened(*extremes(batches), bits)[::-1], "the zero point is a code"),
        (lambda batches, bits: widened(*extremes(batches[1:3]), 8), "allowed difference"),
        (
            lambda batches, bits: dict(zip("sz", widened(*extremes(batches), bits), strict=True)),
            "you returned a dict",
        ),
    ],
    "02.percentile_observer": [
        (lambda batches, bits, percent: widened(*extremes(batches), bits), "that is the full range"),
        (lambda batches, bits, percent: widened(*ends(batches, 50 + percent / 2), bits), "half of the share"),
        (average_of_ends, "average of the batches' percentiles"),
        (extremes_of_ends, "extremes of the batches' percentiles"),
        (symmetric_percentile, "percentile of |x|"),
        (
            lambda batches, bits, percent: (widened(*ends(batches, percent), bits)[0], 0),
            "the zero point is",
        ),
        (lambda batches, bits, percent: None, "returned None"),
        (rounded(math.floor), "off by one"),
        (rounded(math.ceil), "off by one"),
        (moved(1), "the zero point is"),
        (lambda b, bits, p: widened(pooled(b).min(), ends(b, p)[1], bits), "only the high end"),
        (lambda b, bits, p: widened(ends(b, p)[0], pooled(b).max(), bits), "only the low end"),
        (lambda b, bits, p: grid_of(*ends(b, p), bits), "must contain 0"),
        (lambda b, bits, p: grid_of(*ends(b, p), bits, 2**bits), "allowed difference"),
        (lambda b, bits, p: widened(*ends(b[-1:], p), bits), "allowed difference"),
        (lambda b, bits, p: widened(*ends(b, 99.0), bits), "allowed difference"),
        (lambda b, bits, p: grid_of(*ends(b, 100 - p), bits), "the scale must be positive"),
    ],
    "02.range_utilisation": [
        (lambda x, s, z, b: (span(x, s, z, b) - 1) / 2**b, "both ends count"),
        (lambda x, s, z, b: span(x, s, z, b) / (2**b - 1), "2^b codes"),
        (lambda x, s, z, b: 100 * span(x, s, z, b) / 2**b, "percentage"),
        (lambda x, s, z, b: span(x, s, z, b), "not the number of codes"),
        (lambda x, s, z, b: len(codes(x, s, z, b).unique()) / 2**b, "that few values miss some is chance"),
        (lambda x, s, z, b: ((x.max() / s).round() - (x.min() / s).round() + 1) / 2**b, "clip the codes"),
        (lambda x, s, z, b: codes(x, s, z, b), "one number, the share"),
        (lambda x, s, z, b: 0.5, "allowed difference"),
        (lambda x, s, z, b: span(x, s, 0, b) / 2**b, "zero point is missing"),
        (lambda x, s, z, b: span(x - s / 2, s, z, b) / 2**b, "do not round down"),
        (lambda x, s, z, b: ((x.max() - x.min()) / s + 1) / 2**b, "expected"),
        (
            lambda x, s, z, b: ((x / s + z).clamp(0, 2**b - 1).max() - codes(x, s, z, b).min() + 1) / 2**b,
            "expected",
        ),
        (lambda x, s, z, b: (codes(x, s, z, b).max() + 1) / 2**b, "expected"),
        (lambda x, s, z, b: span(x, s, z, 8) / 256, "expected"),
        (lambda x, s, z, b: ((x / s).round() + z).clamp(max=2**b - 1).max() / 2**b, "expected"),
    ],
}
