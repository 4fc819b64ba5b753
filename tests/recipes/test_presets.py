"""The paper's four models: their numbers, their networks at full size, and narrow ones of the same kind."""

from collections import Counter

import pytest
import torch
from diffusers import AutoencoderKL, DDPMPipeline, DDPMScheduler, VQModel
from latent_models import PROMPTS, WIDTH, first_stage, latent_diffusion, seeded, stable_diffusion
from tiny_models import SMALL

from qdiff_lib import load, quantize, sample, save_quantized, with_sampler
from qdiff_lib.graph.cost import bops, layer_costs, parameter_count
from qdiff_lib.graph.model_inputs import example_inputs
from qdiff_lib.graph.networks import build
from qdiff_lib.graph.tracing import trace
from qdiff_lib.modules.quant_layer import quant_layers
from qdiff_lib.recipes.presets import PRESETS, preset_of
from qdiff_lib.recipes.recipe import EXTRAS, METHODS, PROFILES
from qdiff_lib.recipes.timestep_rules import Normal, Uniform

# Sampler, steps, eta, interval, samples, batch; ranges of weights and activations, symmetric; softmax, split.
PAPER = {
    "ddpm-cifar10": ("ddim-quadratic", 100, 0.0, 5, 5120, 32, "min_max", "min_max", True, 8, True),
    "ldm4-bedrooms": ("ddim", 200, 1.0, 10, 5120, 32, "mse_search", "min_max", True, 8, False),
    "ldm8-churches": ("ddim", 400, 0.0, 20, 5120, 32, "mse_search", "mse_search", False, 8, False),
    "sd-v1.4": ("plms", 50, 0.0, 2, 6400, 8, "mse_search", "mse_search", False, 16, True),
}


@pytest.mark.parametrize("name", PRESETS)
def test_the_papers_numbers(name):
    recipe = PRESETS[name].recipe()
    found = (
        recipe.calibration.sampler,
        recipe.calibration.steps,
        recipe.calibration.eta,
        recipe.calibration.rule.interval,
        recipe.calibration.samples,
        recipe.rounding.batch_size,
    )
    found += (
        recipe.rounding.weight_range,
        recipe.step_sizes.activation_range,
        recipe.grids.symmetric_activations,
    )
    assert (*found, recipe.grids.softmax_bits, recipe.grids.split) == PAPER[name]
    assert (recipe.grids.weights, recipe.grids.activations, recipe.calibration.guidance) == (4, 8, 7.5)
    assert (recipe.rounding.iterations, recipe.step_sizes.step_size_iterations) == (20_000, 5_000)
    assert (
        recipe.rounding.rounding_start == "fraction"
        and not recipe.rounding.learn_affine
        and recipe.grids.edge_bits is None
    )
    steps = len(recipe.calibration.rule.chosen(recipe.calibration.steps))
    assert steps * {"sd-v1.4": 2 * 128}.get(name, 256) == recipe.calibration.samples


