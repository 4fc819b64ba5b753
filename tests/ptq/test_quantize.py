"""``quantize``: the same pipeline class at every width, for every scheduler, and the original untouched."""

import json

import diffusers
import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from tiny_models import (
    SMALL,
    TRAINED_STEPS,
    assert_same_tensors,
    conditional_unet,
    ddim,
    ddpm,
    output,
    random_inputs,
    snapshot,
    unet2d,
)

from qdiff_lib import Recipe, quantize, sample
from qdiff_lib.diffusion.pipelines import with_components
from qdiff_lib.graph.cost import layer_bits_of, layer_costs
from qdiff_lib.modules.activation_quantizer import activation_quantizers
from qdiff_lib.modules.attention import QuantAttention
from qdiff_lib.modules.quant_layer import QuantLayer, quant_layers
from qdiff_lib.recipes.recipe import METHODS

BITS = [(8, 32), (4, 32), (8, 8), (4, 8), (6, 6), (32, 8)]
OFTEN = [(4, 32), (6, 6), (32, 8)]
WIDTHS = [
    pytest.param(*bits, id="W{}A{}".format(*bits), marks=() if bits in OFTEN else pytest.mark.exhaustive)
    for bits in BITS
]


def small(method, weights, activations, **changes):
    return Recipe.named(method, weights=weights, activations=activations, **{**SMALL, **changes})


@pytest.fixture(scope="module")
def pair():
    """A pipeline and its quantized copy; do not change either."""
    pipe = ddpm()
    return pipe, quantize(pipe, small("qdiffusion", 4, 8), progress=False)


def check_weights(unet, bits):
    layers = quant_layers(unet)
    assert layers
    for layer in layers:
        if bits == 32:
            assert layer.weight_grid is None and layer.weight_scale is None
            continue
        for part in layer.weight_parts():
            assert max(len(channel.unique()) for channel in part) <= 2**bits


def check_activations(unet, bits):
    quantizers = activation_quantizers(unet)
    assert bool(quantizers) == (bits != 32)
    assert all(q.grid.bits == bits for layer in quant_layers(unet) for q in layer.inputs)
    for quantizer in quantizers:
        assert quantizer.scale > 0 and quantizer.log_scale is None and quantizer.observer is None


@pytest.mark.parametrize("weights, activations", WIDTHS)
@pytest.mark.parametrize(
    "method",
    ["linear", "squant", "ptq4dm", pytest.param("qdiffusion", marks=pytest.mark.slow)],
)
def test_every_width_works(method, weights, activations):
    pipe = ddpm()
    quantized = quantize(pipe, small(method, weights, activations), progress=False)
    assert type(quantized) is type(pipe)
    check_weights(quantized.unet, weights)
    check_activations(quantized.unet, activations)
    inputs = random_inputs(pipe.unet)
    predicted, noise = output(quantized.unet, inputs), output(pipe.unet, inputs)
    assert predicted.isfinite().all() and not torch.equal(predicted, noise)
    assert not [name for name, module in quantized.unet.named_modules() if module.training]


