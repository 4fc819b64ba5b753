"""Lesson 07: right answers unlike the solution, and wrong ones with words that they must get."""

import math
from functools import partial

import numpy as np
import torch


def h_of(v):
    return (torch.sigmoid(v) * 1.2 - 0.1).clamp(0, 1)


def h_in_numpy(v):
    return np.clip(1.2 / (1 + np.exp(-v.numpy().astype(np.float64))) - 0.1, 0, 1)


def h_by_where(v):
    wide = 1.2 / (1 + torch.exp(-v)) - 0.1
    return torch.where(wide < 0, 0.0, torch.where(wide > 1, 1.0, wide))


def start(w, s):
    return -torch.log(1.2 / ((w / s) % 1 + 0.1) - 1)


def start_in_a_loop(w, s):
    found = []
    for row, scale in zip(w.tolist(), s.flatten().tolist(), strict=True):
        fractions = [value / scale - math.floor(value / scale) for value in row]
        found.append([math.log((f + 0.1) / (1.1 - f)) for f in fractions])
    return [torch.tensor(row) for row in found]


def soft(w, s, z, h, bits=4, floor=torch.floor):
    return s * ((floor(w / s) + h + z).clamp(0, 2**bits - 1) - z)


def soft_by_limits(w, s, z, h, bits):
    level = torch.minimum(torch.maximum(torch.floor(w / s) + h, -z), 2**bits - 1 - z)
    return level * s


def soft_in_numpy(w, s, z, h, bits):
    w, s, z, h = (each.numpy().astype(np.float64) for each in (w, s, z, h))
    return s * (np.clip(np.floor(w / s) + h + z, 0, 2**bits - 1) - z)


def soft_by_rows(w, s, z, h, bits):
    return torch.stack([soft(*row, bits) for row in zip(w, s, z, h, strict=True)])


def penalty(h, beta):
    return (1 - (2 * h - 1).abs() ** beta).sum()


def annealed(h, i, n, high=8.0, low=1.0, warm=0.2):
    if i < warm * n:
        return 0
    return penalty(h, high + (low - high) * (i - warm * n) / (n - warm * n))


def annealed_by_interpolation(h, i, n):
    beta = np.interp(i, [n / 5, n], [8, 1])
    return penalty(h.double(), beta).item() if 5 * i >= n else 0.0


def annealed_in_numpy(h, i, n):
    later = max(i - n / 5, 0) / (4 * n / 5)
    return (5 * i >= n) * np.sum(1 - np.abs(2 * h.numpy().astype(np.float64) - 1) ** (8 - 7 * later))


def squares(output, target):
    return (output - target).square().sum(1).mean()


def iteration(unit, layers, v, inputs, target, beta, strength, lr, loss=squares, add=penalty, sign=-1):
    v = [each.clone().requires_grad_() for each in v]
    weights = [soft(*layer, h_of(each)) for layer, each in zip(layers, v, strict=True)]
    total = loss(unit(weights, *inputs), target) + strength * sum(add(h_of(each), beta) for each in v)
    slopes = torch.autograd.grad(total, v)
    return total.item(), [(each + sign * lr * g).detach() for each, g in zip(v, slopes, strict=True)]


def iteration_by_sgd(unit, layers, v, inputs, target, beta, strength, lr):
    variables = [torch.nn.Parameter(each.clone()) for each in v]
    sgd = torch.optim.SGD(variables, lr=lr)
    weights = [soft(*layer, h_of(each)) for layer, each in zip(layers, variables, strict=True)]
    error = unit(weights, *inputs) - target
    total = (error**2).mean((0, *range(2, error.dim()))).sum()
    for each in variables:
        total = total + strength * penalty(h_of(each), beta)
    total.backward()
    sgd.step()
    return [total.detach(), tuple(variables)]


class Iteration:
    """Right: an object, with functional gradients."""

    def __call__(self, unit, layers, v, inputs, target, beta, strength, lr):
        def objective(*variables):
            weights = [soft(*layer, h_of(each)) for layer, each in zip(layers, variables, strict=True)]
            extra = sum(penalty(h_of(each), beta) for each in variables)
            return squares(unit(weights, *inputs), target) + strength * extra

        slopes = torch.func.grad(objective, argnums=tuple(range(len(v))))(*v)
        return objective(*v), [a - lr * b for a, b in zip(v, slopes, strict=True)]


