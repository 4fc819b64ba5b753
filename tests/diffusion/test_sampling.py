"""The same noise whatever the batch, trajectories that end in the images, clear errors."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
from latent_models import PROMPTS, latent_diffusion, stable_diffusion
from several_processes import together
from tiny_models import ddim, ddpm, unet2d
from transformers import CLIPConfig, CLIPImageProcessor

from qdiff_lib.calibration.record import record
from qdiff_lib.diffusion.pipelines import each_step, with_components, with_sampler
from qdiff_lib.diffusion.sampling import (
    ROLES,
    images_at_once,
    noise_generators,
    run_batch,
    sample,
    sampling_times,
)
from qdiff_lib.recipes.timestep_rules import Last

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


def test_no_name_keeps_the_scheduler():
    pipe = ddpm()
    assert with_sampler(pipe, None).components == pipe.components


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


def test_a_role_is_one_of_two():
    with pytest.raises(ValueError, match="role='training' is unknown; use one of"):
        noise_generators(0, 0, 2, "training")


def test_images_of_calibration_are_others():
    runs = [sample(ddim(), 3, 2, record=True, role=role) for role in ROLES]
    assert not torch.equal(runs[0].trajectory, runs[1].trajectory)
    assert torch.equal(runs[1].images, run_batch(ddim(), 0, 3, 2, 0, "calibration"))


def test_later_images_of_a_seed_can_be_drawn_alone():
    pipe = ddpm()
    every, later = sample(pipe, 5, 3, batch_size=5), sample(pipe, 2, 3, first=3)
    assert (later.images.int() - every.images[3:].int()).abs().max() <= 1
    assert not torch.equal(later.images, every.images[:2])


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(n=0, steps=2), "n=0 must be an integer of at least 1"),
        (dict(n=1, steps=0), "steps=0 must be an integer of at least 1"),
        (dict(n=1, steps=2, batch_size=-1), "batch_size=-1 must be an integer of at least 1"),
        (dict(n=1, steps=101), "steps=101 exceeds the 100 steps"),
        (dict(n=1, steps=2, first=-1), "first=-1 must be an integer of at least 0"),
        (dict(n=2, steps=2, first=2**20 - 1), "image 1048576 is beyond 1048575"),
    ],
    ids=["no-images", "no-steps", "no-batch", "too-many-steps", "before-all", "beyond-all"],
)
def test_wrong_counts_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        sample(ddim(), **options)


@pytest.mark.parametrize(
    "make, options, kind",
    [(stable_diffusion, dict(prompts=PROMPTS), "PNDM"), (latent_diffusion, {}, "DDIM")],
)
def test_times_beyond_the_models_last_are_refused(make, options, kind):
    """As many steps as times, with an offset of one."""
    pipe = make()
    message = f"steps=100: {kind}Scheduler starts at time 100, .* last one is 99; use at most 99 steps"
    with pytest.raises(ValueError, match=message):
        sample(pipe, 1, 100, **options)
    with pytest.raises(ValueError, match=message):
        record(pipe, Last(1), 2, 100, **options)
    assert int(sampling_times(pipe, 99).max()) == 99


def test_an_unknown_sampler_is_refused():
    with pytest.raises(ValueError, match="sampler='heun' is unknown"):
        with_sampler(ddpm(), "heun")


# Latent and text-guided pipelines

LATENT = {
    "text": (stable_diffusion, dict(prompts=PROMPTS)),
    "text-without-guidance": (stable_diffusion, dict(prompts=PROMPTS, guidance=1.0)),
    "text-eta": (lambda: with_sampler(stable_diffusion(), "ddim"), dict(prompts=PROMPTS, eta=1.0)),
    "latent": (latent_diffusion, {}),
    "latent-eta": (latent_diffusion, dict(eta=1.0)),
}


@pytest.mark.parametrize("make, options", LATENT.values(), ids=LATENT.keys())
def test_latent_images_depend_on_the_seed_and_their_number_alone(make, options):
    pipe = make()
    together = sample(pipe, 4, 3, seed=3, record=True, **options)
    later = sample(pipe, 3, 3, seed=3, first=1, batch_size=2, record=True, **options)
    assert together.images.shape == (4, 3, 16, 16) and together.images.dtype == torch.uint8
    assert together.trajectory.shape[1:] == (4, 4, 8, 8)
    torch.testing.assert_close(later.trajectory, together.trajectory[:, 1:], rtol=1e-3, atol=1e-3)
    assert torch.equal(sample(pipe, 4, 3, seed=3, **options).images, together.images)
    assert not torch.equal(sample(pipe, 4, 3, seed=4, **options).images, together.images)


def test_every_call_of_plms_is_a_row_and_a_tick(capsys):
    drawn = sample(stable_diffusion(), 2, 4, batch_size=1, prompts=["flag"], record=True, progress=True)
    assert len(drawn.trajectory) == 5
    assert "10/10" in capsys.readouterr().err


def test_images_are_decoded_from_the_last_latent():
    pipe = stable_diffusion()
    drawn = sample(pipe, 2, 2, record=True, prompts=["flag"])
    with torch.no_grad():
        decoded = pipe.vae.decode(drawn.trajectory[-1] / pipe.vae.config.scaling_factor).sample
    expected = ((decoded / 2 + 0.5).clamp(0, 1) * 255).round()
    assert (drawn.images.float() - expected).abs().max() <= 1


def test_text_guidance_and_eta_change_the_images():
    pipe = with_sampler(stable_diffusion(), "ddim")
    plain = sample(pipe, 1, 3, prompts=["flag"]).images
    for other in (dict(prompts=["red apple"]), dict(guidance=2.0), dict(eta=1.0)):
        assert not torch.equal(sample(pipe, 1, 3, **{"prompts": ["flag"], **other}).images, plain)


def test_prompts_go_round_the_images():
    pipe = stable_diffusion()
    both = sample(pipe, 3, 2, prompts=["flag", "bicycle"]).images
    alone = sample(pipe, 3, 2, prompts=["flag"]).images
    same = [(a.int() - b.int()).abs().max() <= 1 for a, b in zip(both, alone, strict=True)]
    assert same == [True, False, True]


def test_images_that_a_safety_checker_made_black_are_no_result():
    sizes = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    config = CLIPConfig(vision_config=dict(sizes, image_size=16, patch_size=8), projection_dim=8)
    checker = StableDiffusionSafetyChecker(config)
    processor = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    pipe = with_components(stable_diffusion(), safety_checker=checker, feature_extractor=processor)
    shown = sample(pipe, 2, 2, prompts=["flag"]).images
    assert torch.equal(shown, sample(stable_diffusion(), 2, 2, prompts=["flag"]).images)
    checker.concept_embeds_weights.fill_(-2.0)  # any picture is closer than that to any concept
    with pytest.raises(ValueError, match=r"images \[3, 4\] of seed=0 black: .*safety_checker=None"):
        sample(pipe, 2, 2, first=3, prompts=["flag"])
    record(pipe, Last(1), 4, 2, prompts=["flag"])


@pytest.mark.parametrize(
    "make, size, expected",
    [
        (ddpm, 8, 64),
        (ddpm, 1024, 64),
        (stable_diffusion, 8, 64),
        (stable_diffusion, 256, 8),
        (latent_diffusion, 2048, 1),
    ],
)
def test_images_at_once_follow_what_is_decoded(make, size, expected):
    pipe = make()
    pipe.unet.register_to_config(sample_size=size)
    assert images_at_once(pipe) == expected


def test_with_components_keeps_the_settings_of_a_pipeline(caplog):
    pipe = stable_diffusion()
    changed = with_components(pipe, unet=pipe.unet)
    assert changed.config.requires_safety_checker is False
    assert "safety checker" not in caplog.text


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_networks_in_half_precision_draw(dtype):
    images = sample(ddim(unet2d().to(dtype)), 2, steps=2, seed=1).images
    exact = sample(ddim(), 2, steps=2, seed=1).images
    assert (images.float() - exact).abs().mean() < 8  # of 255; other noise: more than 50


def drawn_together(processes, make):
    found = sample(make(), 7, 3, seed=2, batch_size=2, record=True, processes=processes)
    return found and (found.images, found.trajectory)


@SAMPLERS
@pytest.mark.parametrize("count", [2, 3])
def test_the_number_of_processes_changes_no_bit_of_the_samples(make, count):
    expected = sample(make(), 7, 3, seed=2, batch_size=2, record=True)
    main, *others = together(count, drawn_together, make)
    assert torch.equal(main[0], expected.images) and torch.equal(main[1], expected.trajectory)
    assert others == [None] * (count - 1)
