"""Bias correction: what it measures, what it moves, that it helps, and what it refuses."""

import copy

import pytest
import torch
from latent_models import PROMPTS, stable_diffusion
from tiny_models import SMALL, assert_same_tensors, ddim, ddpm, random_inputs, snapshot, unet2d

from qdiff_lib import Recipe, load, quantize, save_quantized
from qdiff_lib.calibration.record import FRESH_DRAWS, record
from qdiff_lib.diffusion.pipelines import with_sampler
from qdiff_lib.diffusion.sampling import noise_generators, sample
from qdiff_lib.ptq import bias_correction as stage
from qdiff_lib.ptq import quantize as module
from qdiff_lib.ptq import reconstruction
from qdiff_lib.ptq.bias_correction import NAME, NUDGES, BiasCorrection, brightness, last_bias, secant_step
from qdiff_lib.ptq.run import Run
from qdiff_lib.recipes.timestep_rules import Single

IMAGES = 12


def recipe(weights=3, activations=16, **changes):
    numbers = {**SMALL, "rounding_start": "fraction", "bias_correction_images": IMAGES}
    return Recipe.qdiffusion(weights, activations, **{**numbers, **changes})


def quantized(pipe, how, **options):
    return quantize(pipe, how, random_inputs(pipe.unet, 8), progress=False, **options)


def stop(*args):
    raise KeyboardInterrupt


def prepared(pipe, made, inputs, how):
    images = how.bias_correction.bias_correction_images
    return BiasCorrection(pipe, made, inputs, images, how.calibration, Run(how.seed, progress=False))


@pytest.fixture(scope="module")
def uncorrected():
    """``ddim()`` quantized by ``recipe()`` without this stage; do not change it."""
    return quantized(ddim(), recipe(bias_correction_images=0))


@pytest.fixture(scope="module")
def corrected():
    """``ddim()`` quantized by ``recipe()``, and the reports that a callback got; do not change it."""
    seen = []
    return quantized(ddim(), recipe(), callback=seen.append), seen


def correction(pipe, made, how):
    return prepared(pipe, made, random_inputs(pipe.unet, 8), how)


def off(pipe, made, how):
    """How far the brightness of ``made`` is off."""
    done = correction(pipe, made, how)
    return brightness(done.draw(made), done.reference).norm().item()


@pytest.mark.parametrize("n", [9, 10])
@pytest.mark.parametrize("brighter", [-0.3, 0.0, 0.2])
def test_brightness_is_that_of_the_typical_image(brighter, n):
    images = torch.randn(n, 2, 6, 5, generator=torch.Generator().manual_seed(0))
    changed = images + torch.tensor([brighter, 0.0]).view(1, 2, 1, 1)
    changed[0, 1] = 100.0  # one odd image is not the typical one
    torch.testing.assert_close(brightness(changed, images), torch.tensor([brighter, 0.0]), atol=1e-6, rtol=0)


def test_of_two_images_the_typical_one_lies_in_the_middle():
    images = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)
    assert brightness(images, torch.zeros(2, 1, 1, 1)) == 0.5


def test_a_secant_step_is_solved_from_the_slopes_of_all_channels():
    slope = torch.tensor([[-6.7, 7.9, -0.1], [7.5, -12.6, -1.1], [0.3, -1.8, -16.0]])
    moved = torch.tensor([3e-4, -2e-4, 1e-4])
    torch.testing.assert_close(secant_step(slope @ moved, slope), -moved, rtol=1e-3, atol=0)


def test_what_hardly_answers_is_not_moved():
    found = secant_step(torch.tensor([0.3, 0.1]), torch.tensor([[-6.0, 0.0], [0.0, 0.01]]))
    torch.testing.assert_close(found, torch.tensor([0.05, 0.0]))


BRIGHT = [  # every pair of values is in the first four
    (ddim, "ddim", 16, 1),
    (ddim, "ddim", 32, 3),
    (ddpm, None, 16, 3),
    (ddpm, None, 32, 1),
    *(
        pytest.param(*case, marks=pytest.mark.exhaustive)
        for case in ((ddim, "ddim", 16, 3), (ddim, "ddim", 32, 1), (ddpm, None, 16, 1), (ddpm, None, 32, 3))
    ),
]


@pytest.mark.parametrize(("make", "sampler", "activations", "channels"), BRIGHT)
def test_images_made_too_bright_are_mended(make, sampler, activations, channels):
    pipe = make(unet2d(in_channels=channels, out_channels=channels))
    pipe.scheduler.register_to_config(clip_sample=False)  # "ddim" clips all the same
    how = recipe(8, activations, sampler=sampler)
    made = quantized(pipe, how.replace(bias_correction_images=0))
    last_bias(made.unet).sub_(torch.tensor([0.03, -0.02, 0.01])[:channels])
    before = off(pipe, made, how)
    correction(pipe, made, how).run(0)
    assert off(pipe, made, how) < 0.2 * before


