"""Lesson 01: right answers unlike the solution, and wrong ones with words that they must get."""

from functools import partial

import numpy as np
import torch

from qdiff_lib.course import gaussian


def gain(a, a_prev):
    return (1 - a_prev) ** 0.5 - (a_prev / a) ** 0.5 * (1 - a) ** 0.5


def factor_with_slope(slope, sign=1):
    """The propagation factor with another slope of e, or another sign of B."""
    return lambda a, p, sigma: (p / a) ** 0.5 + sign * gain(a, p) * slope(a, sigma)


def slope(a, sigma):
    return (1 - a) ** 0.5 / (a * sigma**2 + 1 - a)


def factor_by_gradient(a, a_prev, sigma):
    """Right, and written without a derivative."""
    x = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    e = gaussian.noise_prediction(x, a, mu=0.7, sigma=sigma)
    ((a_prev / a).sqrt() * x + gain(a, a_prev) * e).backward()
    return x.grad


def factor_of_spreads(a, a_prev, sigma):
    """Right: F in one fraction, with numbers of Python."""
    a, p, variance = float(a), float(a_prev), float(a) * sigma**2 + 1 - float(a)
    return ((p * a) ** 0.5 * sigma**2 + ((1 - a) * (1 - p)) ** 0.5) / variance


def variance_by_products(factors, gains, q2):
    """Right: every fresh variance times all the factors after it."""
    total = torch.diag(gains**2 * q2)
    for i in range(len(factors)):
        total[i, i + 1 :] = gains[i] ** 2 * q2 * (factors[i + 1 :] ** 2).cumprod(0)
    return total.sum(0)


def next_variance(v, f, b, q2):
    return f * f * v + b * b * q2


def walk(step, start=0.0):
    """A list of v after each step of a recursion."""

    def answer(factors, gains, q2):
        v, found = start, []
        for f, b in zip(factors.tolist(), gains.tolist(), strict=True):
            v = step(v, f, b, q2)
            found.append(v)
        return found

    return answer


def snr(factor=10.0, logarithm=torch.log10, signal=lambda x, y: x, power=lambda x: x.square()):
    def answer(reference, other):
        above, below = power(signal(reference, other)), (reference - other).square()
        return factor * logarithm(above.flatten(1).mean(1) / below.flatten(1).mean(1))

    return answer


def snr_in_a_loop(reference, other):
    """Right: one step after the other, with norms."""
    ratios = [x.norm() / (x - y).norm() for x, y in zip(reference.double(), other.double(), strict=True)]
    return [20 * ratio.log10().item() for ratio in ratios]


def snr_of_each_image(reference, other):
    power = [x.square().flatten(2).mean(2) for x in (reference, reference - other)]
    return (10 * (power[0] / power[1]).log10()).mean(1)


def factor_in_numpy(a, a_prev, sigma):
    a, p = np.float64(a), np.float64(a_prev)
    keep = np.sqrt(p / a)
    return keep + (np.sqrt(1 - p) - keep * np.sqrt(1 - a)) * np.sqrt(1 - a) / (a * sigma**2 + 1 - a)


def factor_by_difference(a, a_prev, sigma, mu=0.4):
    """Right: the step is a straight line, so that any difference gives its slope."""

    def step(x):
        return (a_prev / a) ** 0.5 * x + gain(a, a_prev) * gaussian.noise_prediction(x, a, mu, sigma)

    return (step(torch.tensor(5.0)) - step(torch.tensor(-3.0))) / 8


def variance_in_numpy(factors, gains, q2):
    f, b = factors.numpy(), gains.numpy()
    found = np.zeros(len(f))
    found[0] = b[0] ** 2 * q2
    for t in range(1, len(f)):
        found[t] = f[t] ** 2 * found[t - 1] + b[t] ** 2 * q2
    return found


def variance_in_place(factors, gains, q2):
    """Wrong: the list has the same tensor T times."""
    v, found = torch.zeros((), dtype=torch.float64), []
    for f, b in zip(factors, gains, strict=True):
        v.mul_(f**2).add_(b**2 * q2)
        found.append(v)
    return found


