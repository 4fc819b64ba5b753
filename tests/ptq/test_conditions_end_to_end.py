"""Quantizing networks with more conditions than time and text: all stages, resumed, saved, as a command."""

import functools
import json

import pytest
import torch
from diffusers import DiffusionPipeline
from latent_models import CONDITIONED, LATENT, PROMPTS, latent_consistency, stable_diffusion
from tiny_models import (
    CLASSES,
    SMALL,
    assert_same_tensors,
    conditional_unet,
    ddim,
    ddpm,
    output,
    random_inputs,
    snapshot,
    unet2d,
)

from qdiff_lib import Recipe, load, quantize, record, sample, save_quantized
from qdiff_lib.cli.main import main
from qdiff_lib.evaluation.layer_divergence import layer_divergences
from qdiff_lib.graph.cost import layer_costs
from qdiff_lib.modules.quant_layer import QuantLayer
from qdiff_lib.recipes.timestep_rules import Uniform

AFTER_UNITS = dict(network_iterations=2, bias_correction_images=3)
CONDITION_LAYERS = {
    "sdxl": ["add_embedding.linear_1", "add_embedding.linear_2"],
    "lcm": ["time_embedding.cond_proj"],
}


def often(name, *others):
    """The name as a test's parameter; ``others`` are exhaustive."""
    return pytest.param(name, marks=pytest.mark.exhaustive if name in others else ())


def recipe(method="qdiffusion", **changes):
    """A recipe of a few iterations, for the pipeline's own sampler."""
    bits = dict(weights=8, activations=8)
    return Recipe.named(method, **{**bits, **SMALL, "sampler": None, **changes})


@functools.cache
def made(name):
    """Name, pipeline, what it is asked, and its copy that all stages have quantized; do not change them."""
    make, asked = CONDITIONED[name]
    pipe = make()
    done = quantize(pipe, recipe(**AFTER_UNITS), progress=False, **asked)
    return name, pipe, asked, done


@pytest.fixture(params=[often(name, "ddim-classes") for name in CONDITIONED])
def pair(request):
    """What ``made`` gives."""
    return made(request.param)


def relative_error(full, quantized, inputs):
    """The mean squared error of a network's output, by that of zeros."""
    expected = output(full, inputs)
    return ((output(quantized, inputs) - expected).square().mean() / expected.square().mean()).item()


def test_every_stage_works(pair):
    name, pipe, asked, done = pair
    inputs = record(pipe, Uniform(1), 8, 4, seed=9, **asked)
    assert 0 < relative_error(pipe.unet, done.unet, inputs) < 0.05
    reports = done.unet.quantization.units
    assert [report.name for report in reports[-2:]] == ["network", "bias correction"]
    assert all(
        isinstance(done.unet.get_submodule(layer), QuantLayer) for layer in CONDITION_LAYERS.get(name, [])
    )
    assert done.unet.quantization.calibration.get("class_labels") == asked.get("class_labels")


def test_a_saved_network_draws_the_same(pair, tmp_path):
    _, _, asked, done = pair
    save_quantized(done, tmp_path)
    expected = sample(done, 3, 2, **asked).images
    for again in (load(tmp_path), DiffusionPipeline.from_pretrained(tmp_path)):
        assert type(again) is type(done)
        assert_same_tensors(snapshot(again.unet), snapshot(done.unet))
        assert torch.equal(sample(again, 3, 2, **asked).images, expected)


def test_layers_are_compared_and_counted(pair):
    _, pipe, asked, done = pair
    inputs = record(pipe, Uniform(2), 4, 4, **asked)
    assert layer_divergences(pipe.unet, done.unet, inputs, batch_size=3).values.isfinite().all()
    assert {cost.name for cost in layer_costs(pipe.unet)} > set(CONDITION_LAYERS.get(pair[0], []))


@pytest.mark.parametrize("name", CONDITIONED)
def test_with_many_bits_nothing_changes_on_the_recorded_inputs(name):
    """So every range was observed with the conditions of the calibration set."""
    make, asked = CONDITIONED[name]
    pipe, how = make(), recipe("linear", weights=16, activations=16)
    done = quantize(pipe, how, progress=False, **asked)
    inputs = record(pipe, how.calibration.rule, how.calibration.samples, how.calibration.steps, **asked)
    assert 0 < relative_error(pipe.unet, done.unet, inputs) < 1e-5


@pytest.mark.parametrize(
    "name", [often(name, "ddpm-classes", "ddim-classes", "class-times", "sdxl") for name in CONDITIONED]
)
def test_a_killed_run_goes_on_to_the_same_bits(name, tmp_path):
    def kill(report):
        if report.index == 2:
            raise KeyboardInterrupt

    (_, pipe, asked, done), how = made(name), recipe(**AFTER_UNITS)
    expected = snapshot(done.unet)
    with pytest.raises(KeyboardInterrupt):
        quantize(pipe, how, work=tmp_path, callback=kill, progress=False, **asked)
    again = quantize(pipe, how, work=tmp_path, resume=True, progress=False, **asked)
    assert_same_tensors(snapshot(again.unet), expected)


