"""The samplers by name, and DDIM with quadratic steps against its formula."""

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
)
from latent_models import latent_diffusion, stable_diffusion
from tiny_models import ddim, ddpm, unet2d

from qdiff_lib import Recipe, quantize, sample, with_sampler
from qdiff_lib.diffusion.schedulers import SAMPLERS, QuadraticDDIM, make_scheduler


def test_quadratic_times_are_those_of_ddim_without_the_repeated_ones():
    scheduler = QuadraticDDIM()
    scheduler.set_timesteps(50)
    theirs = (np.linspace(0, np.sqrt(0.8 * 1000), 50) ** 2).astype(int)[::-1]
    assert theirs[-4:].tolist() == [2, 1, 0, 0]
    assert scheduler.timesteps.tolist() == [*theirs[:-4].tolist(), 3, 2, 1, 0]


@pytest.mark.parametrize("steps", [2, 3, 20, 99, 100])
def test_no_quadratic_time_comes_twice(steps):
    scheduler = QuadraticDDIM(num_train_timesteps=100)
    scheduler.set_timesteps(steps)
    times = scheduler.timesteps
    assert len(times) == steps and times[-1] == 0 and times[0] >= 80 and (times.diff() < 0).all()


def test_a_quadratic_step_goes_to_the_next_time():
    """Along the exact noise of x_0, DDIM stays on x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) e at every time."""
    scheduler = QuadraticDDIM(clip_sample=False)
    scheduler.set_timesteps(7)
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.rand(2, 1, 4, 4, generator=generator), torch.randn(2, 1, 4, 4, generator=generator)
    x = scheduler.add_noise(clean, noise, scheduler.timesteps[:1])
    for time, following in zip(scheduler.timesteps, [*scheduler.timesteps[1:], None], strict=True):
        x = scheduler.step(noise, time, x).prev_sample
        expected = clean if following is None else scheduler.add_noise(clean, noise, following[None])
        torch.testing.assert_close(x, expected, rtol=1e-4, atol=1e-4)


def test_the_quadratic_sampler_draws_and_records():
    pipe = with_sampler(ddpm(), "ddim-quadratic")
    drawn = sample(pipe, 2, 5, record=True)
    assert drawn.images.shape == (2, 1, 8, 8) and len(drawn.trajectory) == 5
    assert isinstance(pipe.scheduler, QuadraticDDIM)
    assert not torch.equal(drawn.images, sample(with_sampler(ddpm(), "ddim"), 2, 5).images)


def test_what_quadratic_steps_cannot_do_is_refused():
    with pytest.raises(ValueError, match="num_inference_steps=1 must be at least 2"):
        QuadraticDDIM().set_timesteps(1)
    with pytest.raises(ValueError, match="'v_prediction' must be 'epsilon'"):
        QuadraticDDIM(prediction_type="v_prediction").set_timesteps(5)
    scheduler = QuadraticDDIM()
    scheduler.set_timesteps(5)
    x = torch.zeros(1, 1, 2, 2)
    with pytest.raises(ValueError, match="eta=0.5 adds noise"):
        scheduler.step(x, scheduler.timesteps[0], x, eta=0.5)


@pytest.mark.parametrize(
    "sampler, kind",
    [("ddim", DDIMScheduler), ("plms", PNDMScheduler), ("dpm++", DPMSolverMultistepScheduler)],
)
@pytest.mark.parametrize("make", [stable_diffusion, latent_diffusion], ids=["text", "latent"])
def test_latent_pipelines_take_every_sampler(make, sampler, kind):
    pipe = make()
    changed = with_sampler(pipe, sampler)
    assert type(changed.scheduler) is kind and changed.unet is pipe.unet
    assert not changed.scheduler.config.get("clip_sample")
    schedules = [p.scheduler.alphas_cumprod for p in (pipe, changed)]
    torch.testing.assert_close(*schedules)


def test_plms_has_no_runge_kutta_steps():
    scheduler = make_scheduler("plms", DDIMScheduler(), latent=True)
    scheduler.set_timesteps(50)
    assert len(scheduler.timesteps) == 51


def test_latents_are_not_clipped_but_pixels_are():
    own = PNDMScheduler()  # knows nothing of clipping
    assert make_scheduler("ddim", own, latent=False).config.clip_sample
    assert not make_scheduler("ddim", own, latent=True).config.clip_sample


@pytest.mark.parametrize("sampler", ["plms"])
def test_pipelines_that_cannot_drive_a_sampler(sampler):
    with pytest.raises(ValueError, match="'plms': DDPMPipeline cannot drive a PNDMScheduler; use 'ddim'"):
        with_sampler(ddpm(), sampler)


def test_a_pipeline_that_makes_its_own_scheduler():
    with pytest.raises(ValueError, match="DDIMPipeline cannot drive a QuadraticDDIM"):
        with_sampler(ddim(), "ddim-quadratic")


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match="sampler='heun' is unknown; use 'ddim', 'ddim-quadratic'") as error:
        make_scheduler("heun", DDIMScheduler(), latent=False)
    assert all(repr(name) in str(error.value) for name in SAMPLERS)


@pytest.mark.parametrize("sampler", ["ddim", "ddim-quadratic", "plms", "dpm++"])
def test_a_schedule_that_others_do_not_know_by_name_is_passed_on_as_numbers(sampler):
    own = DDPMScheduler(beta_schedule="sigmoid")
    assert torch.equal(make_scheduler(sampler, own, latent=False).betas, own.betas)


def test_a_network_that_predicts_its_variance_needs_its_own_sampler():
    pipe = DDPMPipeline(unet2d(out_channels=2), DDPMScheduler(variance_type="learned_range"))
    with pytest.raises(ValueError, match="predicts its variance too.*--sampler own"):
        with_sampler(pipe, "ddim")
    quantized = quantize(pipe, Recipe.linear(4, 8, steps=2, samples=4, sampler=None), progress=False)
    assert sample(quantized, 1, 2).images.shape == (1, 1, 8, 8)


def test_a_scheduler_without_betas_is_refused():
    pipe = DDPMPipeline(unet2d(), DDPMScheduler())
    pipe.register_modules(scheduler=FlowMatchEulerDiscreteScheduler())
    with pytest.raises(ValueError, match="FlowMatchEulerDiscreteScheduler has no noise schedule of betas"):
        with_sampler(pipe, "ddim")