def test_brightness_comes_nearer_and_the_error_is_reported():
    pipe, how = ddim(), recipe(2, 32)
    before, after = (quantized(pipe, how.replace(bias_correction_images=n)) for n in (0, IMAGES))
    assert off(pipe, after, how) < 0.5 * off(pipe, before, how)
    report, units = after.unet.quantization.units[-1], before.unet.quantization.units
    assert (report.name, report.index) == (NAME, len(units))
    done = correction(pipe, after, how)
    assert report.error == pytest.approx((done.draw(after) - done.reference).square().mean().item())
    assert NAME not in [unit.name for unit in units]


@pytest.mark.parametrize(
    "changes", [{}, {"weights": 32, "activations": 8}, {"exclude": ("conv_out",)}], ids=str
)
def test_only_the_last_bias_changes(changes):
    """The bias is 0.03 off, far more than rounding is. The largest nudge is twice that: no slope drowns."""
    pipe, how = ddim(), recipe(**changes)
    original = snapshot(pipe.unet)
    made = quantized(pipe, how.replace(bias_correction_images=0))
    last_bias(made.unet).add_(0.03)
    before = snapshot(made.unet)
    report = correction(pipe, made, how).run(0)
    after = snapshot(made.unet)
    assert_same_tensors(snapshot(pipe.unet), original)
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == {"conv_out.bias"}
    assert report.note == ""


@pytest.mark.parametrize(("grid", "enough"), list(zip((2**-9, 2**-7, 2**-5, 2**-3), NUDGES, strict=True)))
def test_a_nudge_that_drowns_is_made_larger(grid, enough, monkeypatch):
    """Brightness moves by steps of a grid, from the middle of one: half a step is lost.

    What is not lost moves it by one step, so that the slope is at most twice the true one, and at most half
    of the offset is left, give or take a step.
    """
    pipe, how = ddim(), recipe(weights=8)
    made = quantized(pipe, how.replace(bias_correction_images=0))
    done, tried, slope = correction(pipe, made, how), [], BiasCorrection.slope
    bias, done.reference = last_bias(made.unet).fill_(4 + grid / 2), torch.zeros(IMAGES, 1, 8, 8)
    monkeypatch.setattr(done, "draw", lambda _: done.reference - grid * (bias / grid).floor())
    monkeypatch.setattr(done, "slope", lambda *args: tried.append(args[-1]) or slope(done, *args))
    assert done.run(0).note == ""
    assert tried == list(NUDGES[: NUDGES.index(enough) + 1])
    assert brightness(done.draw(made), done.reference).abs() <= 2 + grid


def test_what_cannot_be_corrected_is_said_in_the_report_and_at_the_terminal(uncorrected, monkeypatch, capsys):
    pipe, how, made = ddim(), recipe(), copy.deepcopy(uncorrected)
    before = snapshot(made.unet)
    inputs, images = random_inputs(pipe.unet, 8), how.bias_correction.bias_correction_images
    done = BiasCorrection(pipe, made, inputs, images, how.calibration, Run(how.seed))  # with its progress
    still = done.draw(made)
    monkeypatch.setattr(done, "draw", lambda _: still)  # a bias that no image answers to
    note = done.run(0).note
    assert "it stays" in note and f"{NAME}: {note}" in capsys.readouterr().err
    assert_same_tensors(snapshot(made.unet), before)


def test_a_channel_that_does_not_answer_is_said_while_the_others_are_corrected(monkeypatch, capsys):
    pipe, how = ddim(unet2d(in_channels=2, out_channels=2)), recipe(weights=8)
    made = quantized(pipe, how.replace(bias_correction_images=0))
    images = how.bias_correction.bias_correction_images
    done = BiasCorrection(pipe, made, random_inputs(pipe.unet, 8), images, how.calibration, Run(how.seed))
    bias, done.reference = last_bias(made.unet).fill_(0.5), torch.zeros(IMAGES, 2, 8, 8)
    answers = torch.tensor([1.0, 0.0])
    monkeypatch.setattr(done, "draw", lambda _: done.reference + (bias * answers).view(1, 2, 1, 1))
    note = done.run(0).note
    assert note == "1 of 2 channels do not answer to the last bias"
    assert f"{NAME}: {note}" in capsys.readouterr().err
    torch.testing.assert_close(bias, torch.tensor([0.0, 0.5]))


