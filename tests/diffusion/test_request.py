"""What a pipeline is asked for, and requests that it cannot answer."""

import math

import pytest
from latent_models import PROMPTS, latent_diffusion, stable_diffusion
from tiny_models import ddim, ddpm

from qdiff_lib import Recipe, with_sampler
from qdiff_lib.diffusion.request import PLAIN, Request


@pytest.fixture(scope="module")
def text_pipe():
    return stable_diffusion()


def test_prompts_go_round():
    request = Request(("a", "b", "c"), guidance=3.0)
    assert request.arguments(2, 3) == {"prompt": ["c", "a", "b"], "guidance_scale": 3.0}
    assert PLAIN.arguments(2, 3) == {"batch_size": 3}
    assert Request(eta=0.5).arguments(0, 1) == {"batch_size": 1, "eta": 0.5}


@pytest.mark.parametrize("guidance, passes", [(7.5, 2), (1.01, 2), (1.0, 1), (0.0, 1)])
def test_guidance_takes_a_second_pass(guidance, passes):
    assert Request(("a",), guidance).passes == passes
    assert Request((), guidance).passes == 1


def test_described():
    assert PLAIN.described() == {}
    assert Request(eta=1.0).described() == {"eta": 1.0}
    assert Request(("a",), 3.0).described() == {"prompts": ["a"], "guidance": 3.0}


def test_each_pipeline_gets_what_it_takes(text_pipe):
    noisy = with_sampler(text_pipe, "ddim")
    assert Request.checked(noisy, list(PROMPTS), 5.0, 0.5) == Request(PROMPTS, 5.0, 0.5)
    assert Request.checked(latent_diffusion(), None, 7.5, 1.0) == Request(eta=1.0)
    assert Request.checked(ddpm(), None, 7.5, 0.0) == PLAIN


def test_prompts_missing_or_not_taken(text_pipe):
    with pytest.raises(ValueError, match="StableDiffusionPipeline draws what a text says: give prompts"):
        Request.checked(text_pipe, None, 7.5, 0.0)
    with pytest.raises(ValueError, match=r"prompts=\['flag'\]: DDPMPipeline takes no text"):
        Request.checked(ddpm(), ["flag"], 7.5, 0.0)
    with pytest.raises(TypeError, match="must be a list"):
        Request.checked(text_pipe, "flag", 7.5, 0.0)


def test_eta_out_of_range_or_not_taken():
    with pytest.raises(ValueError, match="eta=1.5 must be a number from 0 to 1"):
        Request.checked(ddim(), None, 7.5, 1.5)
    with pytest.raises(ValueError, match="eta=1.0: DDPMPipeline takes no eta"):
        Request.checked(ddpm(), None, 7.5, 1)


@pytest.mark.parametrize("sampler, kind", [("plms", "PNDM"), ("dpm++", "DPMSolverMultistep")])
def test_samplers_that_take_no_eta(text_pipe, sampler, kind):
    """Their pipeline takes one, and leaves it out."""
    pipe = with_sampler(text_pipe, sampler)
    with pytest.raises(
        ValueError, match=f"eta=1.0: a {kind}Scheduler takes no eta; use 0, or sampler='ddim'"
    ):
        Request.checked(pipe, list(PROMPTS), 7.5, 1.0)


@pytest.mark.parametrize(
    "guidance, error, message",
    [
        ("7.5", TypeError, "guidance='7.5' must be a number from 0 to 1000"),
        (None, TypeError, "guidance=None must be a number from 0 to 1000"),
        (True, TypeError, "guidance=True must be a number from 0 to 1000"),
        (math.nan, ValueError, "guidance=nan must be a number from 0 to 1000"),
        (math.inf, ValueError, "guidance=inf must be a number from 0 to 1000"),
    ],
)
def test_guidance_that_is_no_number(text_pipe, guidance, error, message):
    with pytest.raises(error, match=message):
        Request.checked(text_pipe, list(PROMPTS), guidance, 0.0)
    with pytest.raises(error, match=message):
        Recipe.linear(guidance=guidance)
