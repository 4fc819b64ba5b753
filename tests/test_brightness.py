"""The stage that matches the brightness of drawn images: what it measures, what it moves, that it helps."""

from dataclasses import replace

import pytest
import torch
from latent_models import PROMPTS, stable_diffusion
from tiny_models import SMALL, assert_same_tensors, ddim, ddpm, random_inputs, snapshot

from qdiff_lib import Recipe, load_quantized, pipeline, quantize, reconstruction, save_quantized
from qdiff_lib import brightness as stage
from qdiff_lib.brightness import NAME, BrightnessMatcher, brightness, last_layer, undoing
from qdiff_lib.calibration import FRESH_DRAWS, Single, record
from qdiff_lib.request import PLAIN
from qdiff_lib.sampling import noise_generators, run_batch, with_sampler

IMAGES = 12


def recipe(weights=3, activations=16, **changes):
    numbers = {**SMALL, "rounding_start": "fraction", "brightness_images": IMAGES}
    return Recipe.qdiffusion(weights, activations, **{**numbers, **changes})


def quantized(pipe, how, **options):
    return quantize(pipe, how, random_inputs(pipe.unet, 8), progress=False, **options)


def drawn_by(pipe, how):
    """The last x_t of the images with which the stage is done."""
    matcher = BrightnessMatcher(pipe, pipe, how, PLAIN)
    with stage.progress_bar(shown=False) as matcher.bar:
        return matcher.draw(matcher.full)


def off(pipe, made, how):
    """How far the brightness of ``made`` is off."""
    return brightness(drawn_by(made, how), drawn_by(pipe, how)).norm().item()


@pytest.mark.parametrize("brighter", [-0.3, 0.0, 0.2])
def test_brightness_is_that_of_the_typical_image(brighter):
    images = torch.randn(9, 2, 6, 5, generator=torch.Generator().manual_seed(0))
    changed = images + torch.tensor([brighter, 0.0]).view(1, 2, 1, 1)
    changed[0, 1] = 100.0  # one odd image is not the typical one
    torch.testing.assert_close(brightness(changed, images), torch.tensor([brighter, 0.0]), atol=1e-6, rtol=0)


def test_what_undoes_it_is_solved_from_the_response():
    brighter, response = torch.tensor([0.3, -0.2, 0.1]), torch.tensor([-6.0, 2.0, 0.01])
    found = undoing(brighter, response)
    torch.testing.assert_close(brighter + response * found, torch.tensor([0.0, 0.0, 0.1]))
    assert found[2] == 0  # what hardly answers is not moved


@pytest.mark.parametrize("activations", [16, 32])
@pytest.mark.parametrize(("make", "sampler"), [(ddim, "ddim"), (ddpm, None)], ids=["ddim", "ancestral"])
def test_images_made_too_bright_are_mended(make, sampler, activations):
    pipe, how = make(), recipe(8, activations, sampler=sampler)
    pipe.scheduler.register_to_config(clip_sample=False)  # "ddim" clips all the same
    made = quantized(pipe, replace(how, brightness_images=0))
    last_layer(made.unet).layer.bias.data -= 0.03
    before = off(pipe, made, how)
    stage.match_brightness(pipe, made, how, PLAIN, progress=False)
    assert off(pipe, made, how) < 0.2 * before


def test_brightness_comes_nearer_and_the_error_is_reported():
    pipe, how = ddim(), recipe(2, 32)
    before, after = (quantized(pipe, replace(how, brightness_images=n)) for n in (0, IMAGES))
    assert off(pipe, after, how) < 0.5 * off(pipe, before, how)
    report, units = after.unet.quantization.units[-1], before.unet.quantization.units
    assert (report.name, report.index) == (NAME, len(after.unet.quantization.trace.units) + 1)
    assert report.error == pytest.approx((drawn_by(after, how) - drawn_by(pipe, how)).square().mean().item())
    assert NAME not in [unit.name for unit in units]


def test_only_the_last_layers_bias_changes():
    pipe = ddim()
    original = snapshot(pipe.unet)
    before, after = (snapshot(quantized(pipe, recipe(brightness_images=n)).unet) for n in (0, IMAGES))
    assert_same_tensors(snapshot(pipe.unet), original)
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == {"conv_out.layer.bias"}


