"""Time-step rules as values: their words, their JSON form, what they refuse. Counts: test_record.py."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qdiff_lib.recipes.timestep_rules import (
    EXAMPLES,
    First,
    Last,
    Middle,
    Normal,
    Single,
    TimestepRule,
    Uniform,
    rule_from_dict,
    rule_to_dict,
)

numbers = st.floats(0, 1)
rules = st.one_of(
    st.builds(Uniform, st.none() | st.integers(1, 100)),
    st.builds(Single, st.integers(0, 1000)),
    *(st.builds(rule, st.integers(1, 1000)) for rule in (First, Middle, Last)),
    st.builds(Normal, numbers, numbers),
)


@given(rule=rules)
@settings(max_examples=50, deadline=None, derandomize=True)
def test_rules_survive_json_and_the_command_line(rule):
    form = json.loads(json.dumps(rule_to_dict(rule)))
    assert rule_from_dict(form) == rule
    name = form.pop("name")
    words = ",".join(map(str, form.values())).replace("None", "none")
    assert TimestepRule().read(f"{name}:{words}") == rule


def test_numbers_that_have_a_default_can_be_left_out():
    read = TimestepRule().read
    assert (read("uniform"), read("normal"), read("normal:0.3")) == (Uniform(), Normal(), Normal(0.3))


def test_the_examples_are_rules():
    found = [TimestepRule().read(word) for word in EXAMPLES.replace(" or ", ", ").split(", ")]
    assert {type(rule) for rule in found} == {Uniform, Single, First, Middle, Last, Normal}


@pytest.mark.parametrize(
    "word",
    ["uniform:0", "uniform:1,2", "uniform:x", "every", "first", "single:-1", "normal:2", "normal:nan", ""],
)
def test_words_that_are_no_rule(word):
    with pytest.raises((ValueError, TypeError)):
        TimestepRule().read(word)


@pytest.mark.parametrize(
    ("rule", "value", "message"),
    [
        *(
            (Uniform, value, f"interval={value} must be an integer of at least 1, or None")
            for value in (0, -1)
        ),
        (Single, -1, "step=-1 must be an integer of at least 0"),
        *((rule, 0, "n=0 must be an integer of at least 1") for rule in (First, Middle, Last)),
        (Normal, 1.5, "mean=1.5 must be a number from 0 to 1"),
    ],
)
def test_numbers_that_no_trajectory_has(rule, value, message):
    with pytest.raises(ValueError, match=message):
        rule(value)


@pytest.mark.parametrize("rule", [Uniform, Single, First, Middle, Last])
@pytest.mark.parametrize("value", [2.0, True, "2"])
def test_steps_are_integers(rule, value):
    with pytest.raises(TypeError, match="must be an integer"):
        rule(value)


def test_an_unknown_name_in_json():
    with pytest.raises(ValueError, match="'every' is unknown; use one of .'uniform', 'single'"):
        rule_from_dict({"name": "every"})
