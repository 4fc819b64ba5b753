"""Every field of a recipe can be set on the command line, and what is not given stays."""

import dataclasses

import pytest
from tiny_models import ONE_LEVEL, ddim, unet2d

from qdiff_lib import Recipe, quantize
from qdiff_lib.cli import arguments, main
from qdiff_lib.cli.recipe_arguments import given_fields
from qdiff_lib.recipes.presets import PRESETS
from qdiff_lib.recipes.recipe import LEARNING, PART_OF, PARTS, PROFILES
from qdiff_lib.recipes.timestep_rules import Normal, Uniform

QUANTIZE = ["quantize", "--model", "ddpm-fashion", "--out", "new"]
WORDS = {
    "weights": ("3", 3),
    "activations": ("6", 6),
    "softmax_bits": ("16", 16),
    "edge_bits": ("16", 16),
    "symmetric_activations": (None, True),
    "quantize_attention": (None, False),
    "split": (None, False),
    "include": ("mid_block.* conv_in", ("mid_block.*", "conv_in")),
    "exclude": ("conv_out", ("conv_out",)),
    "rule": ("normal:0.3,0.1", Normal(0.3, 0.1)),
    "steps": ("7", 7),
    "sampler": ("plms", "plms"),
    "eta": ("0.5", 0.5),
    "guidance": ("3", 3.0),
    "samples": ("64", 64),
    "cache_bits": ("16", 16),
    "weight_range": ("percentile", "percentile"),
    "weight_rounding": ("nearest", "nearest"),
    "rounding_start": ("fraction", "fraction"),
    "learn_affine": (None, False),
    "second_pass": (None, True),
    "iterations": ("10", 10),
    "batch_size": ("8", 8),
    "lr": ("1e-2", 0.01),
    "regularization": ("0.5", 0.5),
    "beta": ("9 3", (9.0, 3.0)),
    "warmup": ("0.1", 0.1),
    "activation_range": ("mse_search", "mse_search"),
    "step_size_iterations": ("0", 0),
    "lr_step_sizes": ("2e-4", 2e-4),
    "network_iterations": ("5", 5),
    "lr_network": ("0.25", 0.25),
    "lr_codes": ("0", 0.0),
    "bias_correction_images": ("3", 3),
}
"""A word for each field, and the value that it means: another one than that of the profile "tiny"."""


def argv_of(name: str) -> list[str]:
    word, value = WORDS[name]
    flag = name.replace("_", "-")
    return [f"--{flag}" if value else f"--no-{flag}"] if word is None else [f"--{flag}", *word.split()]


def recipe_of(*argv: str) -> Recipe:
    return main.recipe_of(arguments.build_parser(main.COMMANDS).parse_args([*QUANTIZE, *argv]))


@pytest.mark.parametrize(
    "name", [field.name for part in PARTS.values() for field in dataclasses.fields(part)]
)
def test_every_field_can_be_set(name):
    value, usual = WORDS[name][1], Recipe.qdiffusion()
    assert usual.flat()[name] != value
    assert recipe_of(*argv_of(name)) == usual.replace(**{name: value})


def test_all_fields_together():
    names = [
        name for name in PART_OF if name != "weight_rounding"
    ]  # another one than AdaRound learns nothing
    argv = [word for name in names for word in argv_of(name)]
    expected = Recipe.qdiffusion(seed=3, **{name: WORDS[name][1] for name in names})
    assert recipe_of(*argv, "--seed", "3") == expected


