"""Values that are not finite stop the work where they arise, with the name of what made them."""

import pytest
import torch
from diffusers import DDIMScheduler
from tiny_models import ddim, random_inputs, unet2d

from qdiff_lib import CalibrationSet, Recipe, quantize, record, sample
from qdiff_lib.graph.finite import check_weights, is_finite
from qdiff_lib.recipes.timestep_rules import Uniform

WEIGHT = "mid_block.resnets.0.conv1.weight"
SMALL = dict(steps=2, samples=4, iterations=2, step_size_iterations=1, batch_size=4)


def broken(value):
    pipe = ddim(unet2d())
    with torch.no_grad():
        pipe.unet.get_parameter(WEIGHT)[0, 0, 0, 0] = value
    return pipe


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_is_named(value):
    with pytest.raises(ValueError, match=f"not finite in '{WEIGHT}'"):
        check_weights(broken(value).unet)
    assert is_finite(torch.tensor([1, 2])) and is_finite(torch.empty(2, device="meta"))


@pytest.mark.parametrize("method", ["linear", "squant", "ptq4dm", "qdiffusion"])
def test_quantize_refuses_a_broken_network_before_any_work(method):
    with pytest.raises(ValueError, match=f"the UNet has values that are not finite in '{WEIGHT}'"):
        quantize(broken(float("nan")), Recipe.named(method, **SMALL), progress=False)


def test_sample_and_record_name_the_weight():
    pipe = broken(float("nan"))
    for act in (lambda: sample(pipe, 2, 2), lambda: record(pipe, Uniform(1), 4, 2)):
        with pytest.raises(ValueError, match=WEIGHT):
            act()


def test_an_overflow_is_found_though_each_weight_is_finite():
    pipe = broken(0.0)
    with torch.no_grad():
        pipe.unet.get_parameter(WEIGHT).fill_(1e38)
    with pytest.raises(ValueError, match="prediction at time .* is not finite, although its weights are"):
        sample(pipe, 2, 2)
    with pytest.raises(ValueError, match="layer 'mid_block.resnets.0.conv1' puts out values"):
        quantize(pipe, Recipe.linear(**SMALL), progress=False)


def test_a_scheduler_is_named(monkeypatch):
    pipe, step = ddim(), DDIMScheduler.step

    def divided(self, *args, **kwargs):
        out = step(self, *args, **kwargs)
        out.prev_sample[0] /= 0
        return out

    monkeypatch.setattr(DDIMScheduler, "step", divided)
    with pytest.raises(ValueError, match="DDIMScheduler gives values that are not finite after time"):
        sample(pipe, 2, 2)


@pytest.mark.parametrize("column", ["sample", "timestep"])
def test_a_calibration_set_with_nan_is_refused(column):
    pipe = ddim()
    given = random_inputs(pipe.unet, 4)
    values = {**given.inputs, column: given.inputs[column].float().clone()}
    values[column].view(-1)[3] = float("nan")
    with pytest.raises(ValueError, match=f"calibration: its '{column}' holds values that are not finite"):
        quantize(pipe, Recipe.linear(), CalibrationSet(values, given.step, {}), progress=False)


def test_learning_that_diverges_names_the_unit():
    recipe = Recipe.qdiffusion(4, 8, **{**SMALL, "iterations": 60}, lr_step_sizes=1e30)
    with pytest.raises(ValueError, match="the error of unit '.*' is .* after learning: lower the rates"):
        quantize(ddim(), recipe, progress=False)
