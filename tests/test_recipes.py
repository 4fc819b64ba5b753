"""Recipes as values: their numbers, their JSON form, and what they refuse."""

import dataclasses
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qdiff_lib.calibration import RULES, First, Last, Middle, Normal, Single, Uniform
from qdiff_lib.grid import ALLOWED_BITS, FLOAT_BITS
from qdiff_lib.ranges import RANGES
from qdiff_lib.recipes import EXTRAS, METHODS, PROFILES, Recipe, profile_numbers

bits = st.sampled_from([*ALLOWED_BITS, FLOAT_BITS])
counts = st.integers(1, 10**6)
names = st.lists(st.text(max_size=8), max_size=3).map(tuple)
shares = st.floats(0, 1)
rules = st.one_of(
    st.builds(Uniform, st.none() | st.integers(1, 100)),
    *(st.builds(rule, st.integers(0, 1000)) for rule in (Single, First, Middle, Last)),
    st.builds(Normal, shares, shares),
)
recipes = st.builds(
    Recipe,
    method=st.sampled_from(METHODS),
    weights=bits,
    activations=bits,
    softmax_bits=st.none() | st.sampled_from(ALLOWED_BITS),
    edge_bits=st.none() | bits,
    symmetric_activations=st.booleans(),
    quantize_attention=st.booleans(),
    weight_range=st.sampled_from([*RANGES]),
    activation_range=st.sampled_from([*RANGES]),
    rounding=st.sampled_from(["nearest", "squant", "adaround"]),
    split=st.booleans(),
    include=names,
    exclude=names,
    rule=rules,
    steps=counts,
    sampler=st.none() | st.just("ddim"),
    eta=shares,
    guidance=st.floats(0, 20),
    samples=counts,
    iterations=counts,
    step_iterations=counts,
    batch_size=counts,
    lr=shares,
    lr_steps=shares,
    regularization=shares,
    beta=st.tuples(st.floats(2, 30), st.floats(2, 30)),
    warmup=shares,
    seed=st.integers(0, 2**31),
)


@given(recipe=recipes)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_json_round_trip(recipe):
    back = Recipe.from_dict(json.loads(json.dumps(recipe.to_dict())))
    assert back == recipe
    assert hash(back) == hash(recipe)


def test_dictionary_has_every_field():
    assert set(Recipe().to_dict()) == {field.name for field in dataclasses.fields(Recipe)}
    assert Recipe().to_dict()["rule"] == {"name": "uniform", "interval": None}


LINEAR = dict(method="linear", rounding="nearest", split=False, weight_range="min_max")
CHANGED = {
    "linear": {**LINEAR, "symmetric_activations": True},
    "squant": {**LINEAR, "symmetric_activations": True, "method": "squant", "rounding": "squant"},
    "ptq4dm": dict(
        method="ptq4dm",
        rounding="nearest",
        split=False,
        activation_range="mse_search",
        quantize_attention=False,
        rule=Normal(0.4, 0.4),
    ),
    "qdiffusion": EXTRAS,
}  # from Recipe's defaults


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("profile", PROFILES)
def test_profile_sets_its_numbers_and_nothing_else(method, profile):
    recipe = Recipe.named(method, weights=3, activations=6, profile=profile)
    changed = {} if (method, profile) == ("qdiffusion", "paper") else CHANGED[method]
    assert recipe == Recipe(**{**PROFILES[profile], **changed, "weights": 3, "activations": 6})
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_profiles_change_numbers_only():
    numbers = {"steps", "samples", "iterations", "step_iterations", "batch_size", "lr", "lr_steps"}
    numbers |= {"network_iterations", "bias_correction_images", "regularization", "beta"}
    for profile, values in PROFILES.items():
        assert profile_numbers(profile) == values
        assert set(values) <= numbers


@pytest.mark.parametrize("method", METHODS)
def test_paper_profile_has_the_papers_numbers(method):
    # The column of CIFAR-10: 20 of 100 DDIM steps with 256 inputs each, 20,000 iterations a unit, 5,000 for
    # the step sizes, batches of 32, learning rates 1e-3 and 4e-4, regularizer 0.01, beta 20 to 2 after 20 %.
    recipe = Recipe.named(method, profile="paper")
    assert (recipe.sampler, recipe.steps, recipe.samples) == ("ddim", 100, 20 * 256)
    if method != "ptq4dm":  # which draws from all steps
        assert recipe.rule == Uniform() and len(recipe.rule.chosen(recipe.steps)) == 20
    assert (recipe.iterations, recipe.step_iterations, recipe.batch_size) == (20_000, 5_000, 32)
    assert (recipe.lr, recipe.lr_steps, recipe.regularization) == (1e-3, 4e-4, 0.01)
    assert (recipe.beta, recipe.warmup) == ((20, 2), 0.2)
    assert (recipe.weights, recipe.activations, recipe.softmax_bits) == (4, 8, None)
    assert recipe.activation_range == ("mse_search" if method == "ptq4dm" else "min_max")


