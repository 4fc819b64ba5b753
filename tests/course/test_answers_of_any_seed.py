"""Every seed of a check judges alike, and answers made for one seed do not pass another."""

import pytest
from solutions import CELLS, RIGHT, WRONG, solution

from qdiff_lib.course.checks import Verdict, check

SEEDS = [0, 1, 2**31, 2**64 + 1]
MORE_SEEDS = [2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987, 1597, 2584]
SHARED = 4  # each answer of the longest checks sees one seed in four
LONGEST = ("03.stream_number", "07.learn_rounding")
LESSONS = ("01", "06")  # of ``make test``: checks of real numbers and of whole ones
each_exercise = pytest.mark.parametrize("name", CELLS)


@pytest.mark.slow
@pytest.mark.parametrize(
    "seeds", [SEEDS, pytest.param(MORE_SEEDS, marks=pytest.mark.exhaustive)], ids=["some", "more"]
)
@pytest.mark.parametrize(
    "name",
    [name if name[:2] in LESSONS else pytest.param(name, marks=pytest.mark.exhaustive) for name in CELLS],
)
def test_right_and_wrong_answers_of_all_seeds(name, seeds):
    every = SHARED if name in LONGEST else 1
    right, wrong = [solution(name), *RIGHT[name]], [answer for answer, _ in WRONG[name]]
    for number, seed in enumerate(seeds):
        for i, answer in enumerate(right):
            if i % every == number % every:
                outcome = check(name, answer, seed)
                assert outcome.right, (seed, i, outcome)
        for i, answer in enumerate(wrong):
            if i % every == number % every:
                outcome = check(name, answer, seed)
                assert outcome.verdict is Verdict.WRONG, (seed, WRONG[name][i][1], outcome)


class Recorder:
    """Remembers what a function returns for each call, and plays it back."""

    def __init__(self, function):
        self.function, self.results, self.playing = function, [], None

    def __call__(self, *arguments):
        if self.playing is not None:
            return next(self.playing)
        self.results.append(self.function(*arguments))
        return self.results[-1]

    def play(self):
        self.playing = iter(self.results)
        return self


@each_exercise
def test_results_of_the_public_check_fail_another_seed(name):
    recorder = Recorder(solution(name))
    assert check(name, recorder).right
    assert check(name, recorder.play()).right, "the same seed asks the same"
    assert not check(name, recorder.play(), seed=4711).right


@each_exercise
def test_a_seed_always_gives_the_same_inputs(name):
    asked = [[], []]
    for calls in asked:

        def answer(*arguments, calls=calls):
            calls.append(str(arguments))
            return solution(name)(*arguments) if len(calls) < 4 else None

        check(name, answer, seed=3)
    assert [str(call).partition("Generator")[0] for call in asked[0]] == [
        str(call).partition("Generator")[0] for call in asked[1]
    ]
