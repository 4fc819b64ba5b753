"""Which statements of a notebook an answer gets: those before it, in any cell, and none after."""

import pytest
from handed_in import codes, make_notebook, solutions

from qdiff_lib.course.checks import check
from qdiff_lib.course.grading.slices import find_answers, run
from tools.expansion import lesson_names

BYTES, DOT = "00.file_bytes", "00.integer_dot"
L0, L1, L4 = "00_start_here", "01_error_accumulation", "04_shortcut_splitting"
RIGHT = "def file_bytes(count, bits, channels):\n    return math.ceil(count * bits / 8) + 8 * channels\n"
WRONG = "def file_bytes(count, bits, channels):\n    return count * bits\n"
MATH = "import math\n"
CHECK = 'check("00.file_bytes", file_bytes)'


def indented(code: str) -> str:
    return code.replace("\n    ", "\n        ")


def tabled(code: str) -> str:
    """The answer with a table of the bytes of each number of channels."""
    return code.replace("8 * channels", "T[channels]")


def verdict(cells, exercise: str) -> str:
    """The best verdict of the definitions that may count, in this process."""
    found = find_answers(list(cells), exercise)
    if found.missing:
        return "missing"
    said = ["wrong" if found.broken else ""]
    for candidate in found.candidates:
        namespace = {}
        run(candidate.needed, candidate.answer, namespace)
        said.append(check(exercise, namespace[exercise.partition(".")[2]]).verdict.value)
    return "right" if "right" in said else max(said[:2], key=len)


def lesson_0(code: str, below: tuple[str, ...] = ()) -> str:
    return verdict(codes(make_notebook(L0, {BYTES: code}, below=list(below))), BYTES)


@pytest.mark.parametrize(
    "code",
    [
        MATH + RIGHT,
        "import math as m\n" + RIGHT.replace("math.", "m."),
        "from math import *\n" + RIGHT.replace("math.", ""),
        MATH + "EACH = 4 + 4\n" + RIGHT.replace("8 * ch", "EACH * ch"),
        MATH
        + "half = lambda: 4\ndef each():\n    return 2 * half()\n"
        + RIGHT.replace("8 * ch", "each() * ch"),
        "file_bytes = lambda count, bits, channels: -(-count * bits // 8) + 8 * channels",
        MATH + WRONG + RIGHT,
        MATH + "%matplotlib inline\n!ls\nx = !ls\n" + RIGHT + "file_bytes?",
        "%%time\n" + MATH + RIGHT,
        "%%capture out\n%%time\n" + MATH + RIGHT,
        MATH + "if True:\n    " + indented(RIGHT),
        MATH + "try:\n    " + indented(RIGHT) + "except NameError:\n    pass",
        MATH + "import warnings\nwith warnings.catch_warnings():\n    " + indented(RIGHT),
        MATH
        + "try:\n    import nonesuch\nexcept ImportError:\n    EACH = 8\n"
        + RIGHT.replace("8 *", "EACH *"),
        MATH + "T = {}\nfor c in range(3000):\n    T[c] = 8 * c\n" + tabled(RIGHT),
        MATH + "T = []\nwhile len(T) < 3000:\n    T.append(8 * len(T))\n" + tabled(RIGHT),
        MATH
        + "T = {}\ndef fill(t):\n    t.update({c: 8 * c for c in range(3000)})\nfill(T)\n"
        + tabled(RIGHT),
        MATH + "from functools import cache\n" + RIGHT + "file_bytes = cache(file_bytes)",
        MATH + "class Bytes:\n    each = 8\n    def __call__(self, a, b, c):\n"
        "        return math.ceil(a * b / 8) + self.each * c\nfile_bytes = Bytes()",
        MATH + "raise_now = 1 / 0\n" + RIGHT,
        MATH + 'def file_bytes(count, bits, channels):\n    """\n    %what is this?\n    """\n'
        "    return math.ceil(count * bits / 8) + 8 * channels",
    ],
    ids="import as star constant helpers lambda twice magics time capture if try with import-or table list "
    "fill decorated class failed docstring".split(),
)
def test_right_answers_of_many_forms(code):
    assert lesson_0(code) == "right"


@pytest.mark.parametrize(
    "code, expected",
    [
        (WRONG, "wrong"),
        ("def file_bytes(count, bits, channels)\n    return 1\n", "wrong"),
        (RIGHT, "wrong"),  # without math
        ("file_bites = 1", "missing"),
        ("%%bash\necho file_bytes", "missing"),
    ],
)
def test_what_is_not_right(code, expected):
    assert lesson_0(code) == expected


