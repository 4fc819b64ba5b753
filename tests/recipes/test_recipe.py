"""Recipes as values: their numbers, where a field belongs, their JSON form, and what they refuse."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import qdiff_lib
from qdiff_lib.calibration.record import draw_counts
from qdiff_lib.quantizers.range_finders import RANGES
from qdiff_lib.recipes.parts import RANGE_FINDERS, ROUNDINGS, SAMPLERS
from qdiff_lib.recipes.recipe import EXTRAS, METHODS, PART_OF, PARTS, PROFILES, Recipe, profile_numbers
from qdiff_lib.recipes.timestep_rules import RULES, First, Last, Middle, Normal, Single, Uniform
from qdiff_lib.utils.constants import (
    ALLOWED_BITS,
    FLOAT_BITS,
    LAST_SEED,
    MOST_GUIDANCE,
    MOST_INPUTS,
    MOST_ITERATIONS,
)

bits = st.sampled_from([*ALLOWED_BITS, FLOAT_BITS])
counts = st.integers(1, MOST_INPUTS)
shares = st.floats(0, 1)
rates = st.floats(1e-30, 1e3)
names = st.lists(st.text(max_size=8), max_size=3).map(tuple)
ranges = st.sampled_from([*RANGES])
rules = st.one_of(
    st.builds(Uniform, st.none() | st.integers(1, 100)),
    st.builds(Single, st.integers(0, 1000)),
    *(st.builds(rule, st.integers(1, 1000)) for rule in (First, Middle, Last)),
    st.builds(Normal, shares, shares),
)
VALUES = dict(
    method=st.sampled_from(METHODS),
    weights=bits,
    activations=bits,
    softmax_bits=st.none() | st.sampled_from(ALLOWED_BITS),
    edge_bits=st.none() | bits,
    symmetric_activations=st.booleans(),
    quantize_attention=st.booleans(),
    split=st.booleans(),
    include=names,
    exclude=names,
    rule=rules,
    steps=counts,
    sampler=st.none() | st.sampled_from(SAMPLERS),
    eta=shares,
    guidance=st.floats(0, 20),
    samples=counts,
    weight_range=ranges,
    weight_rounding=st.sampled_from(["nearest", "squant", "adaround"]),
    rounding_start=st.sampled_from(["fraction", "gptq"]),
    learn_affine=st.booleans(),
    cache_bits=st.sampled_from([16, 32]),
    second_pass=st.booleans(),
    iterations=counts,
    batch_size=counts,
    lr=rates,
    regularization=rates,
    beta=st.tuples(st.floats(0.5, 30), st.floats(0.5, 30)),
    warmup=shares,
    activation_range=ranges,
    step_size_iterations=st.integers(0, 10**6),
    lr_step_sizes=rates,
    network_iterations=st.integers(0, 10**6),
    lr_network=rates,
    lr_codes=rates,
    bias_correction_images=st.integers(0, MOST_INPUTS),
    seed=st.integers(0, LAST_SEED),
)
changes = st.fixed_dictionaries({}, optional=VALUES)


def test_every_field_is_tried_here():
    assert set(VALUES) == {"method", *PART_OF, "seed"}
    assert set(RULES.values()) == {Uniform, Single, First, Middle, Last, Normal}


def test_no_two_parts_have_a_field_of_the_same_name():
    found = [field.name for kind in PARTS.values() for field in dataclasses.fields(kind)]
    assert len(found) == len(set(found)) and not set(found) & {
        field.name for field in dataclasses.fields(Recipe)
    }


@given(values=changes)
@settings(max_examples=50, deadline=None, derandomize=True)
def test_fields_go_to_their_part_and_others_stay(values):
    recipe = Recipe().replace(**values)
    assert recipe.flat() == {**Recipe().flat(), **values}
    for name, value in values.items():
        holder = getattr(recipe, PART_OF[name]) if name in PART_OF else recipe
        assert getattr(holder, name) == value
    assert Recipe().replace(**recipe.flat()) == recipe


@given(values=changes)
@settings(max_examples=50, deadline=None, derandomize=True)
def test_json_round_trip(values):
    recipe = Recipe().replace(**values)
    back = Recipe.from_dict(json.loads(json.dumps(recipe.to_dict())))
    assert back == recipe
    assert hash(back) == hash(recipe)


def test_the_json_form_has_every_part_and_field():
    form = Recipe().to_dict()
    assert list(form) == ["method", *PARTS, "seed"]
    assert {name: part for part in PARTS for name in form[part]} == PART_OF
    assert form["calibration"]["rule"] == {"name": "uniform", "interval": None}


def test_a_json_form_without_parts_is_refused():
    with pytest.raises(ValueError, match="lacks .'grids'.*earlier version"):
        Recipe.from_dict({"method": "linear", "weights": 4})


LINEAR = dict(method="linear", weight_rounding="nearest", split=False, weight_range="min_max")
CHANGED = {
    "linear": {**LINEAR, "symmetric_activations": True},
    "squant": {**LINEAR, "symmetric_activations": True, "method": "squant", "weight_rounding": "squant"},
    "ptq4dm": dict(
        method="ptq4dm",
        weight_rounding="nearest",
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
    assert recipe == Recipe().replace(**{**PROFILES[profile], **changed, "weights": 3, "activations": 6})
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_profiles_change_numbers_only():
    numbers = {"steps", "samples", "iterations", "step_size_iterations", "batch_size", "lr", "lr_step_sizes"}
    numbers |= {"network_iterations", "bias_correction_images", "regularization", "beta"}
    for profile, values in PROFILES.items():
        assert profile_numbers(profile) == values
        assert set(values) - {"second_pass"} <= numbers  # the order of the paper's code


@pytest.mark.parametrize("method", METHODS)
def test_paper_profile_has_the_papers_numbers(method):
    # The column of CIFAR-10: 20 of 100 DDIM steps with 256 inputs each, 20,000 iterations a unit, 5,000 for
    # the step sizes, batches of 32, learning rates 1e-3 and 4e-4, regularizer 0.01, beta 20 to 2 after 20 %.
    recipe = Recipe.named(method, profile="paper")
    assert (recipe.calibration.sampler, recipe.calibration.steps, recipe.calibration.samples) == (
        "ddim",
        100,
        20 * 256,
    )
    if method != "ptq4dm":  # which draws from all steps
        assert (
            recipe.calibration.rule == Uniform()
            and len(recipe.calibration.rule.chosen(recipe.calibration.steps)) == 20
        )
    assert (
        recipe.rounding.iterations,
        recipe.step_sizes.step_size_iterations,
        recipe.rounding.batch_size,
    ) == (20_000, 5_000, 32)
    assert (recipe.rounding.lr, recipe.step_sizes.lr_step_sizes, recipe.rounding.regularization) == (
        1e-3,
        4e-4,
        0.01,
    )
    assert (recipe.rounding.beta, recipe.rounding.warmup) == ((20, 2), 0.2)
    assert (recipe.grids.weights, recipe.grids.activations, recipe.grids.softmax_bits) == (4, 8, None)
    assert recipe.step_sizes.activation_range == ("mse_search" if method == "ptq4dm" else "min_max")


def test_ranges_are_those_of_lsun_for_qdiffusion_and_min_max_for_linear():
    linear, qdiffusion = Recipe.linear(), Recipe.qdiffusion()
    assert (linear.rounding.weight_range, linear.grids.symmetric_activations) == ("min_max", True)
    assert (qdiffusion.rounding.weight_range, qdiffusion.grids.symmetric_activations) == ("mse_search", False)


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
    assert (recipe.method, recipe.rounding.weight_rounding, recipe.grids.split) == (method, rounding, split)
    assert recipe.grids.quantize_attention == attention


def test_ptq4dm_calibrates_more_on_the_clean_half_but_on_every_part():
    counts = draw_counts(Recipe.ptq4dm().calibration.rule, 20, 2000, torch.Generator().manual_seed(0))
    assert counts[10:].sum() > counts[:10].sum() and counts.min() > 0


@pytest.mark.parametrize("method", METHODS)
def test_changes_come_last(method):
    changes = dict(split=True, weight_rounding="nearest", iterations=7, rule=Middle(3), method="mine")
    recipe = getattr(Recipe, method)(profile="gpu", **changes)
    assert {name: recipe.flat()[name] for name in changes} == changes


def test_recipes_and_parts_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Recipe().seed = 8
    with pytest.raises(dataclasses.FrozenInstanceError):
        Recipe().grids.weights = 8


WIDTHS = "2, 3, 4, 5, 6, 7, 8, 16, 32"


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        *(("weights", value, WIDTHS) for value in (1, "4", None, True, 4.0, np.int64(9))),
        ("activations", 12, WIDTHS),
        ("softmax_bits", 0, "2, 3, 4, 5, 6, 7, 8, 16, or None"),
        ("softmax_bits", 32, "2, 3, 4, 5, 6, 7, 8, 16, or None"),
        ("edge_bits", 9, f"{WIDTHS}, or None"),
        ("weight_range", "mse", "'min_max', 'mse_search', 'percentile'"),
        ("activation_range", "max", "'min_max', 'mse_search', 'percentile'"),
        ("weight_rounding", "up", "'nearest', 'squant', 'adaround'"),
        ("rounding_start", "code", "'fraction', 'gptq'"),
        ("sampler", "heun", "'ddim', 'ddim-quadratic', 'plms', 'dpm++', or None"),
        ("steps", 0, "at least 1"),
        *(
            (field, value, f"from 1 to {MOST_INPUTS}")
            for field in ("samples", "batch_size")
            for value in (-5, 0, MOST_INPUTS + 1, 10**400)
        ),
        *(("iterations", value, f"from 1 to {MOST_ITERATIONS}") for value in (0, MOST_ITERATIONS + 1)),
        *(
            (field, value, f"from 0 to {MOST_ITERATIONS}")
            for field in ("step_size_iterations", "network_iterations")
            for value in (-1, MOST_ITERATIONS + 1)
        ),
        *(("bias_correction_images", value, f"from 0 to {MOST_INPUTS}") for value in (-1, MOST_INPUTS + 1)),
        *(
            (field, value, "from 0 to 1")
            for field in ("eta", "warmup")
            for value in (1.5, -0.1, float("nan"))
        ),
        *(
            (field, value, "of at least 0")
            for field in ("lr_network", "lr_codes", "regularization")
            for value in (-1e-3, float("nan"), float("inf"))
        ),
        *(
            (field, value, "above 0")
            for field in ("lr", "lr_step_sizes")
            for value in (0, -1e-3, float("nan"), float("inf"))
        ),
        *(("guidance", float(value), f"from 0 to {MOST_GUIDANCE}") for value in ("nan", "inf", "-1", "1e38")),
        *(
            ("beta", value, "a pair, each a number above 0")
            for value in ((float("nan"), 1.0), (8, float("inf")), (8, 0), (8,), (8, 4, 1))
        ),
        ("seed", LAST_SEED + 1, f"from 0 to {LAST_SEED}"),
        ("seed", -1, f"from 0 to {LAST_SEED}"),
        ("method", "", "a string that is not empty"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(field, value, allowed):
    with pytest.raises(ValueError) as error:
        Recipe.qdiffusion(**{field: value})
    assert f"{field}={value!r} must be " in str(error.value)
    assert allowed in str(error.value)


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        *(("samples", value, "an integer") for value in (True, 64.0, "64", None, np.True_, np.float32(2))),
        *(("lr", value, "a number") for value in (True, "1e-3", None, 1j)),
        *(("split", value, "True or False") for value in (1, 0, "no", None)),
        *(("beta", value, "a pair") for value in (8, "8 1", (True, 1.0), ("8", 1.0))),
        ("include", "mid_block", "a tuple of patterns"),
        ("exclude", (1,), "a tuple of patterns"),
        ("rule", "uniform:5", "Uniform(5)"),
        ("rule", Uniform, "Uniform(5)"),
        ("seed", 1.0, "an integer"),
        ("method", 1, "a string"),
    ],
)
def test_a_wrong_type_is_named_with_what_is_allowed(field, value, allowed):
    with pytest.raises(TypeError) as error:
        Recipe.qdiffusion(**{field: value})
    assert f"{field}={value!r} must be " in str(error.value)
    assert allowed in str(error.value)


def test_numbers_of_numpy_become_pythons():
    values = dict(samples=np.int32(64), lr=np.float64(0.5), weights=np.uint8(4), split=np.bool_(False))
    values |= dict(beta=[np.float64(8.0), 1], warmup=np.int64(1), rule=Uniform(np.int64(2)))
    recipe = Recipe().replace(**values)
    expected = dict(samples=64, lr=0.5, weights=4, split=False, beta=(8.0, 1.0), warmup=1.0, rule=Uniform(2))
    assert recipe == Recipe().replace(**expected)
    kept = {name: recipe.flat()[name] for name in values}
    assert {name: type(value) for name, value in kept.items()} == {k: type(v) for k, v in expected.items()}
    assert type(kept["rule"].interval) is int and [type(each) for each in kept["beta"]] == [float, float]
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


@pytest.mark.parametrize("part", PARTS)
def test_a_part_must_be_one(part):
    with pytest.raises(TypeError, match=f"{part}=4 must be a {PARTS[part].__name__}"):
        Recipe(**{part: 4})


def test_unknown_method():
    with pytest.raises(ValueError, match="method='named' is unknown; use one of .'linear', .*'qdiffusion'."):
        Recipe.named("named")


@pytest.mark.parametrize("method", METHODS)
def test_unknown_profile(method):
    with pytest.raises(ValueError, match="profile='huge' is unknown.*'tiny', 'laptop', 'gpu', 'paper'"):
        Recipe.named(method, profile="huge")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("sampels", "did you mean 'samples'"),
        ("wieghts", "did you mean 'weights'"),
        ("step_iterations", "did you mean 'step_size_iterations'"),
        ("rounding", "its fields are weight_range, weight_rounding"),
    ],
)
@pytest.mark.parametrize("make", [Recipe.linear, Recipe.qdiffusion, Recipe().replace])
def test_an_unknown_field_is_answered_with_the_nearest(make, name, hint):
    with pytest.raises(TypeError, match=f"a recipe has no field '{name}'.*{hint}"):
        make(**{name: 4})


def test_a_name_that_is_near_to_none():
    with pytest.raises(TypeError, match="a recipe has no field 'qqq'$"):
        Recipe().replace(qqq=4)


@pytest.mark.parametrize("where", ["grids", None])
def test_unknown_fields_of_the_json_form(where):
    form = Recipe().to_dict()
    (form[where] if where else form)["bits"] = 4
    with pytest.raises(TypeError, match="bits"):
        Recipe.from_dict(form)


def test_the_names_are_those_of_the_library():
    from qdiff_lib.diffusion import schedulers
    from qdiff_lib.quantizers import rounding

    assert set(RANGE_FINDERS.choices) == set(RANGES)
    assert set(ROUNDINGS.choices) == {*rounding.ROUNDINGS, "adaround"}
    assert set(SAMPLERS) == set(schedulers.SAMPLERS)


def test_recipes_need_no_torch():
    code = "import sys, qdiff_lib as q; q.Recipe.qdiffusion(); print([m in sys.modules for m in %r])"
    root = Path(qdiff_lib.__file__).parents[1]
    program = [sys.executable, "-c", code % (("torch", "diffusers", "numpy"),)]
    ended = subprocess.run(program, capture_output=True, text=True, cwd=root, check=True)
    assert ended.stdout.strip() == "[False, False, False]"
