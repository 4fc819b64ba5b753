"""A diffusion with a known answer: Gaussian numbers, their exact noise prediction, and DDIM.

Data x_0 ~ N(mu, sigma^2), noisy data x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) e with e ~ N(0, 1), where a_t is the
paper's alpha-bar. All formulas are exact, so the effect of quantization can be predicted. Time runs in the
direction of the sampler, from the noisy end to the clean end.
"""

import torch
from torch import Tensor

TRAIN_STEPS = 1000
BETA = (1e-4, 0.02)  # of the shipped model's linear schedule


def alpha_bars(steps: int) -> Tensor:
    """alpha-bar before each DDIM step and after the last, which is 1: (steps + 1,), growing.

    The same time steps as the shipped sampler's. Raises ValueError for steps outside of 1 to 1,000.
    """
    if not 1 <= steps <= TRAIN_STEPS:
        raise ValueError(f"steps={steps!r} must be from 1 to {TRAIN_STEPS}")
    every = (1 - torch.linspace(*BETA, TRAIN_STEPS, dtype=torch.float64)).cumprod(0)
    used = torch.arange(steps - 1, -1, -1) * (TRAIN_STEPS // steps)
    return torch.cat([every[used], torch.ones(1, dtype=torch.float64)])


def noise_prediction(x: Tensor, alpha_bar: Tensor, mu: float, sigma: float) -> Tensor:
    """The best prediction of e from x_t: ``sqrt(1 - a) (x - sqrt(a) mu) / (a sigma^2 + 1 - a)``."""
    return (1 - alpha_bar).sqrt() * (x - alpha_bar.sqrt() * mu) / (alpha_bar * sigma**2 + 1 - alpha_bar)


def ddim_weights(alpha_bar: Tensor, alpha_bar_prev: Tensor) -> tuple[Tensor, Tensor]:
    """The two numbers of a DDIM step ``x_prev = A x + B e``: A = sqrt(a_prev / a), B (negative)."""
    keep = (alpha_bar_prev / alpha_bar).sqrt()
    return keep, (1 - alpha_bar_prev).sqrt() - keep * (1 - alpha_bar).sqrt()


def propagation_factor(alpha_bar: Tensor, alpha_bar_prev: Tensor, sigma: float) -> Tensor:
    """By how much one exact step multiplies an error of its input: ``F = A + B de/dx``."""
    keep, gain = ddim_weights(alpha_bar, alpha_bar_prev)
    return keep + gain * (1 - alpha_bar).sqrt() / (alpha_bar * sigma**2 + 1 - alpha_bar)


def accumulated_variance(
    factors: Tensor, gains: Tensor, noise_variance: float, correlation: float = 0.0
) -> Tensor:
    """Variance of the error after each step, (T,): ``v <- F^2 v + B^2 tau^2``, from v = 0.

    factors: F of each step, (T,). gains: B of each step, (T,). noise_variance: tau^2, of the error of one
    noise prediction. correlation: rho, of the errors of neighbouring steps; k steps apart it is rho^k.
    With kappa, the covariance of x's error and the next prediction's error,
    ``v <- F^2 v + 2 F B kappa + B^2 tau^2`` and ``kappa <- rho (F kappa + B tau^2)``.
    """
    variance = covariance = torch.zeros((), dtype=torch.float64)
    after = []
    for factor, gain in zip(factors, gains, strict=True):
        variance = factor**2 * variance + 2 * factor * gain * covariance + gain**2 * noise_variance
        covariance = correlation * (factor * covariance + gain * noise_variance)
        after.append(variance)
    return torch.stack(after)


def step_numbers(steps: int, sigma: float) -> tuple[Tensor, Tensor]:
    """F and B of every step of a run, each (steps,)."""
    before, after = alpha_bars(steps)[:-1], alpha_bars(steps)[1:]
    return propagation_factor(before, after, sigma), ddim_weights(before, after)[1]


def predicted_variance(steps: int, sigma: float, tau: float, correlation: float = 0.0) -> Tensor:
    """The recursion's variance of the error after each step of the toy, (steps,).

    tau: standard deviation of the error of one noise prediction. correlation: see ``accumulated_variance``.
    """
    return accumulated_variance(*step_numbers(steps, sigma), tau**2, correlation)


def final_error(factors: Tensor, gains: Tensor, tau: float, correlation: float = 0.0) -> Tensor:
    """The recursion's standard deviation of the error after the last step; see ``accumulated_variance``."""
    return accumulated_variance(factors, gains, tau**2, correlation)[-1].sqrt()


def simulate(
    steps: int, n: int, mu: float, sigma: float, noise: float, correlation: float = 0.0, seed: int = 0
) -> Tensor:
    """Errors of n noisy runs against the exact run from the same start, after each step: (steps, n).

    noise: tau, the standard deviation of what is added to every noise prediction. correlation: see
    ``accumulated_variance``.
    """
    generator = torch.Generator().manual_seed(seed)
    exact = torch.randn(n, generator=generator, dtype=torch.float64)
    noisy, added, errors = exact, None, []
    levels = alpha_bars(steps)
    for alpha_bar, alpha_bar_prev in zip(levels[:-1], levels[1:], strict=True):
        fresh = noise * torch.randn(n, generator=generator, dtype=torch.float64)
        added = fresh if added is None else correlation * added + (1 - correlation**2) ** 0.5 * fresh
        keep, gain = ddim_weights(alpha_bar, alpha_bar_prev)
        exact = keep * exact + gain * noise_prediction(exact, alpha_bar, mu, sigma)
        noisy = keep * noisy + gain * (noise_prediction(noisy, alpha_bar, mu, sigma) + added)
        errors.append(noisy - exact)
    return torch.stack(errors)
