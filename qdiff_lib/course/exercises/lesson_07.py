"""Exercises and quiz of lesson 7: AdaRound of one unit, in six functions."""

import torch
from torch import Tensor

from ..checks import Answer, Wrong, exercise
from ..plain import plain
from ..text import Question
from . import mistakes_07 as mistakes
from .answers import FLOAT32, compare, describe, numbers, sources
from .rounding_07 import LoopWays, Ways, beta_at, descend, draw_problem, learn, penalty_of, share, start_of

FLOAT64 = 1e-6  # far above float64 roundings of some twenty iterations, far below what a mistake changes


@exercise(
    "07.rectified_sigmoid",
    hints=(
        "There are three steps: compute the sigmoid, then stretch it, then clip it.",
        "To stretch: multiply by the new width, zeta - gamma, and move the low end to gamma.",
    ),
)
def rectified_sigmoid(answer: Answer, seed: int) -> str:
    dice, generator = sources("07.rectified_sigmoid", seed)
    for shape in ((dice.randint(20, 60),), (dice.randint(2, 4), dice.randint(3, 5), 3, 3)):
        v = 2.5 * torch.randn(shape, generator=generator)
        v.view(-1)[:4] = torch.tensor([-9.0, 9.0, 0.0, 1.7])
        found = numbers(answer(v), shape, "h for each variable")
        right, wrong = share(v.double()), mistakes.of_share(v.double())
        compare(found, right, 8 * FLOAT32, "a few roundings of float32", wrong, "variable")
    return "beyond both ends h is exactly 0 or 1, and between them it has a slope."


@exercise(
    "07.starting_variable",
    hints=(
        "First the fraction of w / s above its floor. Then solve h(V) = fraction for V, on paper.",
        "Without the clip, the fraction is the sigmoid of V, stretched by zeta - gamma and moved by gamma. "
        "So you know the sigmoid of V.",
        "The inverse of the sigmoid is the logarithm of y / (1 - y), which `torch.logit` computes.",
    ),
)
def starting_variable(answer: Answer, seed: int) -> str:
    dice, generator = sources("07.starting_variable", seed)
    for exact in (False, True):
        rows, columns = dice.randint(3, 6), dice.randint(5, 9)
        floor = torch.randint(-8, 8, (rows, columns), generator=generator)
        rest = 0.05 + 0.9 * torch.rand(rows, columns, generator=generator)  # no floor depends on a rounding
        s = 0.05 + 0.3 * torch.rand(rows, 1, generator=generator)
        if exact:
            rest[:, ::3], s = 0.0, torch.full((rows, 1), 0.125)  # on the grid, exactly
        w, s = (floor + rest).double() * s.double(), s.double()
        found = numbers(answer(w, s), (rows, columns), "V for each weight")
        right = start_of([(w, s, None)])[0]
        # in float32 w / s is off by a few roundings of at most 9 steps; the slope of V is at most 11
        slack, why = 11 * 9 * 8 * FLOAT32, "roundings of float32, which the slope of V multiplies by up to 11"
        compare(found, right, slack, why, mistakes.of_start(w, s), "weight")
    return "with this V, the soft weight starts at the full-precision weight."


@exercise(
    "07.soft_weight",
    hints=(
        "First compute codes: the floor of w / s, plus h, plus z. Clip them. Then go back to real values.",
        "A real value is s times the level, and the level is the code minus z.",
    ),
)
def soft_weight(answer: Answer, seed: int) -> str:
    dice, generator = sources("07.soft_weight", seed)
    for bits in (4, 3):
        rows, columns = dice.randint(3, 6), dice.randint(8, 14)
        floor = torch.randint(-(2**bits), 2**bits, (rows, columns), generator=generator)
        rest = 0.05 + 0.9 * torch.rand(rows, columns, generator=generator)
        s = 0.05 + 0.3 * torch.rand(rows, 1, generator=generator)
        z = torch.randint(1, 2**bits - 1, (rows, 1), generator=generator).float()
        w, h = (floor + rest) * s, torch.rand(rows, columns, generator=generator)
        h[0, :2], h[1, :2] = 0.0, 1.0
        found = numbers(answer(w, s, z, h, bits), (rows, columns), "the soft weight for each weight")
        exact = [each.double() for each in (w, s, z, h)]
        right = exact[1] * ((torch.floor(exact[0] / exact[1]) + exact[3] + exact[2]).clamp(0, 2**bits - 1))
        right = right - exact[1] * exact[2]
        slack = 8 * 2 ** (bits + 1) * s.max().item() * FLOAT32
        why = "a few roundings of float32 of codes times the scale"
        compare(found, right, slack, why, mistakes.of_soft_weight(*exact, bits), f"for {bits} bits, weight")
    return "between two values of the grid, and never outside of it."