def test_ranges_are_those_of_lsun_for_qdiffusion_and_min_max_for_linear():
    linear, qdiffusion = Recipe.linear(), Recipe.qdiffusion()
    assert (linear.weight_range, linear.symmetric_activations) == ("min_max", True)
    assert (qdiffusion.weight_range, qdiffusion.symmetric_activations) == ("mse_search", False)


@pytest.mark.parametrize(
    "method, rounding, split, attention",
    [
        ("linear", "nearest", False, True),
        ("squant", "squant", False, True),
        ("ptq4dm", "nearest", False, False),
        ("qdiffusion", "adaround", True, True),
    ],
)
def test_the_methods(method, rounding, split, attention):
    recipe = Recipe.named(method)
    assert (recipe.method, recipe.rounding, recipe.split) == (method, rounding, split)
    assert recipe.quantize_attention == attention


def test_ptq4dm_calibrates_more_on_the_clean_half_but_on_every_part():
    counts = Recipe.ptq4dm().rule.counts(20, 2000, torch.Generator().manual_seed(0))
    assert counts[10:].sum() > counts[:10].sum() and counts.min() > 0


@pytest.mark.parametrize("method", METHODS)
def test_changes_come_last(method):
    changes = dict(split=True, rounding="nearest", iterations=7, rule=Middle(3), method="mine")
    recipe = getattr(Recipe, method)(profile="gpu", **changes)
    assert {name: getattr(recipe, name) for name in changes} == changes


def test_recipe_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Recipe().weights = 8


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("weights", 1, "2, 3, 4, 5, 6, 7, 8, 16, 32"),
        ("weights", "4", "2, 3, 4, 5, 6, 7, 8, 16, 32"),
        ("weights", None, "2, 3, 4, 5, 6, 7, 8, 16, 32"),
        ("activations", 12, "2, 3, 4, 5, 6, 7, 8, 16, 32"),
        ("eta", 1.5, "from 0 to 1"),
        ("softmax_bits", 0, "None, 2, 3, 4, 5, 6, 7, 8, 16"),
        ("softmax_bits", 32, "2, 3, 4, 5, 6, 7, 8, 16"),
        ("edge_bits", 9, "None, 2, 3, 4, 5, 6, 7, 8, 16, 32"),
        ("weight_range", "mse", "'min_max', 'mse_search', 'percentile'"),
        ("activation_range", "max", "'min_max', 'mse_search', 'percentile'"),
        ("rounding", "up", "'nearest', 'squant', 'adaround'"),
        ("steps", 0, "at least 1"),
        ("samples", -5, "at least 1"),
        ("iterations", 0, "at least 1"),
        ("step_iterations", -1, "at least 0"),
        ("batch_size", 0, "at least 1"),
    ],
)
def test_wrong_value_is_named_with_what_is_allowed(field, value, allowed):
    with pytest.raises(ValueError) as error:
        Recipe(**{field: value})
    assert f"{field}={value!r} " in str(error.value)
    assert allowed in str(error.value)
    with pytest.raises(ValueError):
        dataclasses.replace(Recipe(), **{field: value})


@pytest.mark.parametrize("field", ["include", "exclude"])
def test_patterns_are_a_tuple(field):
    with pytest.raises(TypeError, match=f"{field}='mid_block' must be a tuple of patterns"):
        Recipe(**{field: "mid_block"})


def test_unknown_method():
    with pytest.raises(ValueError, match="method='named' is unknown; use one of .'linear', .*'qdiffusion'."):
        Recipe.named("named")


@pytest.mark.parametrize("method", METHODS)
def test_unknown_profile(method):
    with pytest.raises(ValueError, match="profile='huge' is unknown.*'tiny', 'laptop', 'gpu', 'paper'"):
        Recipe.named(method, profile="huge")


def test_unknown_field():
    with pytest.raises(TypeError, match="bits"):
        Recipe.qdiffusion(bits=4)
    with pytest.raises(TypeError, match="bits"):
        Recipe.from_dict({**Recipe().to_dict(), "bits": 4})


def test_every_rule_is_tried_here():
    assert set(RULES.values()) == {Uniform, Single, First, Middle, Last, Normal}
