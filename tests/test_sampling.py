"""The same noise whatever the batch, trajectories that end in the images, clear errors."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from tiny_models import ddim, ddpm

from qdiff_lib.sampling import (
    ROLES,
    QuadraticDDIM,
    each_step,
    noise_generators,
    run_batch,
    sample,
    with_components,
    with_sampler,
)

SAMPLERS = pytest.mark.parametrize("make", [ddpm, ddim], ids=["ddpm", "ddim"])


@SAMPLERS
@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_images_do_not_depend_on_the_batch_size(make, batch_size):
    pipe = make()
    together = sample(pipe, 5, 4, seed=3, batch_size=5, record=True)
    apart = sample(pipe, 5, 4, seed=3, batch_size=batch_size, record=True)
    # Convolutions choose their kernels, and so the order of their sums, by the batch's size.
    torch.testing.assert_close(apart.trajectory, together.trajectory, rtol=1e-4, atol=1e-4)
    assert (apart.images.int() - together.images.int()).abs().max() <= 1


@SAMPLERS
def test_the_same_seed_gives_the_same_bits(make):
    pipe = make()
    first, second = sample(pipe, 3, 3, seed=1), sample(pipe, 3, 3, seed=1)
    assert torch.equal(first.images, second.images)


def test_images_of_one_seed_and_of_several_differ():
    pipe = ddim()
    images = torch.cat([sample(pipe, 3, 2, seed=seed).images for seed in (0, 1, 4, 2047)])
    assert len(images.flatten(1).unique(dim=0)) == 12


def test_noise_streams_are_apart():
    """Also where seeds or roles differ only in bits that torch's generator drops."""
    cases = [(seed, role, start) for seed in (0, 1, 2, 4, 2047) for role in ROLES for start in (0, 2)]
    noise = [
        torch.randn(4, generator=generator)
        for seed, role, start in cases
        for generator in noise_generators(seed, start, 2, role)
    ]
    assert len(torch.stack(noise).unique(dim=0)) == len(cases) * 2


def test_a_stream_belongs_to_the_index_not_to_the_batch():
    whole = [torch.randn(3, generator=g) for g in noise_generators(7, 0, 6)]
    parts = [torch.randn(3, generator=g) for start in (0, 4) for g in noise_generators(7, start, 4)][:6]
    assert torch.equal(torch.stack(whole), torch.stack(parts))


@SAMPLERS
def test_the_trajectory_ends_in_the_images(make):
    drawn = sample(make(), 3, 4, batch_size=2, record=True)
    assert drawn.trajectory.shape == (4, 3, 1, 8, 8)
    assert drawn.images.shape == (3, 1, 8, 8) and drawn.images.dtype == torch.uint8
    last = (drawn.trajectory[-1] / 2 + 0.5).clamp(0, 1)
    assert torch.equal((last * 255).round().to(torch.uint8), drawn.images)
    assert not torch.equal(drawn.trajectory[0], drawn.trajectory[-1])


def test_the_trajectory_is_kept_on_request_only():
    assert sample(ddim(), 1, 2).trajectory is None


def test_ddim_replaces_the_scheduler_only():
    pipe = ddpm()
    changed = with_sampler(pipe, "ddim")
    assert type(changed) is type(pipe) and isinstance(changed.scheduler, DDIMScheduler)
    assert changed.unet is pipe.unet and isinstance(pipe.scheduler, DDPMScheduler)
    assert changed.scheduler.config.num_train_timesteps == pipe.scheduler.config.num_train_timesteps


def test_no_name_keeps_the_pipeline():
    pipe = ddpm()
    assert with_sampler(pipe, None) is pipe


def test_with_components_shares_the_others():
    pipe, other = ddpm(), ddpm()
    changed = with_components(pipe, unet=other.unet)
    assert changed.unet is other.unet and changed.scheduler is pipe.scheduler and pipe.unet is not other.unet


def test_each_step_gives_the_scheduler_back_even_after_an_error():
    pipe = ddim()
    seen = []

    def stop(x):
        seen.append(x)
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"), each_step(pipe, stop):
        run_batch(pipe, 0, 1, 3, seed=0)
    run_batch(pipe, 0, 1, 3, seed=0)
    assert len(seen) == 1 and "step" not in vars(pipe.scheduler)


@pytest.mark.parametrize(
    "seed, start, message",
    [(-1, 0, "seed=-1"), (2048, 0, "seed=2048"), (0, 2**20 - 1, "image 1048576")],
    ids=["negative-seed", "large-seed", "large-index"],
)
def test_streams_that_would_overlap_are_refused(seed, start, message):
    with pytest.raises(ValueError, match=message):
        noise_generators(seed, start, 2)


def test_later_images_of_a_seed_can_be_drawn_alone():
    pipe = ddpm()
    every, later = sample(pipe, 5, 3, batch_size=5), sample(pipe, 2, 3, first=3)
    assert (later.images.int() - every.images[3:].int()).abs().max() <= 1
    assert not torch.equal(later.images, every.images[:2])


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(n=0, steps=2), "n=0 must be at least 1"),
        (dict(n=1, steps=0), "steps=0 must be at least 1"),
        (dict(n=1, steps=2, batch_size=-1), "batch_size=-1 must be at least 1"),
        (dict(n=1, steps=101), "steps=101 exceeds the 100 steps"),
    ],
    ids=["no-images", "no-steps", "no-batch", "too-many-steps"],
)
def test_wrong_counts_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        sample(ddim(), **options)


def test_an_unknown_sampler_is_refused():
    with pytest.raises(ValueError, match="sampler='plms' is unknown"):
        with_sampler(ddpm(), "plms")


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
