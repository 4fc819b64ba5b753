"""Time embeddings, widths of texts, and samplers: quantized and drawn with, or refused with a fix."""

import itertools

import pytest
import torch
from diffusers import (
    CMStochasticIterativeScheduler,
    ConsistencyModelPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    KarrasVePipeline,
    KarrasVeScheduler,
    PNDMPipeline,
    PNDMScheduler,
    RePaintScheduler,
    ScoreSdeVePipeline,
    ScoreSdeVeScheduler,
    UniPCMultistepScheduler,
)
from latent_models import LATENT, NOISE, PROMPTS, stable_diffusion
from tiny_models import SMALL, TRAINED_STEPS, conditional_unet, ddpm, unet2d

from qdiff_lib import Recipe, load, quantize, sample, save_quantized, with_sampler
from qdiff_lib.diffusion.capabilities import check_unet
from qdiff_lib.diffusion.schedulers import make_scheduler
from qdiff_lib.graph.model_inputs import text_width

TEXT = dict(prompts=PROMPTS[:2])
LEARNED = dict(time_embedding_type="learned", num_train_timesteps=TRAINED_STEPS)
SIGMAS = ("use_karras_sigmas", "use_exponential_sigmas", "use_lu_lambdas")
QUICK = ((None, "use_karras_sigmas"), ("dpm++", "use_exponential_sigmas"), ("plms", "use_lu_lambdas"))


def with_scheduler(pipe, scheduler):
    """The pipeline, in place, with another scheduler."""
    pipe.register_modules(scheduler=scheduler)
    return pipe


def draw_again(pipe, folder, sampler=None, steps=4, **asked):
    """Quantize, draw, save, load and draw: the two results are the same."""
    recipe = Recipe.qdiffusion(weights=8, activations=8, **{**SMALL, "sampler": sampler, "steps": steps})
    done = quantize(pipe, recipe, progress=False, **asked)
    save_quantized(done, folder)
    first, second = (with_sampler(each, sampler) for each in (done, load(folder)))
    expected = sample(first, 2, steps, **asked).images
    assert expected.float().std() > 0
    assert torch.equal(sample(second, 2, steps, **asked).images, expected)