@pytest.mark.parametrize("name", lesson_names())
def test_the_full_notebook_as_handed_out_attempts_nothing(name):
    from qdiff_lib.course.grading.notebooks import read_notebook
    from tools.expansion import ROOT

    notebook = read_notebook((ROOT / f"notebooks/{name}.ipynb").read_bytes(), name)
    assert notebook.lessons == (name[:2],)
    assert {verdict(notebook.cells, exercise) for exercise in solutions(name)} == {"not attempted"}


def test_helpers_may_have_the_names_of_later_cells():
    helper = "def step(factor, gain):\n    return factor**2, gain**2\n"
    body = (
        "import torch\ndef accumulated_variance(factors, gains, noise_variance):\n"
        "    variance, after = torch.zeros((), dtype=factors.dtype), []\n"
        "    for factor, gain in zip(factors, gains):\n"
        "        keep, add = step(factor, gain)\n"
        "        variance = keep * variance + add * noise_variance\n        after.append(variance)\n"
        "    return torch.stack(after)\n"
    )
    later = "def step(a, b, c, d):\n    raise ValueError\n"
    cells = codes(make_notebook(L1, {"01.accumulated_variance": helper + body}, below=[later]))
    assert verdict(cells, "01.accumulated_variance") == "right"


def test_a_list_may_have_the_name_of_a_later_function():
    code = (
        "parts = [2, 3]\n"
        "def split_quantize(x, sizes, bits):\n    assert len(parts) == 2\n"
        "    cut = x.split(sizes, 1)\n"
        "    return torch.cat([fake_quantize(p, *min_max(p, Grid(bits)), bits) for p in cut], 1)\n"
    )
    cells = codes(make_notebook(L4, {"04.split_quantize": code}, below=["def parts(layer):\n    return 1"]))
    assert verdict(cells, "04.split_quantize") == "right"


@pytest.mark.parametrize(
    "first", ["def split_quantize(x, sizes, bits)\n    return x", None], ids=["syntax", "left out"]
)
def test_an_exercise_needs_no_cell_of_another(first):
    second = solutions(L4)["04.shortcut_output"]
    cells = codes(make_notebook(L4, {"04.split_quantize": first, "04.shortcut_output": second}))
    assert verdict(cells, "04.shortcut_output") == "right"


def test_what_is_python_in_a_cell_with_a_mistake_counts():
    first = "from torch import Tensor\nEACH = 8\ndef integer_dot(a, b)\n    return 1"
    cells = codes(make_notebook(L0, {DOT: first}, below=[MATH + RIGHT.replace("8 *", "EACH *")]))
    assert verdict(cells, BYTES) == "right"


class TestWhichOneCounts:
    def test_an_old_try_below_the_check_does_not_count_against_it(self):
        assert lesson_0(MATH + RIGHT, below=(WRONG,)) == "right"

    def test_a_better_one_below_counts_though_no_check_follows(self):
        assert lesson_0(WRONG, below=(MATH + RIGHT,)) == "right"

    def test_the_last_one_above_the_last_check_counts(self):
        cells = [MATH + RIGHT, CHECK, WRONG, CHECK]
        found = find_answers(cells, BYTES)
        assert [each.answer.cell for each in found.candidates] == [2] and verdict(cells, BYTES) == "wrong"

    def test_a_stub_below_does_not_count(self):
        stub = codes(make_notebook(L0))
        assert verdict((MATH + RIGHT, *stub), BYTES) == "right"


class TestNothingAfter:
    def test_a_helper_below_the_check_is_not_there(self):
        helper = "def each():\n    return 8\n"
        code = MATH + RIGHT.replace("8 *", "each() *")
        assert verdict([code, helper, CHECK], BYTES) == "right"
        assert verdict([code, CHECK, helper], BYTES) == "wrong"

    def test_a_name_bound_again_below_keeps_its_value_above(self):
        code = MATH + "EACH = 8\n" + RIGHT.replace("8 *", "EACH *")
        assert verdict([code, CHECK, "EACH = 9"], BYTES) == "right"
        assert verdict([code, "EACH = 9", CHECK], BYTES) == "wrong"


def test_what_an_answer_does_not_need_is_not_run():
    loud = "open('/nonexistent/x')\nlist(1 / 0 for _ in 'a')\nunused = 1 / 0\nprint(file_bytes)\n"
    found = find_answers([MATH + loud + RIGHT], BYTES)
    assert [each.line for each in found.candidates[0].needed] == [
        "import math",
        "def file_bytes(count, bits, channels):",
    ]


def test_a_cell_nested_without_measure_is_no_harm():
    deep = "x = " + "(" * 50_000 + ")" * 50_000
    assert verdict([deep, MATH + RIGHT, "y = " + "-" * 30_000 + "1"], BYTES) == "right"
