"""What likely mistakes give in the exercises of lesson 07, by the message for each."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .rounding_07 import (
    FIRST_BETA,
    GAMMA,
    LAST_BETA,
    WARMUP,
    ZETA,
    Layer,
    LoopWays,
    Problem,
    Ways,
    beta_at,
    descend,
    learn,
    on_grid,
    penalty_of,
    share,
    start_of,
)


def of_share(v: Tensor) -> dict[str, Tensor]:
    """Of h(V)."""
    plain = torch.sigmoid(v)
    return {
        "that is the plain sigmoid, which never reaches 0 and 1: stretch it, and clip.": plain,
        "clip to [0, 1] after stretching.": plain * (ZETA - GAMMA) + GAMMA,
        "the width of the stretched sigmoid is zeta - gamma = 1.2: with zeta alone the high end is at 1.": (
            plain * ZETA + GAMMA
        ).clamp(0, 1),
        "after stretching, move the low end to gamma: add gamma.": (plain * (ZETA - GAMMA)).clamp(0, 1),
        "the sign of gamma: it is -0.1, and the stretched sigmoid starts there.": (
            plain * (ZETA - GAMMA) - GAMMA
        ).clamp(0, 1),
        "that is 1 - h: h grows with V.": 1 - (plain * (ZETA - GAMMA) + GAMMA).clamp(0, 1),
    }


def of_start(w: Tensor, s: Tensor) -> dict[str, Tensor]:
    """Of the starting V."""
    steps = w / s
    fraction = steps - torch.floor(steps)
    right = -torch.log((ZETA - GAMMA) / (fraction - GAMMA) - 1)
    toward_zero = steps - torch.trunc(steps)
    return {
        "the sign: your V gives 1 - fraction. Check h of your V for a fraction of 0.9.": -right,
        "that is the inverse of the plain sigmoid: undo the stretching first.": torch.logit(fraction),
        "those are the fractions: return the V whose h(V) is the fraction.": fraction,
        "a fraction is what remains above the floor: for negative weights, trunc, frac and int() give "
        "another.": -torch.log((ZETA - GAMMA) / (toward_zero - GAMMA) - 1),
        "a fraction is what remains above the floor, not the distance from the nearest value.": -torch.log(
            (ZETA - GAMMA) / (steps - torch.round(steps) - GAMMA) - 1
        ),
        "divide by s first: the fraction counts in steps of the grid.": -torch.log(
            (ZETA - GAMMA) / (w - torch.floor(w) - GAMMA) - 1
        ),
        "gamma is missing: solve fraction = sigmoid(V) (zeta - gamma) + gamma for V.": -torch.log(
            (ZETA - GAMMA) / fraction - 1
        ),
        "the width is zeta - gamma = 1.2, not zeta.": -torch.log(ZETA / (fraction - GAMMA) - 1),
    }


def of_soft_weight(w: Tensor, s: Tensor, z: Tensor, h: Tensor, bits: int) -> dict[str, Tensor]:
    """Of the soft weight."""
    top, floor = 2**bits - 1, torch.floor(w / s)
    codes = (floor + h + z).clamp(0, top)
    return {
        "those are the codes: subtract z and multiply by s.": codes,
        "subtract z before you multiply by s: the code z stands for the number 0.": s * codes,
        "clip the codes to 0 ... 2^bits - 1: some weights lie outside of the grid.": s * (floor + h),
        "the largest code is 2^bits - 1, not 2^bits.": s * ((floor + h + z).clamp(0, top + 1) - z),
        "add z before you clip: codes start at 0, levels do not.": s * (floor + h).clamp(0, top),
        "clip last: h may lift the largest code out of the grid.": s * ((floor + z).clamp(0, top) + h - z),
        "h is added to the floor of w / s, not to the nearest value.": s
        * ((torch.round(w / s) + h + z).clamp(0, top) - z),
        "h is added to the floor of w / s: w / s itself has its fraction still.": s
        * ((w / s + h + z).clamp(0, top) - z),
        "round w / s down, by floor: trunc and int() round negative numbers up.": s
        * ((torch.trunc(w / s) + h + z).clamp(0, top) - z),
        "h must stay soft here: rounded, it has no slope to learn from.": s
        * ((floor + (h >= 0.5).double() + z).clamp(0, top) - z),
        "that is rounding to nearest: h decides, not the fraction.": s
        * ((torch.round(w / s) + z).clamp(0, top) - z),
    }


def of_annealed_penalty(h: Tensor, iteration: int, iterations: int) -> dict[str, Tensor]:
    """Of the annealed penalty."""
    first = WARMUP * iterations
    fall = FIRST_BETA - LAST_BETA
    later = (iteration - first) / (iterations - first)
    beta = FIRST_BETA - fall * later
    return {
        "during the first fifth of the iterations the penalty is 0.": penalty_of(
            h, FIRST_BETA if iteration < first else beta
        ),
        "that is the average: sum the penalties.": (1 - (2 * h - 1).abs().pow(beta)).mean(),
        "beta has the same value all the time: it must fall from 8 to 1.": penalty_of(h, FIRST_BETA),
        "beta grows: it must fall from 8 to 1.": penalty_of(h, LAST_BETA + fall * later),
        "beta falls from the end of the warm-up on: subtract the warm-up from the iteration.": penalty_of(
            h, FIRST_BETA - fall * iteration / iterations
        ),
        "beta falls over the iterations after the warm-up: divide by their number.": penalty_of(
            h, FIRST_BETA - fall * (iteration - first) / iterations
        ),
        "beta falls from 8 to 1, so by 7.": penalty_of(h, FIRST_BETA - FIRST_BETA * later),
        "the penalty starts at the end of the first fifth, with beta = 8.": torch.zeros(()),
        "that is the sum of |2h - 1|^beta, which is largest where all is decided: subtract it from 1.": (
            (2 * h - 1).abs().pow(beta).sum()
        ),
        "return the penalty; this is beta.": torch.tensor(beta),
        "use 2 h - 1, which is -1 or 1 for a decided h.": (1 - h.pow(beta)).sum(),
    }


def of_losses(problem: Problem, v: list[Tensor], beta: float, strength: float) -> dict[str, Tensor]:
    """Of the objective."""
    listed = {
        "sum the squared error over the features (axis 1) and average over the rest: that is its mean over "
        "all.": Ways(reduce=lambda squares: squares.mean()),
        "average over images and pixels: that is the sum over all.": Ways(
            reduce=lambda squares: squares.sum()
        ),
        "average over pixels, too.": Ways(reduce=lambda squares: squares.sum(1).sum(1).mean()),
        "the penalty is missing.": Ways(strength=0.0),
        "multiply the penalty by strength.": Ways(strength=1 / strength),
        "sum the penalties, do not average.": Ways(average=True),
        "clip the codes of the soft weights to 0 ... 15.": Ways(unclipped=True),
        "subtract the target from the output, and square.": Ways(reduce=lambda s: s.sqrt().sum(1).mean()),
    }
    return {message: descend(problem, v, beta, strength, 0.0, ways)[0] for message, ways in listed.items()}


def of_variables(
    problem: Problem, v: Sequence[Tensor], beta: float, strength: float, lr: float
) -> dict[str, list[Tensor]]:
    """Of V after one iteration."""
    step = descend(problem, v, beta, strength, lr, Ways())[1]
    slopes = [(before - after) / lr for before, after in zip(v, step, strict=True)]
    plain = descend(problem, v, beta, strength, lr, Ways(strength=0.0))[1]
    mean = descend(problem, v, beta, strength, lr, Ways(reduce=lambda squares: squares.mean()))[1]
    return {
        "V did not change: subtract lr times the gradient, and return the new V.": list(v),
        "the sign: gradient descent subtracts the gradient.": [
            2 * a - b for a, b in zip(v, step, strict=True)
        ],
        "that is the gradient alone: return V - lr * gradient.": slopes,
        "multiply the gradient by lr.": [a - slope for a, slope in zip(v, slopes, strict=True)],
        "that is the gradient of the loss without the penalty.": plain,
        "the loss in the gradient is the mean over all: sum over the features.": mean,
        "subtract lr times the gradient itself, not its sign: Adam comes in the next stage.": [
            a - lr * slope.sign() for a, slope in zip(v, slopes, strict=True)
        ],
    }


def of_loop(problem: Problem, batches: Tensor, strength: float, lr: float) -> dict[str, list[Tensor]]:
    """Of V at the end of the loop."""
    fall = FIRST_BETA - LAST_BETA

    def late(i: int, n: int) -> float | None:
        beta = beta_at(i, n)
        return beta if beta is None else FIRST_BETA - fall * (i - WARMUP * n) / (n - 1 - WARMUP * n)

    def rising(i: int, n: int) -> float | None:
        beta = beta_at(i, n)
        return beta if beta is None else FIRST_BETA + LAST_BETA - beta

    right = LoopWays()
    listed = {
        "the penalty is missing in the loop, or its gradient.": replace(right, beta=lambda i, n: None),
        "in the first fifth of the iterations there is no penalty.": replace(
            right, beta=lambda i, n: beta_at(i, n) or FIRST_BETA
        ),
        "beta must fall: it has the same value in all iterations.": replace(
            right, beta=lambda i, n: beta_at(i, n) and FIRST_BETA
        ),
        "beta grows: it must fall from 8 to 1.": replace(right, beta=rising),
        "beta starts to fall after the warm-up, not before.": replace(
            right, beta=lambda i, n: beta_at(i, n) and FIRST_BETA - fall * i / n
        ),
        "beta falls by the share of the iterations after the warm-up: (i - first) / (n - first). With n - 1 "
        "it falls too fast.": replace(right, beta=late),
        "use Adam: that is plain gradient descent.": replace(right, optimizer=torch.optim.SGD),
        "each iteration uses the rows of its batch: yours uses all rows.": replace(right, whole=True),
        "gradients add up: set them to zero before each backward pass.": replace(right, gather=True),
        "sum the squared error over the features (axis 1), then average: that is the mean over all.": replace(
            right, reduce=lambda squares: squares.mean()
        ),
        "average the squared error over images and pixels.": replace(
            right, reduce=lambda squares: squares.sum()
        ),
        "sum the penalties, do not average.": replace(right, average=True),
        "multiply the penalty by strength.": replace(right, strength=1 / strength),
        "start where h(V) is the fraction: that is the inverse of the plain sigmoid.": replace(
            right, start=lambda layers: [torch.logit((layer.w / layer.s) % 1) for layer in layers]
        ),
        "V is still as at the start: the optimizer must change it.": None,
    }
    return {
        message: start_of(problem.layers) if ways is None else learn(problem, batches, strength, lr, ways)[0]
        for message, ways in listed.items()
    }


def of_hard_weights(layers: Sequence[Layer], v: Sequence[Tensor]) -> dict[str, list[Tensor]]:
    """Of the weights that are decided at the end."""
    h = [share(each) for each in v]
    pairs = list(zip(layers, h, strict=True))
    return {
        "those weights are still soft: at the end each goes up (h >= 1/2) or down.": [
            on_grid(layer, up) for layer, up in pairs
        ],
        "that rounds to nearest: the learned h decides.": [
            on_grid(layer, (((layer.w / layer.s) % 1) >= 0.5).double()) for layer, _ in pairs
        ],
        "that goes down where h is large.": [on_grid(layer, (up < 0.5).double()) for layer, up in pairs],
        "those are codes: return real values s (q - z).": [
            on_grid(layer, (up >= 0.5).double()) / layer.s + layer.z for layer, up in pairs
        ],
        "clip the codes of the hard weights to 0 ... 15.": [
            layer.s * (torch.floor(layer.w / layer.s) + (up >= 0.5).double()) for layer, up in pairs
        ],
    }
