"""Lesson 01: right answers unlike the solution, and wrong ones with words that they must get."""

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


RIGHT = {
    "01.propagation_factor": [
        factor_by_gradient,
        factor_of_spreads,
        factor_with_slope(slope),
    ],
    "01.accumulated_variance": [
        variance_by_products,
        walk(next_variance),
    ],
    "01.snr_per_step": [
        snr(),
        snr_in_a_loop,
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
    ],
}
