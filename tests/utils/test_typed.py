"""Arguments of the wrong class are refused by the public functions, in words."""

import pytest

from qdiff_lib import Recipe, Uniform, load, quantize, record, sample, score, trajectory_mse, with_sampler

PIPE = "pipe='ddpm' is a str: give a pipeline of diffusers"
WRONG = {
    "quantize": (lambda: quantize("ddpm", Recipe()), PIPE),
    "sample": (lambda: sample("ddpm", 1, 2), PIPE),
    "record": (lambda: record("ddpm", Uniform(), 2, 2), PIPE),
    "with_sampler": (lambda: with_sampler("ddpm", "ddim"), PIPE),
    "rule": (lambda: record(load("ddpm-fashion"), "uniform", 2, 2), "rule='uniform' is a str: give a rule"),
    "score": (lambda: score([1, 2]), r"images=\[1, 2\] is a list: give a tensor"),
    "trajectory": (lambda: trajectory_mse([1], [2]), r"reference=\[1\] is a list: give the trajectory"),
}


@pytest.mark.parametrize("use, message", WRONG.values(), ids=WRONG.keys())
def test_objects_of_another_class_are_refused(use, message):
    with pytest.raises(TypeError, match=message):
        use()


@pytest.mark.parametrize("device", ["tpu", "cuda:x", None])
def test_a_device_that_torch_does_not_know_is_refused(device):
    with pytest.raises(ValueError, match="is no device: use 'cpu', 'cuda' or 'cuda:0'"):
        load("ddpm-fashion", device)
