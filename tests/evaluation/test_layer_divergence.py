"""Divergences by layer and step: those of all outputs at once, 0 for equal networks, more for fewer bits."""

import copy
import weakref

import pytest
import torch
from tiny_models import SMALL, ddim, output, random_inputs, snapshot, unet2d

from qdiff_lib import Recipe, quantize
from qdiff_lib.calibration.calibration_set import CalibrationSet
from qdiff_lib.course.watching import layer_outputs
from qdiff_lib.evaluation.kl_divergence import kl_divergence
from qdiff_lib.evaluation.layer_divergence import layer_divergences, quantized_names

LAYERS = ["conv_in", "mid_block.attentions.0.to_q", "up_blocks.1.resnets.1.conv_shortcut", "conv_out"]


def steps_of(unet, steps=(0, 3, 7), each=5, seed=0):
    """Random inputs in random order, as many at each step."""
    found = random_inputs(unet, each * len(steps), seed)
    step = torch.tensor(steps).repeat(each)
    return CalibrationSet(found.inputs, step, {})


@pytest.fixture(scope="module")
def pipe():
    return ddim()


@pytest.fixture(scope="module")
def four_bits(pipe):
    """The UNet with weights and activations of four bits; do not change it."""
    return quantized(pipe, 4)


def quantized(pipe, bits, method="linear"):
    recipe = Recipe.named(method, weights=bits, activations=bits, **SMALL)
    return quantize(pipe, recipe, steps_of(pipe.unet, seed=1), progress=False).unet


def test_values_are_those_of_all_outputs_at_once(pipe, four_bits):
    inputs = steps_of(pipe.unet)
    found = layer_divergences(pipe.unet, four_bits, inputs, LAYERS, batch_size=2)
    assert (found.layers, found.steps, found.values.shape) == (LAYERS, [0, 3, 7], (3, 4))
    for row, step in zip(found.values, found.steps, strict=True):
        index = (inputs.step == step).nonzero().flatten()
        here = CalibrationSet(inputs.rows(index), inputs.step[index], {})
        outputs = [layer_outputs(unet, LAYERS, here) for unet in (pipe.unet, four_bits)]
        expected = [kl_divergence(*(out[layer] for out in outputs)) for layer in LAYERS]
        # Another batch size may round an output differently, and move it to the next bin: a few in 320.
        assert row.tolist() == pytest.approx(expected, rel=0.02, abs=1e-3)


def test_equal_networks_have_none(pipe):
    found = layer_divergences(pipe.unet, copy.deepcopy(pipe.unet), steps_of(pipe.unet), LAYERS)
    assert torch.equal(found.values, torch.zeros(3, 4, dtype=torch.float64))


@pytest.mark.parametrize("method", ["linear", "squant"])
def test_fewer_bits_diverge_more(pipe, method):
    inputs = steps_of(pipe.unet)
    means = [
        layer_divergences(pipe.unet, quantized(pipe, bits, method), inputs).values.mean(1)
        for bits in (8, 5, 2)
    ]
    assert (means[0] >= 0).all()
    for more, fewer in zip(means, means[1:], strict=False):
        assert (more < fewer).all()


def test_by_default_all_quantized_layers_are_checked(pipe, four_bits):
    found = layer_divergences(pipe.unet, four_bits, steps_of(pipe.unet, (5,), 2), bins=32)
    assert found.layers == quantized_names(four_bits) and set(LAYERS) <= set(found.layers)
    assert found.steps == [5] and found.values.shape == (1, len(found.layers))
    assert (found.values >= 0).all() and found.values.max() > 0


def test_both_networks_are_left_as_they_were(pipe, four_bits):
    full = unet2d(dropout=0.5).train()
    before = snapshot(full)
    inputs = steps_of(full)
    first, second = (layer_divergences(full, four_bits, inputs, LAYERS).values for _ in range(2))
    assert torch.equal(first, second)  # no dropout
    assert full.training and not four_bits.training
    assert all(torch.equal(before[name], value) for name, value in snapshot(full).items())
    assert not [m for unet in (full, four_bits) for m in unet.modules() if m._forward_hooks]
    assert output(four_bits, inputs).isfinite().all()


def test_no_output_is_kept(pipe, four_bits):
    alive, seen = [], []

    def look(module, args, out):
        alive.append(sum(earlier() is not None for earlier in seen))
        seen.append(weakref.ref(out))

    handles = [unet.conv_in.register_forward_hook(look) for unet in (pipe.unet, four_bits)]
    layer_divergences(pipe.unet, four_bits, steps_of(pipe.unet), LAYERS, batch_size=2)
    for handle in handles:
        handle.remove()
    assert len(seen) == 3 * 3 * 2 * 2 and not any(alive)  # steps, batches, networks, passes


def test_outputs_that_are_not_finite_are_named(pipe, four_bits):
    inputs = steps_of(pipe.unet)
    inputs.inputs["sample"][2] = float("nan")
    with pytest.raises(ValueError, match="layer 'conv_in' puts out values that are not finite"):
        layer_divergences(pipe.unet, four_bits, inputs, LAYERS)
    assert not [m for m in pipe.unet.modules() if m._forward_hooks]


@pytest.mark.parametrize(
    "changes", [dict(bins=0), dict(pseudocount=0.0), dict(batch_size=0), dict(layers=[])], ids=str
)
def test_wrong_arguments(pipe, four_bits, changes):
    with pytest.raises(ValueError, match="must be positive|give at least one"):
        layer_divergences(pipe.unet, four_bits, steps_of(pipe.unet), **changes)


def test_a_network_without_quantized_layers_needs_names(pipe):
    with pytest.raises(ValueError, match="0 layers"):
        layer_divergences(pipe.unet, pipe.unet, steps_of(pipe.unet))
