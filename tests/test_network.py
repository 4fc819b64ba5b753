"""The stage after the last unit: what it gains, what it leaves alone, and that a kill changes no bit."""

from dataclasses import replace

import pytest
import torch
from tiny_models import (
    SMALL,
    assert_same_tensors,
    conditional_unet,
    ddim,
    random_inputs,
    snapshot,
    unet2d,
)

from qdiff_lib import Recipe, load_quantized, quantize, save_quantized
from qdiff_lib.checkpoint import weight_codes, weight_layers
from qdiff_lib.layers import activation_quantizers
from qdiff_lib.network import NAME, NetworkFitter, step_weights
from qdiff_lib.reconstruction import UnitFitter, reconstruction_loss

ROWS = 16


def recipe(weights=3, activations=8, **changes):
    numbers = {**SMALL, "network_iterations": 40, "lr_network": 3e-3, "batch_size": 8}
    return Recipe.qdiffusion(weights, activations, **{**numbers, **changes})


def quantized(unet, how, **options):
    return quantize(ddim(unet), how, random_inputs(unet, ROWS), progress=False, **options).unet


@torch.no_grad()
def loss_of(unet, full):
    inputs = random_inputs(full, ROWS).rows(slice(None))
    return reconstruction_loss(unet(**inputs).sample, full(**inputs).sample).item()


@pytest.mark.parametrize("make", [unet2d, conditional_unet])
@pytest.mark.parametrize(
    ("bits", "left"),
    [((3, 8), 0.9), ((3, 32), 0.9), ((32, 4), 1)],
    ids=["both", "weights", "steps-alone"],
)
def test_the_networks_error_falls_and_is_reported(make, bits, left):
    unet = make()
    before = quantized(unet, recipe(*bits, network_iterations=0))
    after = quantized(unet, recipe(*bits))
    assert loss_of(after, unet) < left * loss_of(before, unet)
    report = after.quantization.units[-1]
    assert (report.name, report.index) == (NAME, len(after.quantization.trace.units))
    assert report.error == pytest.approx(loss_of(after, unet), rel=1e-4)
    assert NAME not in [unit.name for unit in before.quantization.units]


def test_halving_a_steps_error_counts_the_same_at_every_step():
    step = torch.tensor([7, 2, 7, 2, 4])
    losses = torch.tensor([1e-4, 0.2, 3e-4, 0.4, 0.0])
    weights = step_weights(losses, step)
    torch.testing.assert_close(weights[:4], torch.tensor([5e3, 10 / 3, 5e3, 10 / 3]))
    assert weights[4].isfinite()
    totals = [(weights * losses)[step == s].sum().item() for s in (7, 2)]
    assert totals == pytest.approx([2, 2])


def test_codes_stay_and_scales_and_biases_move():
    unet = unet2d()
    before, after = (quantized(unet, recipe(network_iterations=n)) for n in (0, 10))
    pairs = list(zip(weight_layers(before), weight_layers(after), strict=True))
    for (name, one), (_, two) in pairs:
        assert torch.equal(weight_codes(one), weight_codes(two)), name
        assert torch.equal(one.weight_zero_point, two.weight_zero_point)
        assert (two.weight_scale > 0).all() and two.rounding is None
    for field in ("weight_scale", "layer.bias"):
        values = [[part.get_parameter(field) if "." in field else part.weight_scale for _, part in pair]
                  for pair in pairs]  # fmt: skip
        assert sum(not torch.equal(*both) for both in values) > 0.9 * len(values)
    steps = [[q.scale for q in activation_quantizers(model)] for model in (before, after)]
    assert sum(not torch.equal(*both) for both in zip(*steps, strict=True)) > 0.9 * len(steps[0])


def test_nothing_else_is_touched():
    unet = unet2d()
    original = {name: value.clone() for name, value in unet.state_dict().items()}
    after = quantized(unet, recipe())
    assert all(torch.equal(value, original[name]) for name, value in unet.state_dict().items())
    norms = [name for name in original if "norm" in name]
    assert norms and all(torch.equal(after.get_parameter(name), original[name]) for name in norms)
    for model in (unet, after):
        assert not [name for name, p in model.named_parameters() if p.grad is not None]
    assert not [name for name, p in after.named_parameters() if p.requires_grad]


def test_the_units_are_those_without_this_stage():
    unet = unet2d()
    before, after = (quantized(unet, recipe(network_iterations=n)).quantization.units for n in (0, 3))
    assert [unit.error for unit in after[:-1]] == [unit.error for unit in before]


def test_a_saved_network_computes_the_same(tmp_path):
    unet = unet2d()
    pipe = quantize(ddim(unet), recipe(), random_inputs(unet, ROWS), progress=False)
    save_quantized(pipe, tmp_path)
    again = load_quantized(tmp_path).unet
    assert_same_tensors(snapshot(again), snapshot(pipe.unet))


def test_an_interrupted_stage_ends_with_the_same_bits(tmp_path, monkeypatch):
    unet = unet2d()
    expected = snapshot(quantized(unet, recipe()))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(NetworkFitter, "minimize", stopped(UnitFitter.minimize))
        quantized(unet, recipe(), work=tmp_path)
    assert_same_tensors(snapshot(quantized(unet, recipe(), work=tmp_path, resume=True)), expected)
    monkeypatch.setattr(NetworkFitter, "fit_affine", lambda fitter: pytest.fail("it was finished"))
    assert_same_tensors(snapshot(quantized(unet, recipe(), work=tmp_path, resume=True)), expected)


def stopped(minimize):
    def stopping(self, *args):
        minimize(self, *args)
        raise KeyboardInterrupt

    return stopping


def test_a_callback_hears_of_it():
    seen = []
    unet = unet2d()
    reports = quantized(unet, recipe(), callback=seen.append).quantization.units
    assert seen == reports and seen[-1].name == NAME


def test_without_iterations_it_is_not_refused_for_methods_without_units():
    plain = Recipe.linear(4, 8, **SMALL)
    unet = unet2d()
    one, two = (quantized(unet, replace(plain, network_iterations=n)) for n in (0, 5))
    assert_same_tensors(snapshot(one), snapshot(two))
