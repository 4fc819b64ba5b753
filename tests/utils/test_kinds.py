"""Kinds of values: what they accept, how they read a word, and that both are the same value."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qdiff_lib.utils.kinds import Checked, Flag, Maybe, Number, OneOf, Pair, Patterns, Text, Whole, setting


@dataclass(frozen=True)
class Oven(Checked):
    """With one of each kind."""

    heat: float = setting(180.0, Number(0, 300), "Degrees Celsius.")
    trays: int = setting(1, Whole(0, 4), "How many.")
    fan: bool = setting(False, Flag(), "Whether it turns.")


@given(value=st.integers())
@settings(max_examples=50, derandomize=True)
def test_whole_accepts_what_lies_within_its_bounds(value):
    if 0 <= value <= 4:
        assert Oven(trays=value).trays == value
    else:
        with pytest.raises(ValueError, match=f"trays={value} must be an integer from 0 to 4"):
            Oven(trays=value)


@given(value=st.floats())
@settings(max_examples=50, derandomize=True)
def test_number_accepts_finite_ones_within_its_bounds(value):
    if 0 <= value <= 300:
        assert Oven(heat=value).heat == value
    else:
        with pytest.raises(ValueError, match="must be a number from 0 to 300"):
            Oven(heat=value)


@pytest.mark.parametrize(
    ("kind", "word", "value"),
    [
        (Whole(-3), "-2", -2),
        (Number(), "-1.5e3", -1500.0),
        (OneOf(("a", 4)), "4", 4),
        (OneOf(("a", 4)), "a", "a"),
        (Maybe(Whole(1)), "none", None),
        (Maybe(Whole(1)), "2", 2),
        (Maybe(OneOf(("a",)), "own"), "own", None),
        (Text(), "name", "name"),
    ],
)
def test_words(kind, word, value):
    assert kind.checked("it", kind.read(word)) == value


@pytest.mark.parametrize(
    ("kind", "word"), [(Whole(0), "1.0"), (Whole(0), ""), (Whole(0), "1_0"), (Number(), "x"), (Number(), "")]
)
def test_words_that_are_no_number(kind, word):
    with pytest.raises(ValueError):
        kind.read(word)


@pytest.mark.parametrize(
    ("kind", "value", "kept"),
    [
        (Number(), 3, 3.0),
        (Number(), np.float32(0.5), 0.5),
        (Whole(0), np.int8(3), 3),
        (Flag(), np.bool_(True), True),
        (Pair(Number()), [np.float64(1), 2], (1.0, 2.0)),
        (Patterns(), ["a", "b*"], ("a", "b*")),
        (OneOf((4, 8)), np.int64(8), 8),
        (Maybe(Number()), np.float64(2), 2.0),
    ],
)
def test_values_are_kept_as_plain_python(kind, value, kept):
    found = kind.checked("it", value)
    assert found == kept and type(found) is type(kept)


def test_the_zero_that_is_no_number_above_0():
    with pytest.raises(ValueError, match="it=0 must be a number above 0"):
        Number(0, zero=False).checked("it", 0)


def test_choices_of_another_type_are_refused():
    for value in (4.0, True, "4", None):
        with pytest.raises(ValueError, match="must be one of 1, 4"):
            OneOf((1, 4)).checked("it", value)