def variance_by_yield(factors, gains, q2):
    v = 0
    for f, b in zip(factors, gains, strict=True):
        v = f * f * v + b * b * q2
        yield v


def variance_before(factors, gains, q2):
    v, found = 0.0, []
    for f, b in zip(factors, gains, strict=True):
        found.append(v)
        v = f * f * v + b * b * q2
    return found


def with_start(factors, gains, q2):
    return [0.0, *walk(next_variance)(factors, gains, q2)]


def snr_in_numpy(reference, other):
    x, y = reference.numpy().astype("f8"), other.numpy().astype("f8")
    axes = (1, 2, 3, 4)
    return 10 * np.log10((x**2).mean(axis=axes) / ((x - y) ** 2).mean(axis=axes))


def snr_by_difference_of_logs(reference, other):
    x, e = reference.double().flatten(1), (reference - other).double().flatten(1)
    return tuple(float(20 * (a.norm().log10() - b.norm().log10())) for a, b in zip(x, e, strict=True))


def snr_of(first, second, factor=10):
    return factor * (first / second).log10()


RIGHT = {
    "01.propagation_factor": [
        factor_by_gradient,
        factor_of_spreads,
        factor_with_slope(slope),
        factor_in_numpy,
        factor_by_difference,
        partial(factor_by_difference, mu=-1.0),
        lambda a, p, sigma: [factor_of_spreads(a, p, sigma)],
    ],
    "01.accumulated_variance": [
        variance_by_products,
        walk(next_variance),
        variance_in_numpy,
        variance_by_yield,
        lambda f, b, q2: torch.stack(list(variance_by_yield(f.float(), b.float(), q2))),
        lambda f, b, q2: [[v] for v in walk(next_variance)(f, b, q2)],
    ],
    "01.snr_per_step": [
        snr(),
        snr_in_a_loop,
        snr_in_numpy,
        snr_by_difference_of_logs,
        lambda x, y: snr_of(*(v.pow(2).sum((1, 2, 3, 4)) for v in (x, y - x))),
    ],
}
WRONG = {
    "01.propagation_factor": [
        (lambda a, p, sigma: (p / a).sqrt(), "A alone"),
        (lambda a, p, sigma: factor_of_spreads(a, p, sigma) ** 2, "F squared"),
        (factor_with_slope(slope, sign=-1), "the other sign"),
        (factor_with_slope(lambda a, s: slope(a, s**0.5)), "sigma squared"),
        (factor_with_slope(lambda a, s: slope(a, s) * (1 - a) ** 0.5), "lacks a root"),
        (lambda a, p, sigma: factor_of_spreads(p, a, sigma), "swapped"),
        (lambda a, p, sigma: 1.0, "allowed difference"),
        (lambda a, p, sigma: None, "returned None"),
        (lambda a, p, sigma: torch.ones(2), "one number"),
        (factor_with_slope(lambda a, s: 0 * a), "A alone"),
        (lambda a, p, sigma: gain(a, p) * slope(a, sigma), "Add A"),
        (factor_with_slope(lambda a, s: slope(a, s) * (a * s**2 + 1 - a) ** 0.5), "not by its root"),
        (lambda a, p, s: (p / a) ** 0.5 + gain(a, p) * slope(p, s), "made before the step"),
        (lambda a, p, s: (a / p) ** 0.5 + gain(a, p) * slope(a, s), "allowed difference"),
        (lambda a, p, s: (p / a) ** 0.5 + slope(a, s), "allowed difference"),
        (factor_with_slope(lambda a, s: (1 - a) ** 0.5 / (a * s**2)), "allowed difference"),
        (factor_with_slope(lambda a, s: (1 - a) ** 0.5 / (s**2 + 1 - a)), "allowed difference"),
        (lambda a, p, sigma: factor_of_spreads(a, p, sigma).half(), "raised AttributeError"),
        (lambda a, p, sigma: torch.tensor(factor_of_spreads(a, p, sigma)).half(), "allowed difference"),
    ],
    "01.accumulated_variance": [
        (walk(lambda v, f, b, q2: f * v + b**2 * q2), "multiplied by F squared"),
        (walk(lambda v, f, b, q2: f**2 * v + b * q2), "with B squared"),
        (walk(lambda v, f, b, q2: f**2 * v + q2), "missing its B"),
        (walk(lambda v, f, b, q2: v + b**2 * q2), "multiplied by F^2 first"),
        (walk(lambda v, f, b, q2: f**2 * (v + b**2 * q2)), "after the multiplication"),
        (walk(lambda v, f, b, q2: f**2 * v + b**2 * q2**2), "do not square it again"),
        (lambda f, b, q2: walk(next_variance, start=q2)(f, b, q2), "start from 0"),
        (lambda f, b, q2: gaussian.accumulated_variance(f, b, q2).sqrt(), "the root"),
        (lambda f, b, q2: gaussian.accumulated_variance(f, b, q2)[-1], "each step"),
        (lambda f, b, q2: 0 * f, "allowed difference"),
        (variance_before, "your entry 1 belongs to step 0"),
        (variance_in_place, "changed in place"),
        (with_start, "each step"),
        (lambda f, b, q2: walk(next_variance)(f, b, q2)[::-1], "reversed order"),
        (lambda f, b, q2: b**2 * q2, "fresh variances"),
        (lambda f, b, q2: walk(next_variance)(f, b, q2**0.5), "no root of it"),
        (lambda f, b, q2: walk(next_variance, start=1.0)(f, b, q2), "not from 1"),
        (lambda f, b, q2: walk(next_variance)(b, f, q2), "step 0, the first of"),
        (lambda f, b, q2: (b**2 * q2).cumsum(0), "multiplied by F^2 first"),
        (lambda f, b, q2: walk(lambda v, f, b, q2: (f * v**0.5 + b * q2**0.5) ** 2)(f, b, q2), "expected"),
    ],
    "01.snr_per_step": [
        (snr(factor=20.0), "20 log10 is for"),
        (snr(factor=-10.0), "upside down"),
        (snr(logarithm=torch.log), "natural logarithm"),
        (snr(factor=1.0), "not decibels"),
        (snr(factor=1.0, logarithm=lambda ratio: ratio), "return decibels"),
        (snr(signal=lambda x, y: y), "not the quantized trajectory's"),
        (snr_of_each_image, "each image's own dB"),
        (snr(power=lambda x: (x - x.flatten(1).mean(1).view(-1, 1, 1, 1, 1)).square()), "not the variance"),
        (lambda x, y: 10 * (x.square().mean() / (x - y).square().mean()).log10(), "each step"),
        (lambda x, y: snr_of(*(v.pow(2).flatten(1).mean(1).sqrt() for v in (x, y - x))), "takes 20 log10"),
        (lambda x, y: snr_of(*(v.abs().flatten(1).mean(1) for v in (x, y - x))), "not the absolute values"),
        (
            lambda x, y: snr_of(*(v.abs().flatten(1).mean(1) for v in (x, y - x)), 20),
            "no power in their ratio",
        ),
        (lambda x, y: snr_of(x.square().flatten(1).mean(1), (y - x).flatten(1).mean(1) ** 2), "then average"),
        (
            lambda x, y: snr_of(x.square().flatten(1).mean(1), (y - x).flatten(1).var(1, False)),
            "do not subtract its",
        ),
        (snr(logarithm=torch.log2), "base 2"),
        (lambda x, y: snr_of(*(v.square().flatten(1).sum(1) for v in (x[1:], (y - x)[1:]))), "shape"),
        (lambda x, y: snr_of(*(v.square().mean(0).flatten(1).mean(1) for v in (x, y - x))), "shape"),
        (lambda x, y: snr_of(x.square().flatten(1).mean(1), y.square().flatten(1).mean(1)), "expected"),
        (lambda x, y: snr()(x[:, :1], y[:, :1]), "expected"),
        (lambda x, y: snr()(x, x), "expected"),
        (lambda x, y: snr_of(x.flatten(1).mean(1), (y - x).flatten(1).mean(1)), "expected"),
    ],
}
