"""References of the checks of lesson 07, in double precision, with switches for likely mistakes."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..unit_layers import Layer, toy_unit

GAMMA, ZETA = -0.1, 1.1
TOP = 15  # the largest code of 4 bits
WARMUP, FIRST_BETA, LAST_BETA = 0.2, 8.0, 1.0


class Problem(NamedTuple):
    """A toy unit to learn: what the checks of stages 4 and 5 give to an answer."""

    unit: Callable
    layers: list[Layer]
    inputs: tuple[Tensor, Tensor]
    target: Tensor


def draw_problem(dice: random.Random, generator: torch.Generator) -> Problem:
    """A toy unit with random layers in float64. No weight is near the limit between two floors."""
    sizes = [dice.randint(4, 6), dice.randint(5, 7), dice.randint(3, 4)]
    layers = []
    for out, into in ((sizes[1], sizes[0]), (sizes[2], sizes[1])):
        rest = 0.03 + 0.94 * torch.rand(out, into, generator=generator, dtype=torch.float64)
        rest[:2, 1] = torch.tensor([0.485, 0.515], dtype=torch.float64)
        s = 0.1 + 0.1 * torch.rand(out, 1, generator=generator, dtype=torch.float64)
        z = torch.randint(5, 11, (out, 1), generator=generator).double()
        floor = torch.randint(-7, 7, (out, into), generator=generator)
        floor[0, 0], floor[-1, -1] = -12, 14  # outside of the grid
        layers.append(Layer((floor + rest) * s, s, z))
    n, pixels = dice.randint(10, 14), dice.randint(2, 4)
    x = torch.randn(n, sizes[0], pixels, generator=generator, dtype=torch.float64)
    bias = torch.randn(n, sizes[1], generator=generator, dtype=torch.float64)
    return Problem(toy_unit, layers, (x, bias), toy_unit([layer.w for layer in layers], x, bias))


def start_of(layers: Sequence[Layer]) -> list[Tensor]:
    """V at which h(V) equals the fraction of w / s."""
    return [-torch.log((ZETA - GAMMA) / ((w / s) % 1 - GAMMA) - 1) for w, s, _ in layers]


def share(v: Tensor) -> Tensor:
    """h(V)."""
    return (torch.sigmoid(v) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def on_grid(layer: Layer, up: Tensor) -> Tensor:
    """The weight whose code is the floor plus ``up``."""
    w, s, z = layer
    return s * ((torch.floor(w / s) + up + z).clamp(0, TOP) - z)


def penalty_of(h: Tensor, beta: float) -> Tensor:
    """The sum of 1 - |2 h - 1|^beta."""
    return (1 - (2 * h - 1).abs().pow(beta)).sum()


@dataclass(frozen=True)
class Ways:
    """How the objective is computed; every default is right, every other value a likely mistake.

    reduce: of the squared error. average: of the penalty. strength: of the penalty, as a factor.
    """

    reduce: Callable[[Tensor], Tensor] = lambda squares: squares.sum(1).mean()
    average: bool = False
    strength: float = 1.0
    unclipped: bool = False


@dataclass(frozen=True)
class LoopWays(Ways):
    """How the loop is written; every default is right, every other value a likely mistake.

    beta: of an iteration and of their number. whole: all rows in each iteration. gather: no zero_grad.
    """

    beta: Callable[[int, int], float | None] = lambda i, n: beta_at(i, n)
    optimizer: Callable = torch.optim.Adam
    start: Callable = start_of
    whole: bool = False
    gather: bool = False


def beta_at(iteration: int, iterations: int) -> float | None:
    """The exponent at an iteration; None during the warm-up."""
    first = WARMUP * iterations
    if iteration < first:
        return None
    return FIRST_BETA + (LAST_BETA - FIRST_BETA) * (iteration - first) / (iterations - first)


def objective(
    problem: Problem, v: Sequence[Tensor], beta: float | None, strength: float, ways: Ways
) -> Tensor:
    """The loss of the unit's output plus the penalty. beta: None for no penalty."""
    h = [share(each) for each in v]
    weights = [on_grid(layer, up) for layer, up in zip(problem.layers, h, strict=True)]
    if ways.unclipped:
        weights = [s * (torch.floor(w / s) + up) for (w, s, _), up in zip(problem.layers, h, strict=True)]
    total = ways.reduce((problem.unit(weights, *problem.inputs) - problem.target).square())
    if beta is None:
        return total
    penalties = [penalty_of(up, beta) / (up.numel() if ways.average else 1) for up in h]
    return total + strength * ways.strength * sum(penalties)


def descend(
    problem: Problem, v: Sequence[Tensor], beta: float, strength: float, lr: float, ways: Ways
) -> tuple[Tensor, list[Tensor]]:
    """The objective, and V after one iteration of gradient descent."""
    leaves = [each.detach().clone().requires_grad_() for each in v]
    total = objective(problem, leaves, beta, strength, ways)
    slopes = torch.autograd.grad(total, leaves)
    return total.detach(), [leaf.detach() - lr * slope for leaf, slope in zip(leaves, slopes, strict=True)]


def learn(
    problem: Problem, batches: Tensor, strength: float, lr: float, ways: LoopWays
) -> tuple[list[Tensor], list[Tensor]]:
    """AdaRound of the problem's layers: V at the end, and the decided weights."""
    v = [each.requires_grad_() for each in ways.start(problem.layers)]
    optimizer = ways.optimizer(v, lr=lr)
    for i, rows in enumerate(batches):
        rows = slice(None) if ways.whole else rows
        batch = problem._replace(inputs=tuple(x[rows] for x in problem.inputs), target=problem.target[rows])
        total = objective(batch, v, ways.beta(i, len(batches)), strength, ways)
        if not ways.gather:
            optimizer.zero_grad()
        total.backward()
        optimizer.step()
    found = [each.detach() for each in v]
    decided = [
        on_grid(layer, (share(each) >= 0.5).double())
        for layer, each in zip(problem.layers, found, strict=True)
    ]
    return found, decided