def test_more_bits_are_closer():
    pipe = ddpm()
    inputs = random_inputs(pipe.unet, 8)
    noise = output(pipe.unet, inputs)
    errors = [
        (output(quantize(pipe, small("linear", bits, bits), inputs, progress=False).unet, inputs) - noise)
        .square()
        .mean()
        for bits in (3, 4, 6, 8)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.01 * noise.square().mean()


@pytest.mark.parametrize("method", METHODS)
def test_the_original_is_untouched(method):
    pipe = ddpm()
    before, types = snapshot(pipe.unet), [type(m) for m in pipe.unet.modules()]
    components = dict(pipe.components)
    quantized = quantize(pipe, small(method, 4, 8), progress=False)
    assert_same_tensors(snapshot(pipe.unet), before)
    assert [type(m) for m in pipe.unet.modules()] == types
    assert not [name for name, p in pipe.unet.named_parameters() if p.grad is not None]
    assert all(p.requires_grad for p in pipe.unet.parameters())
    assert not [m for m in pipe.unet.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert pipe.components == components and quantized.unet is not pipe.unet
    assert quantized.scheduler is pipe.scheduler


SCHEDULERS = {
    "DDIM": ("DDIMPipeline", "DDIMScheduler", {}),
    "DDPM": ("DDPMPipeline", "DDPMScheduler", {}),
    "DPMSolverMultistep": ("DDPMPipeline", "DPMSolverMultistepScheduler", {}),
    "Euler": ("DDPMPipeline", "EulerDiscreteScheduler", {}),
    "PNDM": ("PNDMPipeline", "PNDMScheduler", {"skip_prk_steps": True}),
}


@pytest.mark.parametrize("pipeline, scheduler, options", SCHEDULERS.values(), ids=SCHEDULERS.keys())
def test_schedulers_work_unchanged(pair, pipeline, scheduler, options):
    made = getattr(diffusers, scheduler)(num_train_timesteps=TRAINED_STEPS, **options)
    images = []
    for pipe in pair:
        other = getattr(diffusers, pipeline)(unet=pipe.unet, scheduler=made)
        other.set_progress_bar_config(disable=True)
        images.append(sample(other, 2, 3).images)
        assert type(other.scheduler) is type(made)
    assert images[1].shape == (2, 1, 8, 8)
    assert not torch.equal(*images)


@torch.no_grad()
def test_unipc_works_in_a_loop_of_ones_own(pair):
    """No unconditional pipeline of diffusers accepts this scheduler: they pass a generator to its step."""
    results = []
    for pipe in pair:
        scheduler = diffusers.UniPCMultistepScheduler(num_train_timesteps=TRAINED_STEPS)
        scheduler.set_timesteps(3)
        x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        for t in scheduler.timesteps:
            x = scheduler.step(pipe.unet(scheduler.scale_model_input(x, t), t).sample, t, x).prev_sample
        results.append(x)
    assert results[1].isfinite().all() and not torch.equal(*results)


def test_a_quantized_pipeline_samples_reproducibly(pair):
    first, second = (sample(pair[1], 3, 3, batch_size=2).images for _ in range(2))
    assert torch.equal(first, second)


def test_conditional_networks_are_quantized():
    unet = conditional_unet()
    inputs = random_inputs(unet, 8)
    pipe = with_components(ddpm(), unet=unet)
    quantized = quantize(pipe, small("qdiffusion", 8, 8), inputs, progress=False).unet
    difference = (output(quantized, inputs) - output(unet, inputs)).square().mean()
    assert 0 < difference < 0.05 * output(unet, inputs).square().mean()


def test_the_recorded_set_is_that_of_the_recipe(pair):
    """Recording inside of ``quantize`` and giving the same recorded set come to the same bits."""
    from qdiff_lib import record, with_sampler

    pipe, quantized = pair
    recipe = quantized.unet.quantization.recipe
    how = recipe.calibration
    inputs = record(with_sampler(pipe, how.sampler), how.rule, how.samples, how.steps, recipe.seed)
    assert_same_tensors(
        snapshot(quantize(pipe, recipe, inputs, progress=False).unet), snapshot(quantized.unet)
    )


def test_the_report_is_json(pair):
    _, quantized = pair
    about = quantized.unet.quantization
    report = json.loads(json.dumps(about.report()))
    assert Recipe.from_dict(report["recipe"]) == about.recipe
    assert [unit["name"] for unit in report["units"]] == [unit.name for unit in about.trace.units]
    assert report["concat_splits"]["up_blocks.1.resnets.1.conv_shortcut"] == [8, 8]
    assert report["seconds"] >= sum(unit["seconds"] for unit in report["units"]) > 0
    assert all(unit["error"] >= 0 for unit in report["units"])
    count = len(about.units)
    assert repr(about) == f"<Quantization: qdiffusion W4A8, {count} units and stages; report() has the rest>"


def test_a_report_without_reconstruction_has_no_units():
    report = quantize(ddpm(), small("linear", 8, 8), progress=False).unet.quantization.report()
    assert report["units"] == [] and json.dumps(report)


def test_the_callback_gets_every_unit_in_order():
    seen = []
    recipe = small("qdiffusion", 8, 32, iterations=1)
    quantized = quantize(ddim(), recipe, progress=False, callback=seen.append)
    assert [report.index for report in seen] == list(range(len(seen)))
    assert seen == quantized.unet.quantization.units


@pytest.mark.parametrize("method", METHODS)
def test_a_recipe_that_fits_nothing_is_refused(method):
    with pytest.raises(ValueError, match="matches no layer"):
        quantize(ddim(), small(method, 4, 8, include=("nothing",)), progress=False)


def test_nearest_ranges_cover_every_calibration_input():
    """The outlier is in the last row, of the second batch."""
    pipe = ddim()
    inputs = random_inputs(pipe.unet, 70)
    inputs.inputs["sample"][69] *= 50
    unet = quantize(pipe, small("linear", 8, 8), inputs, progress=False).unet
    largest = inputs.inputs["sample"].abs().max().item()
    assert unet.conv_in.inputs[0].scale.item() == pytest.approx(largest / 127.5, rel=0.01)


def test_squant_flips_roundings_of_linear_and_nothing_else():
    pipe = ddpm()
    inputs = random_inputs(pipe.unet)
    recipes = [small(method, 4, 8) for method in ("linear", "squant")]
    linear, squant = (snapshot(quantize(pipe, r, inputs, progress=False).unet) for r in recipes)
    changed = {name for name in linear if not torch.equal(linear[name], squant[name])}
    assert changed and all(name.endswith(".codes") for name in changed)


def test_ptq4dm_leaves_attention_products_in_floating_point():
    pipe = ddpm()
    unet = quantize(pipe, small("ptq4dm", 4, 8), progress=False).unet
    attention = "down_blocks.1.attentions.0"
    assert not isinstance(unet.get_submodule(attention), QuantAttention)
    weights, activations = layer_bits_of(unet, layer_costs(pipe.unet))
    assert (weights[attention], activations[attention]) == (4, 32)
    assert activations[f"{attention}.to_q"] == 8


def test_layer_bits_of():
    unet = unet2d()
    costs = layer_costs(unet)
    recipe = small("linear", 4, 6, edge_bits=8, exclude=("time_embedding.*", "mid_block.attentions.0"))
    quantized = quantize(ddpm(unet), recipe, random_inputs(unet), progress=False).unet
    weights, activations = layer_bits_of(quantized, costs)
    names = {name for name, module in quantized.named_modules() if isinstance(module, QuantLayer)}
    attentions = {cost.name for cost in costs if cost.kind == "attention"}
    assert weights.keys() == activations.keys() == names | attentions - {"mid_block.attentions.0"}
    assert not [name for name in weights if name.startswith("time_embedding")]
    assert (weights["conv_in"], activations["conv_in"]) == (8, 8)
    assert (weights["mid_block.resnets.0.conv1"], activations["mid_block.resnets.0.conv1"]) == (4, 6)
    assert activations["down_blocks.1.attentions.0"] == 6


def test_quantized_model_is_not_quantized_again(pair):
    with pytest.raises(ValueError, match="quantized already; quantize the full-precision one"):
        quantize(pair[1], small("linear", 8, 8))


def test_half_precision_is_refused_with_the_fix():
    with pytest.raises(ValueError, match=r"in torch\.float16; calibrate in float32: pipe\.to"):
        quantize(ddpm().to(torch.float16), small("linear", 8, 8))


def test_prompts_beside_a_calibration_set_are_refused():
    pipe = ddpm()
    with pytest.raises(ValueError, match=r"prompts=\['flag'\]: leave them out, as the calibration set has"):
        quantize(pipe, small("linear", 8, 8), random_inputs(pipe.unet), prompts=["flag"])


def test_training_mode_of_the_original_is_kept():
    pipe = ddpm()
    pipe.unet.train()
    quantized = quantize(pipe, small("linear", 8, 8), progress=False)
    assert pipe.unet.training and not quantized.unet.training


def test_autocast_around_it_changes_no_bit(pair):
    pipe, expected = pair
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = quantize(pipe, small("qdiffusion", 4, 8), progress=False)
    assert_same_tensors(snapshot(found.unet), snapshot(expected.unet))


def test_hooks_of_the_user_stay_on_the_full_precision_network():
    pipe = ddim()
    for name in ("", "conv_in", "mid_block.attentions.0"):
        add_hook_to_module(pipe.unet.get_submodule(name), ModelHook())
    quantize(pipe, small("qdiffusion", 4, 8), progress=False)
    for name in ("", "conv_in", "mid_block.attentions.0"):
        module = pipe.unet.get_submodule(name)
        assert isinstance(module._hf_hook, ModelHook) and module.forward.args == (module,)


@pytest.mark.parametrize("recipe", [Recipe, "linear", None])
def test_what_is_no_recipe_is_refused(recipe):
    with pytest.raises(TypeError, match="give a Recipe"):
        quantize(ddim(), recipe)


def test_a_calibration_set_of_another_network_is_refused():
    other = random_inputs(conditional_unet(), 4)
    with pytest.raises(ValueError, match="is not what this network takes"):
        quantize(ddim(), small("linear", 4, 8), other, progress=False)


def test_patterns_are_checked_before_inputs_are_recorded(tmp_path):
    with pytest.raises(ValueError, match="exclude has the pattern 'nothing', which matches no layer"):
        quantize(
            ddim(), small("qdiffusion", 4, 8).replace(exclude=("nothing",)), work=tmp_path, progress=False
        )
    assert not list(tmp_path.iterdir())


def test_a_calibration_that_is_none_is_refused():
    with pytest.raises(TypeError, match="calibration='x' is a str: give what record"):
        quantize(ddim(), small("linear", 4, 8), "x")