def test_a_run_is_not_resumed_with_other_labels(tmp_path):
    def kill(report):
        raise KeyboardInterrupt

    pipe = ddim(unet2d(**CLASSES))
    with pytest.raises(KeyboardInterrupt):
        quantize(pipe, recipe(), work=tmp_path, callback=kill, progress=False, class_labels=[0, 1])
    with pytest.raises(ValueError, match=r"class_labels: \[0, 1\] there, \[0, 2\] here"):
        quantize(pipe, recipe(), work=tmp_path, resume=True, progress=False, class_labels=[0, 2])


def test_labels_are_learned_from():
    """Two runs on the same noise that differ in their labels alone end with different codes or scales."""
    pipe = ddim(unet2d(**CLASSES))
    one, two = (
        snapshot(quantize(pipe, recipe("linear"), progress=False, class_labels=labels).unet)
        for labels in ([0], [1])
    )
    assert any(not torch.equal(one[name], two[name]) for name in one)


def test_labels_beside_a_calibration_set_are_refused():
    pipe = ddpm(unet2d(**CLASSES))
    with pytest.raises(ValueError, match=r"class_labels=\[0\]: leave them out, as the calibration set has"):
        quantize(pipe, recipe(), random_inputs(pipe.unet), class_labels=[0])


def test_missing_labels_are_refused_before_the_work(tmp_path):
    for work in (None, tmp_path):
        with pytest.raises(ValueError, match="give class_labels="):
            quantize(ddpm(unet2d(**CLASSES)), recipe(), work=work, progress=False)


def test_bias_correction_needs_the_labels_of_the_calibration_set():
    pipe = ddpm(unet2d(**CLASSES))
    with pytest.raises(ValueError, match="bias_correction_images=3 are drawn from class labels"):
        quantize(pipe, recipe(**AFTER_UNITS), random_inputs(pipe.unet), progress=False)


def test_a_sampler_that_the_pipeline_cannot_use_is_refused():
    with pytest.raises(ValueError, match="sampler='ddim': LatentConsistencyModelPipeline draws with its own"):
        quantize(latent_consistency(), recipe(sampler="ddim"), prompts=PROMPTS, progress=False)


def test_texts_may_have_another_length_than_those_of_stable_diffusion():
    """A projection of the text is a unit, whose outputs are cached: here 16 tokens, not 77."""
    pipe = stable_diffusion(conditional_unet(**LATENT, encoder_hid_dim=12, encoder_hid_dim_type="text_proj"))
    done = quantize(pipe, recipe(sampler="ddim"), prompts=PROMPTS, progress=False)
    units = {unit.name: unit for unit in done.unet.quantization.trace.units}
    assert units["encoder_hid_proj"].shape == (16, 12)


COMMANDS = {
    "ddpm-classes": (["--class-labels", "2", "0"], []),
    "sdxl": (["--prompt", "flag", "--prompt", "dog"], []),
    "lcm": (["--prompt", "flag", "--prompt", "dog"], ["--sampler", "own"]),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_line(name, tmp_path, capsys):
    given, sampler = COMMANDS[name]
    original, made = str(tmp_path / "original"), tmp_path / "made"
    CONDITIONED[name][0]().save_pretrained(original)
    short = ["--samples", "4", "--steps", "2", "--device", "cpu"]
    how = ["--method", "linear", "--weights", "8", *short, *sampler, *given]
    assert main(["quantize", "--model", original, "--out", str(made), *how]) == 0
    recorded = json.loads((made / "report.json").read_text())["calibration"]
    assert recorded.get("class_labels", recorded.get("prompts")) in ([2, 0], ["flag", "dog"])
    assert main(["quantize", "--model", original, "--out", str(made), *how, "--resume"]) == 0
    drawn = ["--steps", "2", "--n", "3", "--device", "cpu", *sampler]
    given = [word.replace("dog", "cat").replace("flag", "hat") for word in given]
    picture, scores = tmp_path / "drawn.png", tmp_path / "scores.json"
    assert main(["sample", "--model", str(made), "--out", str(picture), *drawn, *given]) == 0
    evaluated = ["evaluate", "--model", str(made), "--original", original, "--out", str(scores)]
    assert main([*evaluated, *drawn, *given]) == 0
    assert picture.exists() and json.loads(scores.read_text())["last_step_mse"] > 0


def test_the_command_line_names_what_is_missing(tmp_path, capsys):
    for name in ("ddpm-classes", "lcm"):
        CONDITIONED[name][0]().save_pretrained(tmp_path / name)
    words = {"ddpm-classes": ([], "--class-labels 0 1"), "lcm": (["--prompt", "flag"], "--sampler own")}
    for name, (given, expected) in words.items():
        model, out = str(tmp_path / name), str(tmp_path / "out")
        assert main(["quantize", "--model", model, "--out", out, "--device", "cpu", *given]) == 2
        assert expected in capsys.readouterr().err
