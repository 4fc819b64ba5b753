"""The samplers by name, and DDIM with quadratic steps against its formula."""

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, PNDMScheduler
from latent_models import latent_diffusion, stable_diffusion
from tiny_models import ddim, ddpm

from qdiff_lib import sample, with_sampler
from qdiff_lib.samplers import SAMPLERS, QuadraticDDIMScheduler, make_scheduler


def test_the_papers_quadratic_times():
    scheduler = QuadraticDDIMScheduler()
    scheduler.set_timesteps(100)
    times = scheduler.timesteps.tolist()
    expected = sorted({int(800 * (i / 99) ** 2 + 1e-9) for i in range(100)}, reverse=True)
    assert times == expected and times[0] == 800 and times[-1] == 0


def test_a_quadratic_step_is_that_of_ddim_between_its_times():
    scheduler = QuadraticDDIMScheduler(num_train_timesteps=100, clip_sample=False)
    scheduler.set_timesteps(5)
    times = scheduler.timesteps.tolist()
    assert times == [80, 45, 20, 5, 0]
    alphas = [*scheduler.alphas_cumprod[times].tolist(), 1.0]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, generator=generator)
    for i, time in enumerate(times):
        noise = torch.randn(2, 3, generator=generator)
        clean = (x - (1 - alphas[i]) ** 0.5 * noise) / alphas[i] ** 0.5
        expected = alphas[i + 1] ** 0.5 * clean + (1 - alphas[i + 1]) ** 0.5 * noise
        x = scheduler.step(noise, torch.tensor(time), x).prev_sample
        torch.testing.assert_close(x, expected, rtol=1e-4, atol=1e-5)
    assert scheduler.num_inference_steps == 5


def test_quadratic_steps_draw_images():
    pipe = with_sampler(ddpm(), "ddim-quadratic")
    assert type(pipe.scheduler) is QuadraticDDIMScheduler
    assert sample(pipe, 2, 6, record=True).trajectory.shape[0] == len(pipe.scheduler.timesteps)


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
    scheduler = make_scheduler("plms", DDIMScheduler().config, latent=True)
    scheduler.set_timesteps(50)
    assert len(scheduler.timesteps) == 51


def test_latents_are_not_clipped_but_pixels_are():
    config = PNDMScheduler().config  # knows nothing of clipping
    assert make_scheduler("ddim", config, latent=False).config.clip_sample
    assert not make_scheduler("ddim", config, latent=True).config.clip_sample


@pytest.mark.parametrize("sampler", ["plms"])
def test_pipelines_that_cannot_drive_a_sampler(sampler):
    with pytest.raises(ValueError, match="'plms': DDPMPipeline cannot drive a PNDMScheduler; use 'ddim'"):
        with_sampler(ddpm(), sampler)


def test_a_pipeline_that_makes_its_own_scheduler():
    with pytest.raises(ValueError, match="DDIMPipeline cannot drive a QuadraticDDIMScheduler"):
        with_sampler(ddim(), "ddim-quadratic")


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match="sampler='heun' is unknown; use 'ddim', 'ddim-quadratic'") as error:
        make_scheduler("heun", {}, latent=False)
    assert all(repr(name) in str(error.value) for name in SAMPLERS)