NETWORKS = {
    "fourier": lambda: with_scheduler(
        ddpm(unet2d(time_embedding_type="fourier")),
        DDPMScheduler(num_train_timesteps=TRAINED_STEPS, timestep_spacing="trailing"),
    ),
    "learned": lambda: ddpm(unet2d(**LEARNED)),
    "fourier-text": lambda: stable_diffusion(conditional_unet(**LATENT, time_embedding_type="fourier")),
    "widths": lambda: stable_diffusion(conditional_unet(**LATENT, cross_attention_dim=(12, 12))),
    "widths-where-text-is-read": lambda: stable_diffusion(
        conditional_unet(
            **LATENT,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=(5, 12),
        )
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_that_are_quantized(name, tmp_path):
    pipe = NETWORKS[name]()
    draw_again(pipe, tmp_path, "ddim", **(TEXT if isinstance(pipe, type(stable_diffusion())) else {}))


@pytest.mark.parametrize(
    ("sampler", "sigmas"),
    [
        pytest.param(*pair, marks=[] if pair in QUICK else pytest.mark.exhaustive)
        for pair in itertools.product((None, "dpm++", "plms"), SIGMAS)
    ],
)
def test_sigmas_of_another_spacing(sampler, sigmas, tmp_path):
    own = DPMSolverMultistepScheduler(**NOISE, **{sigmas: True})
    draw_again(with_scheduler(stable_diffusion(), own), tmp_path, sampler, **TEXT)


@pytest.mark.parametrize(
    "kind",
    [pytest.param(DPMSolverMultistepScheduler, marks=pytest.mark.exhaustive), EulerDiscreteScheduler],
)
def test_karras_sigmas_that_round_to_times_which_come_twice(kind, tmp_path):
    own = kind(**NOISE, use_karras_sigmas=True)
    draw_again(with_scheduler(stable_diffusion(), own), tmp_path, steps=40, **TEXT)


def test_fourier_embeddings_of_the_logarithm_have_no_time_0():
    pipe = ddpm(unet2d(time_embedding_type="fourier"))
    with pytest.raises(ValueError, match="DDPMScheduler asks for time 0, .*timestep_spacing='trailing'"):
        sample(pipe, 1, 4)


@pytest.mark.parametrize(
    "scheduler, message",
    [
        (DDIMScheduler(num_train_timesteps=2 * TRAINED_STEPS), "asks for time 150, .*times from 0 to 99"),
        (EulerDiscreteScheduler(**NOISE), "asks for time 99, .*such as 'ddim' with num_train_timesteps=100"),
    ],
    ids=["more-times", "no-whole-times"],
)
def test_learned_embeddings_of_other_times_are_refused(scheduler, message):
    pipe = with_scheduler(stable_diffusion(), scheduler)
    pipe.unet = unet2d(**LEARNED, **LATENT)  # its embedding is what counts
    with pytest.raises(ValueError, match=message):
        sample(pipe, 1, 4, **TEXT)


def test_levels_that_read_texts_of_different_widths_are_refused():
    unet = conditional_unet(cross_attention_dim=(12, 8))
    with pytest.raises(ValueError, match=r"cross_attention_dim=\(12, 8\): its levels read texts of differ"):
        check_unet(unet)


def test_the_width_of_a_text():
    assert text_width(conditional_unet()) == 12
    assert text_width(conditional_unet(encoder_hid_dim=6)) == 6
    assert text_width(NETWORKS["widths-where-text-is-read"]().unet) == 12


UNFIT = {
    "no-step": (lambda: ScoreSdeVePipeline(unet2d(), ScoreSdeVeScheduler()), "does not go from one time"),
    "needs-more": (
        lambda: DDPMPipeline(unet2d(), RePaintScheduler()),
        "cannot drive a RePaintScheduler, whose steps need original_image, mask: use the sampler 'ddim'",
    ),
    "no-times": (lambda: KarrasVePipeline(unet2d(), KarrasVeScheduler()), "does not go from one time"),
    "no-generator": (
        lambda: DDPMPipeline(unet2d(), UniPCMultistepScheduler()),
        r"which takes no generator: use the sampler 'ddim' \(with_sampler\(pipe",
    ),
    "other-times": (
        lambda: ConsistencyModelPipeline(unet2d(), CMStochasticIterativeScheduler()),
        "last one is 39; use fewer steps, or another sampler",
    ),
}


@pytest.mark.parametrize("make, message", UNFIT.values(), ids=UNFIT.keys())
def test_schedulers_that_a_pipeline_cannot_drive_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        sample(make(), 1, 4)


def test_the_fix_for_such_a_scheduler_works():
    assert sample(with_sampler(UNFIT["no-generator"][0](), "ddim"), 1, 4).images.shape == (1, 1, 8, 8)


@pytest.mark.parametrize(
    "sampler, predicted",
    [("ddim", "flow_prediction"), ("plms", "flow_prediction"), ("plms", "sample")],
)
def test_what_a_sampler_cannot_make_of_a_prediction_is_refused(sampler, predicted):
    own = DPMSolverMultistepScheduler(prediction_type=predicted)
    with pytest.raises(ValueError, match=f"the network predicts '{predicted}', .*--sampler own"):
        make_scheduler(sampler, own, latent=True)


def test_settings_that_a_sampler_cannot_take_are_refused():
    own = DDIMScheduler()
    own.register_to_config(use_karras_sigmas=True, use_exponential_sigmas=True)
    with pytest.raises(ValueError, match="'dpm\\+\\+' cannot take the settings of DDIMScheduler .*own"):
        make_scheduler("dpm++", own, latent=True)


def test_dpm_is_always_dpm_plus_plus():
    made = make_scheduler("dpm++", DEISMultistepScheduler(), latent=True)
    assert made.config.algorithm_type == "dpmsolver++"


def test_a_sampler_is_the_same_before_and_after_saving(tmp_path):
    """diffusers forgets, when it saves a scheduler, which of its settings were not given."""
    own = (
        PNDMScheduler()
    )  # other defaults than DDIM's for the last step, and than DPM-Solver++'s for the times
    own.save_pretrained(tmp_path)
    for sampler in ("ddim", "dpm++"):
        made, again = (
            make_scheduler(sampler, each, True) for each in (own, PNDMScheduler.from_pretrained(tmp_path))
        )
        first, second = ({k: v for k, v in each.config.items() if k[0] != "_"} for each in (made, again))
        assert first == second


def test_a_pipeline_that_cannot_drive_ddim_is_told_to_use_its_own():
    with pytest.raises(ValueError, match="PNDMPipeline cannot drive a DDIMScheduler; use sampler=None"):
        with_sampler(PNDMPipeline(unet2d(), PNDMScheduler()), "ddim")
