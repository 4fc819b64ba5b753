"""Calls of answers in another process, without a sandbox: what goes in, what comes out, what is lost."""

import time

import psutil
import pytest
import torch
from handed_in import codes, make_notebook, solutions

from qdiff_lib.course.checks import Raised
from qdiff_lib.course.exercises.lesson_04 import make_half
from qdiff_lib.course.grading.codec import encode
from qdiff_lib.course.grading.remote import Ended, Remote, start
from qdiff_lib.course.grading.verdicts import Desk, Rules
from qdiff_lib.utils.sandbox import Sandbox
from tools.expansion import lesson_names

pytestmark = pytest.mark.slow
HERE = Sandbox("none")


@pytest.fixture(scope="module")
def process():
    started = start(HERE, 30)
    yield started
    started.stop()


@pytest.fixture
def called(process):
    """Returns a function that gives the remote function which some code defines as ``answer``."""

    def defined(code: str) -> Remote:
        deadline = time.monotonic() + 30
        begin = {"exercise": "00.answer", "candidate": 0, "cells": [code], "course_answers": []}
        said = process.exchange(encode({"begin": begin}), deadline)
        assert said["callable"], said
        return Remote(process, deadline)

    return defined


def test_the_process_ends_with_the_grader_while_an_answer_sleeps():
    started = start(HERE, 30)
    running = psutil.Process(started.running.process.pid)
    cells = ["import time\ndef answer(x=time.sleep(1000)):\n    pass"]
    begin = {"exercise": "00.answer", "candidate": 0, "cells": cells, "course_answers": []}
    started.send(encode({"begin": begin}), time.monotonic() + 30)
    deadline = time.monotonic() + 30
    while not (sleeping := running.children()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    started.running.process.stdin.close()  # the system does so where the grader is killed
    try:
        assert not psutil.wait_procs([running, *sleeping], timeout=30)[1]
    finally:
        started.stop()


def test_values_of_many_kinds(called):
    back = called("def answer(x):\n    return x")
    for value in (None, True, 3, -0.5, "text", [1, "a"], (1, 2), {"a": [1.0]}):
        assert back(value) == value and type(back(value)) is type(value)
    for tensor in (torch.arange(6).reshape(2, 3).mT, torch.tensor(True), torch.zeros(0, dtype=torch.uint8)):
        found = back(tensor)
        assert found.dtype is tensor.dtype and torch.equal(found, tensor)


def test_named_tuples_arrive_with_their_names(called):
    half = make_half(torch.randn(2, 3), torch.randn(4, 3))
    found = called("def answer(h):\n    return h.x_codes.int() + h.x_zero.int(), type(h).__name__")(half)
    assert torch.equal(found[0], half.x_codes.int() + half.x_zero.int()) and found[1] == "Half"


def test_a_changed_argument_is_changed_here_too(called):
    x, items, generator = torch.zeros(2), [1, 2], torch.Generator().manual_seed(1)
    called("def answer(x, items, g):\n    x += 1\n    items.append(torch.randn(2, generator=g))")(
        x, items, generator
    )
    again = torch.Generator().manual_seed(1)
    assert x.tolist() == [1, 1] and torch.equal(items[2], torch.randn(2, generator=again))
    assert torch.equal(generator.get_state(), again.get_state())


@pytest.mark.parametrize("kind", [int, float, str])
def test_many_calls_at_once(called, kind):
    cases = [(kind(i), kind(i + 1)) for i in range(45_000)]
    found = called("def answer(a, b):\n    return a + b").many(cases)
    assert found == [a + b for a, b in cases] and {type(value) for value in found} == {kind}


def test_the_first_error_of_many_calls_is_raised(called):
    answer = called("def answer(a):\n    if a == 2:\n        raise KeyError('two')\n    return a")
    with pytest.raises(Raised) as caught:
        answer.many([(1,), (2,), (3,)])
    assert (caught.value.kind, caught.value.text) == ("KeyError", "'two'")


def test_a_process_that_ends_is_one_answer_lost(called):
    with pytest.raises(Ended):
        called("import os\ndef answer():\n    os._exit(0)")()
    assert called("def answer():\n    return 1")() == 1


def test_an_exercise_sees_nothing_that_another_left(called):
    assert called("import torch\ntorch.left = 1\ndef answer():\n    return torch.left")() == 1
    with pytest.raises(Raised, match="AttributeError"):
        called("import torch\ndef answer():\n    return torch.left")()


def test_a_long_cell_arrives_whole(called):
    assert called("x = '" + "y" * 50_000 + "'\ndef answer():\n    return len(x)")() == 50_000


def test_an_answer_has_bounds(called):
    answer = called("def answer(n):\n    return len(bytearray(n))")
    assert answer(2**20) == 2**20
    with pytest.raises(Raised, match="MemoryError"):
        answer(2**33)
    file = called(
        "def answer():\n    with open('qdiff-test-large', 'wb') as f:\n        f.write(bytes(2**27))"
    )
    with pytest.raises((Raised, Ended)):
        file()


@pytest.fixture(scope="module")
def judged():
    """Returns a function that judges an exercise of some cells; one process serves all tests."""
    desk = Desk((), Rules(), HERE)

    def verdict(cells, exercise: str, **rules) -> tuple[str, str]:
        desk.cells, desk.rules = cells, Rules(**rules)
        found = desk.verdict(exercise)
        return found.verdict, found.message

    yield verdict
    desk.close()


def test_the_seed_gives_other_numbers(judged):
    cells = ("def file_bytes(*a):\n    raise ValueError(a)",)
    said = [judged(cells, "00.file_bytes", seed=seed)[1] for seed in (0, 0, 7)]
    assert said[0] == said[1] != said[2] and "ValueError" in said[0]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.exhaustive) if name[:2] == "03" else name  # it takes longest
        for name in lesson_names()
    ],
)
def test_the_solutions_of_every_lesson_are_right_for_another_seed(judged, name):
    cells = codes(make_notebook(name, solutions(name)))
    found = {exercise: judged(cells, exercise, seed=4711) for exercise in solutions(name)}
    assert {verdict for verdict, _ in found.values()} == {"right"}, found


def test_the_last_definition_counts_where_that_above_the_check_never_ends(judged):
    endless = "def file_bytes(*a):\n    while True:\n        pass"
    right = "def file_bytes(a, b, c):\n    return -(-a * b // 8) + 8 * c"
    assert (
        judged((endless, 'check("00.file_bytes", file_bytes)', right), "00.file_bytes", seconds=3)[0]
        == "right"
    )


@pytest.mark.parametrize(
    "code, verdict, words",
    [
        ("file_bytes = [0 for _ in iter(int, 1)]", "error", "no answer in time (3 s)"),
        ("def file_bytes(*a)\n    return 1", "wrong", "the cell is not Python: expected ':'"),
        (
            "import nonesuch\ndef file_bytes(*a):\n    return nonesuch.x",
            "error",
            "'import nonesuch' ended with",
        ),
        ("file_bytes = 3", "wrong", "is no function, but of type int"),
        ("file_bytes = 1 / 0", "wrong", "raised ZeroDivisionError"),
        ("", "missing", "no cell defines file_bytes"),
    ],
)
def test_what_cannot_be_judged(judged, code, verdict, words):
    found = judged((code,), "00.file_bytes", seconds=3)
    assert found[0] == verdict and words in found[1], found
