"""Lesson 3: wrong answers get the right message, right ones pass, figures say what they show."""

from itertools import count

import pytest
import torch

from qdiff_lib.calibration import Uniform
from qdiff_lib.course import Verdict, check
from qdiff_lib.course.exercises import lesson_03 as lesson
from qdiff_lib.course.figures import lesson_03 as figures
from qdiff_lib.sampling import noise_generators
from tools.expansion import SOURCES, is_exercise, read_source, split_solution

SOURCE = "03_calibration_sampling.py"
UNUSED = count()  # numbers that no call has had


def counts_by_hand(steps, samples, interval):
    """Right, and written without tensors; the last chosen steps get one more, not the first."""
    counts, chosen = [0] * steps, list(range(0, steps, interval))
    for i in range(samples):
        counts[chosen[-1 - i % len(chosen)]] += 1
    return counts


def counts_without_rest(steps, samples, interval):
    chosen = range(0, steps, interval)
    return [samples // len(chosen) * (i in chosen) for i in range(steps)]


def counts_at(choose):
    """The wrong answer that spreads the samples over the steps of ``choose(steps, interval)``."""

    def answer(steps, samples, interval):
        counts, chosen = torch.zeros(steps), torch.tensor(list(choose(steps, interval)))
        counts[chosen] = samples // len(chosen)
        counts[chosen[: samples % len(chosen)]] += 1
        return counts

    return answer


def rest_on_one_step(steps, samples, interval):
    counts = torch.tensor(counts_without_rest(steps, samples, interval))
    counts[0] += samples - counts.sum()
    return counts


def with_multinomial(counts, trajectories, generator):
    """Right, and written with another function of torch."""
    weights = torch.ones(trajectories)
    return [
        torch.multinomial(weights, n, generator=generator) if n else torch.empty(0) for n in counts.tolist()
    ]


def with_argsort(counts, trajectories, generator):
    """Right, and written as sorted random numbers, in plain lists."""
    return [torch.rand(trajectories, generator=generator).argsort()[:n].tolist() for n in counts]


def repeating(counts, trajectories, generator):
    return [torch.randint(trajectories, (int(n),), generator=generator) for n in counts]


def first_ones(counts, trajectories, generator):
    return [torch.arange(int(n)) for n in counts]


def once(counts, trajectories, generator):
    order = torch.randperm(trajectories, generator=generator)
    return [order[:n] for n in counts]


def without_the_last(counts, trajectories, generator):
    size = max(trajectories - 1, int(counts.max()))
    return [torch.randperm(size, generator=generator)[:n] for n in counts]


def no_generator(counts, trajectories, generator):
    return [torch.randperm(trajectories)[:n] for n in counts]


def counted_from_one(counts, trajectories, generator):
    return [torch.randperm(trajectories, generator=generator)[:n] + 1 for n in counts]


def mostly_early(counts, trajectories, generator):
    """Different, random, everyone has a chance, but not the same one."""
    weights = torch.linspace(3, 1, trajectories)
    return [torch.multinomial(weights, int(n), generator=generator) if n else [] for n in counts]


RIGHT = {
    "03.uniform_counts": [
        counts_by_hand,
        lambda steps, samples, interval: Uniform(interval).counts(steps, samples, torch.Generator()),
    ],
    "03.draw_trajectories": [with_multinomial, with_argsort],
    "03.stream_number": [
        lambda role, seed, image: role << 31 | seed << 20 | image,
        lambda role, seed, image: 2 * (image * 2**11 + seed) + role,
    ],
}
WRONG = [
    ("03.uniform_counts", lambda steps, samples, interval: None, "returned None"),
    ("03.uniform_counts", lambda steps, samples, interval: torch.ones(3), "shape (20,)"),
    ("03.uniform_counts", counts_without_rest, "the division leaves a rest"),
    ("03.uniform_counts", lambda s, n, c: [n * (i % c == 0) for i in range(s)], "at each chosen step"),
    ("03.uniform_counts", counts_at(lambda s, c: range(s)), "you use 100 steps; every 5-th of 100 is 20"),
    ("03.uniform_counts", lambda s, n, c: [1.5] * s, "whole numbers"),
    ("03.uniform_counts", counts_at(lambda s, c: range(c - 1, s, c)), "start at step 4"),
    ("03.uniform_counts", counts_at(lambda s, c: range(s // c)), "first 20 steps in a row"),
    ("03.uniform_counts", counts_at(lambda s, c: [0, *range(c + (c > 1), s, c)]), "not a multiple of 5"),
    ("03.uniform_counts", rest_on_one_step, "differ by 16 inputs"),
    (
        "03.uniform_counts",
        lambda s, n, c: [-(-n // -(-s // c)) * (i % c == 0) for i in range(s)],
        "exactly 256",
    ),
    ("03.draw_trajectories", lambda counts, n, generator: None, "a list of 4 tensors"),
    ("03.draw_trajectories", lambda counts, n, generator: [torch.arange(2)], "a list of 4 tensors"),
    ("03.draw_trajectories", lambda counts, n, generator: [torch.arange(3)] * 4, "step 1 asks for 0"),
    ("03.draw_trajectories", repeating, "a trajectory twice"),
    ("03.draw_trajectories", first_ones, "the first 10 trajectories at every step"),
    ("03.draw_trajectories", once, "drew once and kept it"),
    ("03.draw_trajectories", without_the_last, "trajectory 39 was never drawn"),
    ("03.draw_trajectories", no_generator, "two equal generators"),
    ("03.draw_trajectories", counted_from_one, "0 to 5"),
    ("03.draw_trajectories", mostly_early, "6 standard deviations"),
    ("03.stream_number", lambda role, seed, image: seed + image, "share their noise"),
    ("03.stream_number", lambda role, seed, image: seed << 20 | image, "the same number in both roles"),
    ("03.stream_number", lambda role, seed, image: role << 32 | seed << 20 | image, "wrap around"),
    ("03.stream_number", lambda role, seed, image: seed * 1000 + image + role * 2**31, "share their noise"),
    ("03.stream_number", lambda role, seed, image: (role << 31 | seed << 20 | image) + 0.5, "stay whole"),
    ("03.stream_number", lambda role, seed, image: next(UNUSED), "the same number every time"),
]


@pytest.mark.parametrize("name", RIGHT)
def test_right_answers_pass(name):
    for answer in RIGHT[name]:
        outcome = check(name, answer)
        assert outcome.verdict is Verdict.RIGHT, outcome


@pytest.mark.parametrize("name, answer, message", WRONG)
def test_wrong_answers_get_the_message_for_their_mistake(name, answer, message):
    outcome = check(name, answer)
    assert outcome.verdict is Verdict.WRONG
    assert message in outcome.message


@pytest.mark.parametrize("name", RIGHT)
def test_not_attempted_is_recognised(name):
    def stub(*args):
        raise NotImplementedError("your turn")

    assert check(name, stub).verdict is Verdict.NOT_ATTEMPTED


def test_solutions_in_the_source_pass():
    names = {"torch": torch, "Tensor": torch.Tensor}
    cells = [cell for cell in read_source(SOURCES / SOURCE) if is_exercise(cell)]
    assert {cell.metadata["exercise"] for cell in cells} == set(RIGHT)
    for cell in cells:
        name = cell.metadata["exercise"]
        before, solution = split_solution(cell.source, SOURCE)
        exec(f"{before}\n{solution}", names)
        assert check(name, names[name.partition(".")[2]]).right


def test_quiz():
    assert len(lesson.QUIZ) == 3
    assert all(0 <= question.right < len(question.answers) == 3 for question in lesson.QUIZ)


def test_the_librarys_streams_are_those_of_the_exercise():
    for role, name in enumerate(("evaluation", "calibration")):
        (generator,) = noise_generators(3, 5, 1, name)
        assert generator.initial_seed() == role << 31 | 3 << 20 | 5


def test_few_inputs_flatter_and_many_do_not():
    generator = torch.Generator().manual_seed(0)
    moments = torch.eye(3, dtype=torch.float64).expand(4, 3, 3)
    ups = torch.cartesian_prod(*[torch.arange(2.0, dtype=torch.float64)] * 3)
    d = ups - torch.rand(50, 1, 3, generator=generator, dtype=torch.float64)  # (50, 8, 3)
    best = d.square().sum(-1).amin(-1).mean().item()  # white inputs: nearest is best
    own, true = lesson.own_and_true(d, moments, 3, 40, generator)
    assert own < best < true
    own, true = lesson.own_and_true(d, moments, 5000, 4, generator)
    assert own == pytest.approx(best, rel=0.05) and best <= true <= 1.01 * best


# Figures


def test_strip_chart():
    label = figures.strip_chart({"uniform": torch.tensor([2, 2, 2, 2]), "last 1": torch.tensor([0, 0, 0, 8])})
    assert "Of 4 steps" in label.get_label()
    assert "last 1 8 inputs at 1 steps, of 4 to 4" in label.get_label()


def test_by_step_gives_means_over_nearest():
    errors = {"uniform": torch.tensor([1.0, 1.0]), "first 1": torch.tensor([2.0, 6.0])}
    figure = figures.by_step(errors, torch.tensor([2.0, 2.0]), "layer")
    assert "uniform 0.500; first 1 2.000" in figure.get_label()
    lines = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    assert list(lines["first 1"]) == [1, 3]


def test_coverage_names_the_worst():
    covered = {"a": torch.tensor([1.0, 0.9]), "b": torch.tensor([0.4, 1.0])}
    figure = figures.coverage(torch.tensor([0, 8]), covered, "last 1")
    assert figure.get_label() == "least at step 1, b: 40% of the range is covered"


def test_own_and_true_figure():
    label = figures.own_and_true([4, 64], [0.1, 0.5], [1.5, 0.6], 0.55, 0.7).get_label()
    assert "With 4 inputs the error looks like 0.1 and is 1.5; with 64" in label
    assert "best possible is 0.55, nearest has 0.7" in label


def test_one_step_figure():
    label = figures.one_step({"toy": torch.tensor([2.0, 1.0, 4.0])}).get_label()
    assert "toy 1.00 at step 2, up to 4.00 at step 3" in label


def test_recorded_rules():
    keys = ("rule", "share", "label", "trajectory_mse", "frechet")
    rows = [
        ("uniform", None, "uniform", 0.01, 3.0),
        ("single", None, "step 10 alone", 0.04, 5.0),
        ("last", 0.5, "last 50%", 0.02, 3.5),
        ("last", 0.1, "last 10%", 0.05, 6.0),
    ]
    data = dict(weights=4, activations=8, n=128, samples=256, floor=0.8)
    figure = figures.recorded_rules({**data, "rows": [dict(zip(keys, row, strict=True)) for row in rows]})
    assert "last 10% 0.05 and 6; Floor" not in figure.get_label()
    assert "uniform 0.01 and 3; step 10 alone 0.04 and 5" in figure.get_label()
    assert "Floor of the distance: 0.8" in figure.get_label()
    last = next(line for line in figure.axes[0].lines if line.get_label() == "last steps")
    assert list(last.get_xdata()) == [10, 50] and list(last.get_ydata()) == [0.05, 0.02]