def test_a_step_that_does_not_help_is_taken_back(monkeypatch):
    pipe = ddim()
    before = snapshot(quantized(pipe, recipe(brightness_images=0)).unet)
    monkeypatch.setattr(stage, "undoing", lambda brighter, response: torch.tensor([0.5]))
    after = quantized(pipe, recipe())
    assert_same_tensors(snapshot(after.unet), before)
    expected = (drawn_by(after, recipe()) - drawn_by(pipe, recipe())).square().mean().item()
    assert after.unet.quantization.units[-1].error == pytest.approx(expected)


@pytest.mark.parametrize("how", [recipe(32, 8), recipe(exclude=("conv_out",))], ids=["W32", "excluded"])
def test_a_last_layer_that_is_not_quantized_is_left_alone(how):
    one, two = (quantized(ddim(), replace(how, brightness_images=n)) for n in (0, IMAGES))
    assert_same_tensors(snapshot(one.unet), snapshot(two.unet))
    assert NAME not in [unit.name for unit in two.unet.quantization.units]


@pytest.mark.parametrize("samples", [12, 600])
def test_its_images_start_from_other_noise_than_any_calibration_input(samples):
    pipe = ddim()
    made = quantized(pipe, recipe(brightness_images=0))
    first = BrightnessMatcher(pipe, made, recipe(samples=samples), PLAIN).first
    own = [torch.randn(8, generator=g) for g in noise_generators(0, first, IMAGES, "calibration")]
    kept = record(pipe, Single(0), samples, 4).inputs["sample"]
    assert not {noise[0].item() for noise in own} & set(kept[:, 0, 0, 0].tolist())
    assert first >= max(samples, FRESH_DRAWS)


def test_it_draws_with_the_recipes_sampler(monkeypatch):
    seen = set()

    def look(pipe, start, count, steps, seed, stream, request):
        seen.add((type(pipe.scheduler).__name__, steps, seed, stream))
        return run_batch(pipe, start, count, steps, seed, stream, request)

    monkeypatch.setattr(stage, "run_batch", look)
    quantized(ddpm(), recipe(sampler="ddim", steps=5, seed=3))
    assert seen == {(type(with_sampler(ddpm(), "ddim").scheduler).__name__, 5, 3, "calibration")}


def test_a_saved_network_computes_the_same(tmp_path):
    pipe = quantized(ddim(), recipe())
    save_quantized(pipe, tmp_path)
    assert_same_tensors(snapshot(load_quantized(tmp_path).unet), snapshot(pipe.unet))


def test_a_killed_stage_goes_on_from_the_units(tmp_path, monkeypatch):
    pipe = ddim()
    expected = snapshot(quantized(pipe, recipe()).unet)

    def stop(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(stage, "undoing", stop)
        quantized(pipe, recipe(), work=tmp_path)
    monkeypatch.setattr(reconstruction, "fit_unit", lambda *args: pytest.fail("the units were finished"))
    assert_same_tensors(snapshot(quantized(pipe, recipe(), work=tmp_path, resume=True).unet), expected)


def test_a_model_that_reads_a_text_is_asked_for_the_calibrations_prompts(monkeypatch):
    asked = set()

    def look(pipe, start, count, steps, seed, stream, request):
        asked.add((request.prompts, request.guidance))
        return run_batch(pipe, start, count, steps, seed, stream, request)

    monkeypatch.setattr(stage, "run_batch", look)
    how = recipe(steps=2, samples=4, brightness_images=3, guidance=3.0)
    made = quantize(stable_diffusion(), how, progress=False, prompts=PROMPTS)
    assert asked == {(tuple(PROMPTS), 3.0)}
    assert made.unet.quantization.units[-1].name == NAME


def test_prompts_that_are_missing_are_named_before_the_long_work(monkeypatch):
    monkeypatch.setattr(pipeline, "reconstruct", lambda *args: pytest.fail("too late"))
    with pytest.raises(ValueError, match="brightness_images=12 .* record it with prompts, or use"):
        quantized(stable_diffusion(), recipe())


def test_a_callback_hears_of_it():
    seen = []
    reports = quantized(ddim(), recipe(), callback=seen.append).unet.quantization.units
    assert seen == reports and seen[-1].name == NAME