def moved(change, *given):
    """A right objective, with another V."""
    total, new = iteration(*given)
    return total, change(given[2], new, given[7])


def loop(
    unit,
    layers,
    inputs,
    target,
    batches,
    strength,
    lr,
    *,
    begin=start,
    beta=lambda i, n: 8 - 7 * (i - n / 5) / (n - n / 5),
    wait=0.2,
    optimizer=torch.optim.Adam,
    loss=squares,
    add=penalty,
    rows_of=lambda rows: rows,
    forget=True,
    up=lambda h: (h >= 0.5).double(),
    grid=soft,
    fresh=False,
):
    v = [begin(w, s).requires_grad_() for w, s, z in layers]
    adam = optimizer(v, lr=lr)
    for i, rows in enumerate(batches):
        rows = rows_of(rows)
        weights = [grid(*layer, h_of(each)) for layer, each in zip(layers, v, strict=True)]
        total = loss(unit(weights, *(x[rows] for x in inputs)), target[rows])
        if i >= wait * len(batches):
            total = total + strength * sum(add(h_of(each), beta(i, len(batches))) for each in v)
        if fresh:
            adam = optimizer(v, lr=lr)
        if forget:
            adam.zero_grad()
        total.backward()
        adam.step()
    return v, [grid(*layer, up(h_of(each))) for layer, each in zip(layers, v, strict=True)]


def loop_with_parameters(unit, layers, inputs, target, batches, strength, lr):
    """Right: parameters in a module list, the schedule counted by hand."""
    variables = torch.nn.ParameterList(torch.logit(((w / s) % 1 + 0.1) / 1.2) for w, s, _ in layers)
    adam, n = torch.optim.Adam(variables.parameters(), lr), len(batches)
    for i in range(n):
        data, goal = [x[batches[i]] for x in inputs], target[batches[i]]
        shares = [h_of(each) for each in variables]
        weights = [soft_by_limits(*layer, h, 4) for layer, h in zip(layers, shares, strict=True)]
        objective = squares(unit(weights, *data), goal)
        for h in shares:
            objective += strength * annealed(h, i, n)
        adam.zero_grad(set_to_none=False)
        objective.backward()
        adam.step()
    hard = [soft(*layer, h_of(each).round()) for layer, each in zip(layers, variables, strict=True)]
    return tuple(each.detach() for each in variables), tuple(hard)


def adam_by_hand(unit, layers, inputs, target, batches, strength, lr):
    """Right: Adam from its formulas."""
    v = [start(w, s) for w, s, _ in layers]
    means, squared = [torch.zeros_like(each) for each in v], [torch.zeros_like(each) for each in v]
    for i, rows in enumerate(batches):
        leaves = [each.clone().requires_grad_() for each in v]
        weights = [soft(*layer, h_of(each)) for layer, each in zip(layers, leaves, strict=True)]
        total = squares(unit(weights, *(x[rows] for x in inputs)), target[rows])
        total = total + strength * sum(annealed(h_of(each), i, len(batches)) for each in leaves)
        for k, g in enumerate(torch.autograd.grad(total, leaves)):
            means[k] = 0.9 * means[k] + 0.1 * g
            squared[k] = 0.999 * squared[k] + 0.001 * g * g
            size = (squared[k] / (1 - 0.999 ** (i + 1))).sqrt() + 1e-8
            v[k] = v[k] - lr * means[k] / (1 - 0.9 ** (i + 1)) / size
    return v, [soft(*layer, (h_of(each) >= 0.5).double()) for layer, each in zip(layers, v, strict=True)]


def loop_from_own_parts(unit, layers, inputs, target, batches, strength, lr):
    """Right: as most learners write it, from the functions of the earlier stages."""
    return loop(unit, layers, inputs, target, batches, strength, lr)


def swapped(*given):
    v, weights = loop(*given)
    return weights, v


def codes_at_the_end(*given):
    v, weights = loop(*given)
    return v, [weight / s + z for weight, (_, s, z) in zip(weights, given[1], strict=True)]


def mean_of_all(output, target):
    return (output - target).square().mean()


def sum_of_all(output, target):
    return (output - target).square().sum()


def nothing(h, beta):
    return 0 * h.sum()


