"""Checkpoints of format 1 become today's, with the same codes."""

import json

import pytest
import torch
from safetensors.torch import save_file
from tiny_models import SMALL, assert_same_tensors, ddpm, output, random_inputs, snapshot

from qdiff_lib import Recipe, load, quantize
from qdiff_lib.io.checkpoint import float_tensors, weight_layers
from qdiff_lib.modules.activation_quantizer import activation_quantizers
from tools import upgrade_checkpoint
from tools.upgrade_checkpoint import RENAMED, upgrade


def flat_recipe(recipe):
    """The JSON form of format 1: all fields side by side, some under other names."""
    old = {new: old for old, new in RENAMED.items()}
    values = {}
    for name, value in recipe.to_dict().items():
        values |= value if isinstance(value, dict) else {name: value}
    return {old.get(name, name): value for name, value in values.items()}


def old_tensors(unet):
    """The tensors of format 1: codes by layer, floats by name, all grids in four tensors by position."""
    layers, quantizers = weight_layers(unet), activation_quantizers(unet)
    tensors = float_tensors(unet) | {f"{name}.weight": layer.codes for name, layer in layers}
    tensors["weight_scale"] = torch.cat([layer.weight_scale.flatten() for _, layer in layers])
    zero_points = [layer.weight_zero_point.flatten().int() for _, layer in layers]
    tensors["weight_zero_point"] = torch.cat(zero_points)
    tensors["activation_scale"] = torch.stack([q.scale for q in quantizers])
    tensors["activation_zero_point"] = torch.stack([q.zero_point.int() for q in quantizers])
    return tensors


@pytest.fixture(scope="module")
def pipe():
    """A quantized pipeline of uneven bits; do not change it."""
    pipe = ddpm()
    recipe = Recipe.linear(3, 8, edge_bits=16, softmax_bits=16, split=True, **SMALL)
    return quantize(pipe, recipe, random_inputs(pipe.unet, 8), progress=False)


@pytest.fixture
def old(pipe, tmp_path):
    """The pipeline in a folder of format 1."""
    folder = tmp_path / "old"
    ddpm().save_pretrained(folder)
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    save_file(old_tensors(pipe.unet), folder / "unet" / "quantized.safetensors")
    about = {"format": 1, "unet": "UNet2DModel", "recipe": flat_recipe(pipe.unet.quantization.recipe)}
    about["calibration"] = {"seed": 7}
    (folder / "quantized.json").write_text(json.dumps(about))
    return folder


def test_an_upgraded_checkpoint_has_the_same_codes(pipe, old, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["upgrade_checkpoint", str(old), str(tmp_path / "new")])
    upgrade_checkpoint.main()
    unet = load(tmp_path / "new").unet
    assert_same_tensors(snapshot(unet), snapshot(pipe.unet))
    assert unet.quantization.recipe == pipe.unet.quantization.recipe
    assert unet.quantization.calibration == {"seed": 7}
    inputs = random_inputs(unet)
    assert torch.equal(output(unet, inputs), output(pipe.unet, inputs))


@pytest.mark.parametrize("change", ["surplus", "lost"])
def test_tensors_left_over_or_missing_are_named(change, pipe, old, tmp_path):
    tensors = old_tensors(pipe.unet)
    if change == "surplus":
        tensors["more"] = torch.zeros(1)
    else:
        del tensors["conv_in.bias"]
    save_file(tensors, old / "unet" / "quantized.safetensors")
    with pytest.raises(ValueError, match="more" if change == "surplus" else "conv_in.bias"):
        upgrade(old, tmp_path / "new")
    assert not (tmp_path / "new").exists()