@pytest.mark.parametrize("name", LEARNING)
def test_a_field_of_learning_is_refused_where_nothing_is_learned(name, capsys):
    for plain in (["--method", "linear"], ["--weight-rounding", "nearest"]):
        assert main.main([*QUANTIZE, *plain, *argv_of(name)]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1
        assert f"--{name.replace('_', '-')} has no effect, as this recipe learns nothing" in err
    learned = recipe_of("--method", "linear", "--weight-rounding", "adaround", *argv_of(name))
    assert learned.flat()[name] == WORDS[name][1]


def test_these_fields_and_no_others_change_nothing_where_nothing_is_learned():
    """The rest decides ranges, codes or the calibration set; the guidance does so where there is a text."""
    pipe, plain = ddim(unet2d(**ONE_LEVEL)), Recipe.linear(profile="tiny", steps=4, samples=4)
    codes = {name: state(quantize(pipe, recipe, progress=False)) for name, recipe in changed(plain).items()}
    same = {name for name, found in codes.items() if found == codes[None]}
    assert same == {None, "guidance", *LEARNING}


def changed(recipe: Recipe) -> dict:
    """The recipe, and for each field the recipe with another value of it."""
    values = {name: value for name, (_, value) in WORDS.items()}
    values |= dict(symmetric_activations=False, split=True, include=("mid_block.*",))
    values |= dict(weight_range="mse_search", weight_rounding="squant")
    values |= dict(learn_affine=True, rounding_start="gptq")
    del values["sampler"]  # DDIMPipeline has one only
    return {None: recipe} | {name: recipe.replace(**{name: value}) for name, value in values.items()}


def state(pipe) -> dict:
    return {name: tensor.tolist() for name, tensor in pipe.unet.state_dict().items()}


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("method", ["linear", "qdiffusion"])
def test_what_is_not_given_is_that_of_the_profile(method, profile):
    expected = Recipe.named(method, profile=profile, samples=64)
    assert recipe_of("--method", method, "--profile", profile, "--samples", "64") == expected


def test_what_is_not_given_is_that_of_the_preset():
    found = recipe_of("--preset", "sd-v1.4", "--profile", "paper", "--batch-size", "4")
    assert found == PRESETS["sd-v1.4"].recipe(batch_size=4)
    assert recipe_of("--preset", "sd-v1.4", "--rule", "uniform").calibration.rule == Uniform()


@pytest.mark.parametrize(
    ("argv", "name", "value"),
    [
        (["--preset", "sd-v1.4", "--softmax-bits", "none"], "softmax_bits", None),
        (["--sampler", "own"], "sampler", None),
        (["--exclude"], "exclude", ()),
    ],
)
def test_none_and_nothing_can_be_given(argv, name, value):
    assert recipe_of(*argv).flat()[name] == value


@pytest.mark.parametrize(
    ("argv", "value", "allowed"),
    [
        (["--samples", "0"], "'0'", "an integer from 1 to "),
        (["--samples", "1e3"], "'1e3'", "an integer from 1 to "),
        (["--iterations", "ten"], "'ten'", "an integer from 1 to "),
        (["--step-size-iterations", "-1"], "'-1'", "an integer from 0 to "),
        (["--lr", "nan"], "'nan'", "a number above 0"),
        (["--lr", "-1"], "'-1'", "a number above 0"),
        (["--regularization", "inf"], "'inf'", "a number of at least 0"),
        (["--warmup", "1.1"], "'1.1'", "a number from 0 to 1"),
        (["--beta", "8", "nan"], "'nan'", "a number above 0"),
        (["--beta", "8"], "--beta", "expected 2 arguments"),
        (["--softmax-bits", "32"], "'32'", "one of 2, 3, 4, 5, 6, 7, 8, 16, or none"),
        (["--weight-range", "mse"], "'mse'", "'min_max', 'mse_search', 'percentile'"),
        (["--weight-rounding", "up"], "'up'", "'nearest', 'squant', 'adaround'"),
        (["--sampler", "heun"], "'heun'", "'dpm++', or own"),
        (["--rule", "every:2"], "'every:2'", "a rule such as uniform, uniform:5"),
        (["--rule", "uniform:0"], "'uniform:0'", "a rule such as uniform, uniform:5"),
    ],
)
def test_a_wrong_word_is_one_line(argv, value, allowed, capsys):
    with pytest.raises(SystemExit) as stop:
        main.main([*QUANTIZE, *argv])
    out, err = capsys.readouterr()
    assert (stop.value.code, out, err.count("\n")) == (2, "", 1)
    assert value in err and allowed in err


def test_help_has_every_field_once_with_its_words(capsys):
    with pytest.raises(SystemExit):
        main.main(["quantize", "--help"])
    shown = capsys.readouterr().out
    listed = shown.split("\noptions:\n")[1].split("\nexample:\n")[0]
    text = " ".join(listed.split())
    for name, part in PART_OF.items():
        lines = [line for line in listed.splitlines() if line.startswith(f"  --{name.replace('_', '-')}")]
        assert [line.split()[0].strip(",") for line in lines].count(f"--{name.replace('_', '-')}") == 1, name
        assert f"\n{part.replace('_', ' ')}:\n" in shown
    own = {"weights", "activations", "edge_bits", "guidance"}  # these have words of their own
    for part in PARTS.values():
        for field in dataclasses.fields(part):
            assert field.name in own or "".join(field.metadata["text"].split()) in text.replace(" ", ""), (
                field.name
            )


def test_given_fields_are_those_on_the_command_line():
    args = arguments.build_parser(main.COMMANDS).parse_args([*QUANTIZE, "--beta", "8", "1"])
    always = {"weights", "activations", "edge_bits", "guidance"}
    assert set(given_fields(args)) - always == {"beta"}