@pytest.mark.parametrize("name", PRESETS)
def test_large_networks_are_not_trained_as_a_whole(name):
    small = MILLIONS[name] < 100
    recipe = PRESETS[name].recipe(profile="laptop")
    assert (
        (recipe.whole_network.network_iterations > 0)
        == (recipe.bias_correction.bias_correction_images > 0)
        == small
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", PRESETS)
def test_other_methods_keep_the_sampler_and_the_softmax(name, method):
    recipe = PRESETS[name].recipe(method, 8, 6, profile="tiny", seed=3)
    assert (recipe.method, recipe.grids.weights, recipe.grids.activations, recipe.seed) == (method, 8, 6, 3)
    assert (recipe.calibration.sampler, recipe.calibration.eta) == (PAPER[name][0], PAPER[name][2])
    assert recipe.grids.softmax_bits == PAPER[name][9]
    assert (
        recipe.calibration.steps == PROFILES["tiny"]["steps"]
        and recipe.calibration.samples == PROFILES["tiny"]["samples"]
    )
    rules = {"ptq4dm": Normal(0.4, 0.4), "qdiffusion": EXTRAS["rule"]}
    assert recipe.calibration.rule == rules.get(method, Uniform())
    assert recipe.grids.split == (PAPER[name][10] and method == "qdiffusion")
    assert (recipe.rounding.rounding_start == EXTRAS["rounding_start"]) == (method == "qdiffusion")
    assert PRESETS[name].recipe("ptq4dm").calibration.rule == Normal(0.4, 0.4)


def test_preset_of_a_hub_name():
    assert preset_of("CompVis/stable-diffusion-v1-4") == "sd-v1.4"
    assert preset_of("google/ddpm-cifar10-32") == "ddpm-cifar10"
    assert preset_of("ddpm-fashion") is None and preset_of("") is None


# At full size, on the meta device

UNITS = {  # residual blocks, transformer blocks, attention blocks, single layers; concat splits
    "ddpm-cifar10": (22, 0, 6, 10, 12),
    "ldm4-bedrooms": (22, 0, 16, 10, 12),
    "ldm8-churches": (35, 0, 21, 4, 15),
    "sd-v1.4": (22, 16, 0, 42, 12),
}
MILLIONS = {"ddpm-cifar10": 35.746, "ldm4-bedrooms": 274.056, "ldm8-churches": 294.967, "sd-v1.4": 859.521}
TERA_BOPS_W4A8 = {"ddpm-cifar10": 0.398, "ldm4-bedrooms": 6.48, "ldm8-churches": 1.34, "sd-v1.4": 25.7}


@pytest.fixture(scope="module", params=PRESETS)
def full_size(request):
    unet = build(PRESETS[request.param].unet, device="meta")
    return request.param, unet, trace(unet, example_inputs(unet, device="meta"))


def test_units_at_full_size(full_size):
    name, unet, found = full_size
    kinds = Counter(type(unet.get_submodule(unit.name)).__name__ for unit in found.units)
    single = kinds["Conv2d"] + kinds["Linear"]
    blocks = [kinds[k] for k in ("ResnetBlock2D", "BasicTransformerBlock", "Attention")]
    assert (*blocks, single, len(found.concat_splits)) == UNITS[name]
    assert sum(blocks) + single == len(found.units)
    paths = [unit.name.partition("_blocks.")[0] for unit in found.units if "_block" in unit.name]
    order = [path.partition("_")[0] for path in paths]
    assert order == sorted(order, key=["down", "mid", "up"].index) and found.units[-1].name == "conv_out"


def test_costs_at_full_size(full_size):
    name, unet, found = full_size
    assert parameter_count(unet) / 1e6 == pytest.approx(MILLIONS[name], abs=5e-4)
    costs = layer_costs(unet)
    assert bops(costs, 4, 8) / 1e12 == pytest.approx(TERA_BOPS_W4A8[name], rel=5e-3)
    layers = [cost.name for cost in costs if cost.kind != "attention"]
    assert [layer for unit in found.units for layer in unit.layers] == layers


# The same architectures, of as many layers but narrow, as the hub would give them

NARROW = {
    "ddpm-cifar10": dict(block_out_channels=(8, 16, 16, 16), sample_size=8),
    "ldm4-bedrooms": dict(block_out_channels=(8, 16, 24, 32), attention_head_dim=4, sample_size=8),
    "ldm8-churches": dict(
        block_out_channels=(8, 16, 16, 32, 32),
        attention_head_dim=8,
        attn_norm_num_groups=4,
        _heads=2,
        sample_size=16,
    ),
    "sd-v1.4": dict(
        block_out_channels=(8, 16, 24, 24), attention_head_dim=2, cross_attention_dim=WIDTH, sample_size=8
    ),
}


def narrow_pipeline(name):
    unet = seeded(lambda: build({**PRESETS[name].unet, **NARROW[name], "norm_num_groups": 4}))
    if name == "sd-v1.4":
        return stable_diffusion(unet)
    if name == "ddpm-cifar10":
        return DDPMPipeline(unet=unet, scheduler=DDPMScheduler())
    pipe = latent_diffusion(unet)
    channels = unet.config.in_channels
    kind, options = (VQModel, dict(num_vq_embeddings=16)) if channels == 3 else (AutoencoderKL, {})
    pipe.register_modules(vqvae=first_stage(kind, latent_channels=channels, **options))
    return pipe


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.exhaustive if n.startswith("ldm8") else ()) for n in PRESETS],
)
def test_a_narrow_model_is_loaded_quantized_and_sampled(name, tmp_path):
    narrow_pipeline(name).save_pretrained(tmp_path / "model")
    pipe = load(tmp_path / "model")
    assert type(pipe.unet).__name__ == PRESETS[name].unet["_class_name"]
    attentions = [module for key, module in pipe.unet.named_modules() if key.endswith("attentions.0")]
    assert name != "ldm8-churches" or {module.heads for module in attentions} == {2}
    prompts = PROMPTS if name == "sd-v1.4" else None
    recipe = PRESETS[name].recipe(**{**SMALL, "iterations": 1, "step_size_iterations": 1}, rule=Uniform(2))
    quantized = quantize(pipe, recipe, prompts=prompts, progress=False)
    found = quantized.unet.quantization.trace
    assert (len(found.units), len(found.concat_splits)) == (sum(UNITS[name][:-1]), UNITS[name][-1])
    assert len(quant_layers(quantized.unet)) == sum(len(unit.layers) for unit in found.units)
    drawn = {}
    save_quantized(quantized, tmp_path / "packed")
    for label, model in {"fp": pipe, "q": quantized, "packed": load(tmp_path / "packed")}.items():
        sampler = with_sampler(model, recipe.calibration.sampler)
        drawn[label] = sample(sampler, 2, 4, prompts=prompts, eta=recipe.calibration.eta).images
    assert torch.equal(drawn["packed"], drawn["q"]) and not torch.equal(drawn["q"], drawn["fp"])