def average(h, beta):
    return penalty(h, beta) / h.numel()


def unclipped(w, s, z, h):
    return s * (torch.floor(w / s) + h)


RIGHT = {
    "07.rectified_sigmoid": [
        h_in_numpy,
        h_by_where,
        lambda v: torch.sigmoid(v.double()).mul(1.2).sub(0.1).clamp(min=0, max=1),
        lambda v: torch.nn.functional.hardtanh(torch.sigmoid(v) * 1.2 - 0.1, 0, 1),
        partial(torch.func.vmap, h_of)
        and (lambda v: torch.relu(1 - torch.relu(1.1 - 1.2 * torch.sigmoid(v)))),
    ],
    "07.starting_variable": [
        start,
        start_in_a_loop,
        lambda w, s: torch.logit(((w / s).double() % 1 + 0.1) / 1.2),
        lambda w, s: np.log(((w / s).numpy() % 1 + 0.1) / (1.1 - (w / s).numpy() % 1)),
    ],
    "07.soft_weight": [
        soft_by_limits,
        soft_in_numpy,
        soft_by_rows,
        lambda w, s, z, h, bits: soft(w.double(), s.double(), z, h, bits),
    ],
    "07.annealed_penalty": [
        annealed,
        annealed_by_interpolation,
        annealed_in_numpy,
        lambda h, i, n: [float(annealed(h.double(), i, n))],
    ],
    "07.one_iteration": [iteration, iteration_by_sgd, Iteration(), partial(iteration, loss=squares)],
    "07.learn_rounding": [
        loop_with_parameters,
        adam_by_hand,
        loop_from_own_parts,
        partial(loop, fresh=False),
    ],
}
WRONG = {
    "07.rectified_sigmoid": [
        (lambda v: None, "returned None"),
        (torch.sigmoid, "plain sigmoid"),
        (lambda v: torch.sigmoid(v) * 1.2 - 0.1, "clip to [0, 1]"),
        (lambda v: (torch.sigmoid(v) * 1.1 - 0.1).clamp(0, 1), "zeta alone"),
        (lambda v: (torch.sigmoid(v) * 1.2).clamp(0, 1), "low end to gamma"),
        (lambda v: (torch.sigmoid(v) * 1.2 + 0.1).clamp(0, 1), "sign of gamma"),
        (lambda v: 1 - h_of(v), "h grows with V"),
        (lambda v: h_of(-v), "h grows with V"),
        (lambda v: h_of(v).sum(), "shape"),
        (lambda v: h_of(v).flatten()[:1], "shape"),
        (lambda v: (torch.tanh(v) * 1.2 - 0.1).clamp(0, 1), "expected"),
        (lambda v: torch.sigmoid(v).clamp(0, 1) * 1.2 - 0.1, "clip to [0, 1]"),
        (lambda v: (h_of(v) >= 0.5).float(), "expected"),
        (lambda v: v.clamp(0, 1), "expected"),
    ],
    "07.starting_variable": [
        (lambda w, s: None, "returned None"),
        (lambda w, s: -start(w, s), "the sign"),
        (lambda w, s: torch.logit((w / s) % 1), "plain sigmoid"),
        (lambda w, s: (w / s) % 1, "those are the fractions"),
        (lambda w, s: -torch.log(1.2 / (torch.frac(w / s) + 0.1) - 1), "negative weights"),
        (lambda w, s: -torch.log(1.2 / (w / s - torch.round(w / s) + 0.1) - 1), "nearest value"),
        (lambda w, s: -torch.log(1.2 / (w % 1 + 0.1) - 1), "divide by s"),
        (lambda w, s: -torch.log(1.2 / ((w / s) % 1) - 1), "gamma is missing"),
        (lambda w, s: -torch.log(1.1 / ((w / s) % 1 + 0.1) - 1), "not zeta"),
        (lambda w, s: torch.zeros_like(w), "expected"),
        (lambda w, s: start(w, s)[0], "shape"),
        (lambda w, s: torch.log(1.2 / ((w / s) % 1 + 0.1)), "expected"),
        (lambda w, s: start(w, s[:1]), "expected"),
        (lambda w, s: start(w, s).round(decimals=2), "expected"),
    ],
    "07.soft_weight": [
        (lambda w, s, z, h, b: None, "returned None"),
        (lambda w, s, z, h, b: (torch.floor(w / s) + h + z).clamp(0, 2**b - 1), "those are the codes"),
        (lambda w, s, z, h, b: s * (torch.floor(w / s) + h + z).clamp(0, 2**b - 1), "subtract z before"),
        (lambda w, s, z, h, b: s * (torch.floor(w / s) + h), "clip the codes"),
        (lambda w, s, z, h, b: s * ((torch.floor(w / s) + h + z).clamp(0, 2**b) - z), "not 2^bits"),
        (lambda w, s, z, h, b: s * (torch.floor(w / s) + h).clamp(0, 2**b - 1), "add z before"),
        (lambda w, s, z, h, b: s * ((torch.floor(w / s) + z).clamp(0, 2**b - 1) + h - z), "clip last"),
        (lambda w, s, z, h, b: soft(w, s, z, h, b, torch.round), "not to the nearest"),
        (lambda w, s, z, h, b: soft(w, s, z, h, b, lambda x: x), "has its fraction still"),
        (lambda w, s, z, h, b: soft(w, s, z, h, b, torch.trunc), "by floor"),
        (lambda w, s, z, h, b: soft(w, s, z, h.round(), b), "stay soft"),
        (lambda w, s, z, h, b: soft(w, s, z, 0, b, torch.round), "rounding to nearest"),
        (lambda w, s, z, h, b: soft(w, s, z, 1 - h, b), "expected"),
        (lambda w, s, z, h, b: soft(w, s, z, s * h, b), "expected"),
        (lambda w, s, z, h, b: soft(w, s, z, h, b).sum(), "shape"),
        (lambda w, s, z, h, b: soft(w, s, z, h, 4) * (b == 4) + soft(w, s, z, h, 4) * (b == 3), "for 3 bits"),
    ],
    "07.annealed_penalty": [
        (lambda h, i, n: None, "returned None"),
        (lambda h, i, n: annealed(h, i, n, warm=0.0), "beta falls from the end of the warm-up"),
        (lambda h, i, n: average(h, 8 - 7 * (i - n / 5) / (n - n / 5)) * (5 * i >= n), "that is the average"),
        (lambda h, i, n: penalty(h, 8) * (5 * i >= n), "must fall from 8"),
        (lambda h, i, n: annealed(h, i, n, high=1.0, low=8.0), "beta grows"),
        (lambda h, i, n: penalty(h, 8 - 7 * i / n) * (5 * i >= n), "end of the warm-up"),
        (lambda h, i, n: penalty(h, 8 - 7 * (i - n / 5) / n) * (5 * i >= n), "divide by their number"),
        (lambda h, i, n: annealed(h, i, n, low=0.0), "by 7"),
        (lambda h, i, n: penalty(h, 8 - 7 * max(i - n / 5, 0) / (n - n / 5)), "first fifth"),
        (lambda h, i, n: annealed(h, i, n) if 5 * i > n else 0.0, "with beta = 8"),
        (lambda h, i, n: h.numel() - annealed(h, i, n) if 5 * i >= n else 0, "subtract it from 1"),
        (lambda h, i, n: 8 - 7 * (i - n / 5) / (n - n / 5) if 5 * i >= n else 0, "this is beta"),
        (lambda h, i, n: annealed(0.5 + h / 2, i, n), "use 2 h - 1"),
        (lambda h, i, n: annealed(h, i, n, high=20.0, low=2.0), "expected"),
        (lambda h, i, n: annealed(h, i, n, warm=n // 5 / n), "first fifth"),
        (lambda h, i, n: annealed(h, i, n - 1), "expected"),
        (lambda h, i, n: annealed(h, i + 1, n), "expected"),
        (lambda h, i, n: 1 - (2 * h - 1).abs() ** 8, "shape"),
    ],
    "07.one_iteration": [
        (lambda *given: None, "returned None"),
        (lambda *given: iteration(*given)[1], "first of the pair"),
        (lambda *given: iteration(*given)[0], "return a pair"),
        (partial(iteration, loss=mean_of_all), "its mean over all"),
        (partial(iteration, loss=sum_of_all), "that is the sum over all"),
        (partial(iteration, loss=lambda a, b: (a - b).abs().sum(1).mean()), "and square"),
        (partial(iteration, loss=lambda a, b: (a - b).square().sum((1, 2)).mean()), "average over pixels"),
        (partial(iteration, add=nothing), "penalty is missing"),
        (partial(iteration, add=average), "do not average"),
        (
            lambda *g: (iteration(*g)[0], iteration(*g, add=lambda h, b: 0 * h.sum())[1]),
            "without the penalty",
        ),
        (lambda *g: (iteration(*g)[0], iteration(*g, loss=mean_of_all)[1]), "in the gradient is the mean"),
        (partial(iteration, sign=1), "the sign"),
        (partial(moved, lambda old, new, lr: old), "did not change"),
        (partial(moved, lambda old, new, lr: [(a - b) / lr for a, b in zip(old, new, strict=True)]), "alone"),
        (
            partial(moved, lambda old, new, lr: [a - (a - b) / lr for a, b in zip(old, new, strict=True)]),
            "multiply the gradient by lr",
        ),
        (
            partial(
                moved, lambda old, new, lr: [a - lr * (a - b).sign() for a, b in zip(old, new, strict=True)]
            ),
            "not its sign",
        ),
        (partial(moved, lambda old, new, lr: new[:1]), "one tensor for each layer"),
        (partial(moved, lambda old, new, lr: [new[0], old[1]]), "did not change"),
        (lambda *g: iteration(*g[:6], 1.0, g[7]), "by strength"),
        (lambda *g: (iteration(*g), [each.add_(1.0) for each in g[2]])[0], "work on copies"),
    ],
    "07.learn_rounding": [
        (lambda *given: None, "returned None"),
        (lambda *given: loop(*given)[1][0], "return a pair"),
        (swapped, "expected"),
        (partial(loop, begin=lambda w, s: torch.zeros_like(w)), "expected"),
        (partial(loop, begin=lambda w, s: torch.logit((w / s) % 1)), "plain sigmoid"),
        (partial(loop, add=nothing), "penalty is missing"),
        (partial(loop, wait=0.0, beta=lambda i, n: 8 - 7 * max(i - n / 5, 0) / (n - n / 5)), "no penalty"),
        (partial(loop, beta=lambda i, n: 8.0), "same value in all"),
        (partial(loop, beta=lambda i, n: 1 + 7 * (i - n / 5) / (n - n / 5)), "beta grows"),
        (partial(loop, beta=lambda i, n: 8 - 7 * i / n), "after the warm-up"),
        (partial(loop, beta=lambda i, n: 8 - 7 * (i - n / 5) / (n - 1 - n / 5)), "falls too fast"),
        (partial(loop, optimizer=torch.optim.SGD), "use Adam"),
        (partial(loop, rows_of=lambda rows: slice(None)), "yours uses all rows"),
        (partial(loop, rows_of=lambda rows: rows[:-1]), "expected"),
        (partial(loop, forget=False), "gradients add up"),
        (partial(loop, fresh=True), "expected"),
        (partial(loop, loss=mean_of_all), "that is the mean over all"),
        (partial(loop, loss=sum_of_all), "images and pixels"),
        (partial(loop, add=average), "do not average"),
        (partial(loop, grid=unclipped), "expected"),
        (lambda *g: loop(*g[:5], 1.0, g[6]), "by strength"),
        (lambda *g: loop(*g[:4], g[4][:0], *g[5:]), "as at the start"),
        (lambda *g: loop(*g[:4], g[4][:-1], *g[5:]), "expected"),
        (lambda *g: loop(*g[:6], 0.001), "expected"),
        (partial(loop, up=lambda h: h), "still soft"),
        (partial(loop, up=lambda h: (h < 0.5).double()), "goes down where h is large"),
        (codes_at_the_end, "those are codes"),
        (lambda *g: (loop(*g)[0], loop(*g)[1][:1]), "one tensor for each layer"),
        (
            lambda *g: (
                loop(*g)[0],
                [soft(w, s, z, ((w / s) % 1 >= 0.5).double()) for w, s, z in g[1]],
            ),
            "rounds to nearest",
        ),
        (
            lambda *g: (
                loop(*g)[0],
                [
                    unclipped(*layer, (h_of(v) >= 0.5).double())
                    for layer, v in zip(g[1], loop(*g)[0], strict=True)
                ],
            ),
            "codes of the hard weights",
        ),
    ],
}
