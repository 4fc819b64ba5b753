"""The whole method on the shipped model: Q-Diffusion W4A8 beats linear W4A8 by a stated margin."""

import pytest
import torch

from qdiff_lib import Recipe, load, quantize, record, sample, save_quantized, with_sampler
from qdiff_lib.metrics import trajectory_mse
from qdiff_lib.timestep_rules import Uniform

STEPS, IMAGES = 20, 16
MARGIN = 0.5  # of linear's error after the last step, with a seventh of the tiny profile's iterations
SHORT = dict(samples=128, iterations=40, step_size_iterations=5)


@pytest.fixture(scope="module")
def models():
    """The shipped model and its two quantized forms, calibrated on the same inputs."""
    pipe = with_sampler(load("ddpm-fashion"), "ddim")
    inputs = record(pipe, Uniform(), SHORT["samples"], STEPS)
    recipes = {"linear": Recipe.linear(4, 8), "qdiffusion": Recipe.qdiffusion(4, 8, **SHORT)}
    quantized = {name: quantize(pipe, recipe, inputs, progress=False) for name, recipe in recipes.items()}
    return {"fp": pipe, **quantized}


@pytest.mark.slow
def test_qdiffusion_beats_linear_at_w4a8(models):
    drawn = {name: sample(pipe, IMAGES, STEPS, record=True).trajectory for name, pipe in models.items()}
    error = {name: trajectory_mse(drawn["fp"], drawn[name])[-1].item() for name in ("linear", "qdiffusion")}
    assert error["qdiffusion"] < MARGIN * error["linear"]


@pytest.mark.slow
def test_saved_model_draws_the_same_bits(models, tmp_path):
    save_quantized(models["qdiffusion"], tmp_path)
    again = with_sampler(load(tmp_path), "ddim")
    assert torch.equal(sample(again, 2, 4).images, sample(models["qdiffusion"], 2, 4).images)