@exercise(
    "07.annealed_penalty",
    hints=(
        "Begin with the warm-up: its length is iterations / 5, which need not be a whole number.",
        "After the warm-up: which share of the remaining iterations is over? It is 0 at the end of the "
        "warm-up and 1 after the last iteration.",
        "While this share grows from 0 to 1, beta falls by 7. With this beta, the penalty is as in lesson 5.",
    ),
)
def annealed_penalty(answer: Answer, seed: int) -> str:
    dice, generator = sources("07.annealed_penalty", seed)
    even, odd = 10 * dice.randint(5, 20), 10 * dice.randint(5, 20) + dice.choice((3, 7))
    cases = [(even // 5, even), (even // 5 - 1, even), (odd // 5, odd), (odd // 5 + 1, odd), (0, even)]
    cases += [(even - 1, even), (dice.randint(odd // 3, odd - 2), odd)]
    for iteration, iterations in cases:
        n = dice.randint(20, 90)
        h = torch.rand(n, generator=generator)
        h[:2] = torch.tensor([0.0, 1.0])
        found = numbers(answer(h, iteration, iterations), (), "one number, the penalty")
        beta, exact = beta_at(iteration, iterations), h.double()
        right = torch.zeros(()) if beta is None else penalty_of(exact, beta)
        slack = 4 * n * 10 * FLOAT32  # each of n terms is at most 1; beta multiplies its roundings
        wrong = mistakes.of_annealed_penalty(exact, iteration, iterations)
        case = f"at iteration {iteration} of {iterations}"
        compare(found, right, slack, f"{n} float32 terms", wrong, case)
    return "at first no penalty, then one that pushes more and more of the weights."


def parts(value: object, what: str) -> list:
    """The two parts of a pair that an answer returned. Raises Wrong for anything else."""
    found = plain(value)
    if found is None:
        raise Wrong("your function returned None: end it with `return ...`.")
    if not isinstance(found, list | tuple) or len(found) != 2:
        raise Wrong(f"return a pair, {what}; you returned {describe(found)}.")
    return list(found)


def tensors(value: object, like: list[Tensor], what: str) -> list[Tensor]:
    """A list with one tensor for each layer, in float64. Raises Wrong for anything else."""
    if not isinstance(value, list | tuple) or len(value) != len(like):
        raise Wrong(f"{what}: a list of {len(like)}, one tensor for each layer; yours is {describe(value)}.")
    return [
        numbers(part, tuple(other.shape), f"{what}, of layer {i}")
        for i, (part, other) in enumerate(zip(value, like, strict=True))
    ]


def compare_layers(found: list[Tensor], right: list[Tensor], wrong: dict, what: str) -> None:
    """Compare a list of tensors. wrong: such lists by the message of a mistake, or a function for them."""
    if all(((a - b).abs() <= FLOAT64).all() for a, b in zip(found, right, strict=True)):
        return
    known = wrong() if callable(wrong) else wrong
    for i, (a, b) in enumerate(zip(found, right, strict=True)):
        listed = {message: values[i] for message, values in known.items()}
        compare(a, b, FLOAT64, "roundings of float64", listed, f"{what} of layer {i}, entry")


@exercise(
    "07.one_iteration",
    hints=(
        "Copy each V and call requires_grad_() on the copy. From these copies compute h, the soft weights, "
        "and the output of the unit.",
        "The objective has two parts: the squared error of the output, summed over axis 1 and averaged over "
        "all else, and strength times the penalties of all layers.",
        "One call of backward() fills the grad of each copy. Detach what you return.",
    ),
)
def one_iteration(answer: Answer, seed: int) -> str:
    dice, generator = sources("07.one_iteration", seed)
    for beta in (dice.uniform(5.0, 8.0), dice.uniform(1.2, 3.0)):
        problem = draw_problem(dice, generator)
        noise = [torch.randn(w.shape, generator=generator, dtype=torch.float64) for w, _, _ in problem.layers]
        v = [each + 0.5 * other for each, other in zip(start_of(problem.layers), noise, strict=True)]
        v[0][1, :2] = torch.tensor([-6.0, 6.0], dtype=torch.float64)  # where h is clipped
        strength, lr = dice.uniform(0.01, 0.05), dice.uniform(0.5, 2.0)
        given = problem.unit, problem.layers, v, problem.inputs, problem.target, beta, strength, lr
        value, moved = parts(answer(*given), "(objective, list of the new V)")
        total, right = descend(problem, v, beta, strength, lr, Ways())
        wrong = mistakes.of_losses(problem, v, beta, strength)
        found = numbers(value, (), "the objective as the first of the pair, one number")
        compare(found, total, FLOAT64, "roundings of float64", wrong, "the objective")
        moved = tensors(moved, v, "the second of the pair")
        wrong = mistakes.of_variables(problem, v, beta, strength, lr)
        compare_layers(moved, right, wrong, "the new V")
    if answer.changed:
        raise Wrong("your function changes the V that it was given: work on copies.")
    return "the unit's output moves nearer to the target, and each h a little towards 0 or 1."


@exercise(
    "07.learn_rounding",
    hints=(
        "Before the loop: V of each layer as in stage 1, with requires_grad_(), and one Adam for all.",
        "In iteration i: compute h, the soft weights, the unit's output for the rows batches[i] of all "
        "inputs, and the objective of stage 4. Its penalty is that of stage 3, so it is 0 in the warm-up.",
        "After the loop: the share is 1 where h is at least one half, else 0. With this share in the place "
        "of h, the formula of the soft weight gives the hard weight.",
    ),
)
def learn_rounding(answer: Answer, seed: int) -> str:
    dice, generator = sources("07.learn_rounding", seed)
    fast, slow = dice.uniform(0.08, 0.15), dice.uniform(0.001, 0.002)  # slow: some h stay near 1/2
    for iterations, lr in ((10, fast), (10 + dice.choice((2, 3)), fast), (6, slow)):
        problem = draw_problem(dice, generator)
        rows = len(problem.target)
        batches = torch.stack(
            [torch.randperm(rows, generator=generator)[: rows // 2] for _ in range(iterations)]
        )
        strength = dice.uniform(0.02, 0.05)
        v, weights = parts(answer(*problem, batches, strength, lr), "(list of V, list of hard weights)")
        right, hard = learn(problem, batches, strength, lr, LoopWays())
        v = tensors(v, right, "the first of the pair, V")
        compare_layers(
            v, right, lambda p=problem, b=batches, s=strength, r=lr: mistakes.of_loop(p, b, s, r), "V"
        )
        weights = tensors(weights, hard, "the second of the pair, hard weights")
        compare_layers(weights, hard, mistakes.of_hard_weights(problem.layers, right), "the hard weight")
    return "this is AdaRound. Now run it on the unit of the real model."


QUIZ = (
    Question(
        "Why does V start where h(V) is the fraction of w / s?",
        (
            (
                "Then the soft weight starts at the full-precision weight.",
                "Floor plus fraction is w / s. Only weights outside of the grid start elsewhere.",
            ),
            ("Then all weights start at the nearest value.", "Nearest would be h = 0 or h = 1."),
            ("Then the penalty is 0 at the start.", "The penalty is 0 only where h is 0 or 1."),
        ),
        right=0,
    ),
    Question(
        "Why is h clipped, after the sigmoid was stretched to [-0.1, 1.1]?",
        (
            ("To make learning faster.", "Where h is clipped it has no slope, so learning stops there."),
            (
                "So that h can be exactly 0 or 1 for a finite V.",
                "The plain sigmoid comes near 0 and 1 and never reaches them.",
            ),
            ("So that codes stay on the grid.", "The clip of the codes to 0 ... 15 does this."),
        ),
        right=1,
    ),
    Question(
        "Your loop ends with a small soft error, and the hard error is nearly that of nearest. Why?",
        (
            (
                "The learning rate is too small.",
                "Then the soft error would not be small.",
            ),
            (
                "The batches are too small.",
                "They make the soft error noisy. But h still reaches 0 or 1.",
            ),
            (
                "The penalty is too weak or missing: many h are still between 0 and 1.",
                "The decision then moves these weights, and no iteration is left to compensate for it.",
            ),
        ),
        right=2,
    ),
)