def test_a_step_that_does_not_help_is_taken_back(uncorrected, monkeypatch):
    pipe, before = ddim(), uncorrected
    monkeypatch.setattr(stage, "secant_step", lambda offset, slope: torch.tensor([0.5]))
    after = quantized(pipe, recipe())
    assert_same_tensors(snapshot(after.unet), snapshot(before.unet))
    done = correction(pipe, before, recipe())
    expected = (done.draw(before) - done.reference).square().mean().item()
    assert after.unet.quantization.units[-1].error == pytest.approx(expected)


def test_a_correction_that_is_stopped_leaves_the_bias_as_it_was(uncorrected, monkeypatch):
    pipe, made = ddim(), copy.deepcopy(uncorrected)
    before, done = snapshot(made.unet), correction(pipe, made, recipe())

    monkeypatch.setattr(stage, "secant_step", stop)
    with pytest.raises(KeyboardInterrupt):
        done.run(0)
    assert_same_tensors(snapshot(made.unet), before)


@pytest.mark.parametrize("samples", [12, 600])
def test_its_images_start_from_other_noise_than_any_calibration_input(samples):
    pipe = ddim()
    inputs = record(pipe, Single(0), samples, 4)
    first = prepared(pipe, pipe, inputs, recipe()).order["first"]
    kept = set(inputs.inputs["sample"][:, 0, 0, 0].tolist())

    def begins(start, count):
        noise = [
            torch.randn(1, 1, 8, 8, generator=g) for g in noise_generators(0, start, count, "calibration")
        ]
        return {x[0, 0, 0, 0].item() for x in noise}

    assert kept <= begins(0, first) and not kept & begins(first, IMAGES)
    assert first == max(samples, FRESH_DRAWS)


def test_it_draws_as_the_recipe_says():
    pipe, how = ddpm(), recipe(sampler="ddim", steps=5, seed=3)
    done = correction(pipe, pipe, how)
    asked = dict(n=IMAGES, steps=5, seed=3, first=FRESH_DRAWS, role="calibration", record=True)
    expected = sample(with_sampler(pipe, "ddim"), **asked).trajectory[-1]
    assert torch.equal(done.reference, expected)


def test_texts_and_guidance_are_those_of_the_calibration_set():
    pipe, how = stable_diffusion(), recipe(steps=2, samples=4, bias_correction_images=3)
    inputs = record(
        with_sampler(pipe, how.calibration.sampler), how.calibration.rule, 4, 2, prompts=PROMPTS, guidance=3.0
    )
    order = prepared(pipe, pipe, inputs, how).order
    assert (order["prompts"], order["guidance"]) == (list(PROMPTS), 3.0)


def test_latents_of_a_text_are_corrected():
    pipe, how = stable_diffusion(), recipe(2, steps=2, samples=4, bias_correction_images=3)
    before, after = (
        quantize(pipe, how.replace(bias_correction_images=n), progress=False, prompts=PROMPTS) for n in (0, 3)
    )
    inputs = record(with_sampler(pipe, how.calibration.sampler), how.calibration.rule, 4, 2, prompts=PROMPTS)
    done = prepared(pipe, after, inputs, how)
    offsets = [brightness(done.draw(made), done.reference).norm() for made in (after, before)]
    assert offsets[0] < 0.5 * offsets[1]


@pytest.mark.parametrize(
    ("make", "changes", "message"),
    [
        (stable_diffusion, {}, "bias_correction_images=12 .* record it with prompts, or use"),
        (ddim, {"steps": 2000}, "steps=2000 exceeds"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_the_long_work(monkeypatch, make, changes, message):
    monkeypatch.setattr(module, "reconstruct", lambda *args: pytest.fail("too late"))
    with pytest.raises(ValueError, match=message):
        quantized(make(), recipe(**changes))


def test_a_saved_network_computes_the_same(corrected, tmp_path):
    pipe, _ = corrected
    save_quantized(pipe, tmp_path)
    assert_same_tensors(snapshot(load(tmp_path).unet), snapshot(pipe.unet))


def test_a_killed_stage_goes_on_from_the_units(corrected, tmp_path, monkeypatch):
    pipe, expected = ddim(), snapshot(corrected[0].unet)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(stage, "secant_step", stop)
        quantized(pipe, recipe(), work=tmp_path)
    monkeypatch.setattr(reconstruction, "fit_unit", lambda *args: pytest.fail("the units were finished"))
    assert_same_tensors(snapshot(quantized(pipe, recipe(), work=tmp_path, resume=True).unet), expected)


def test_a_callback_hears_of_it(corrected):
    made, seen = corrected
    reports = made.unet.quantization.units
    assert seen == reports and seen[-1].name == NAME
