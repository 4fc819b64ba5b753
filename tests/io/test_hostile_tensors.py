"""Hostile folders: nothing that a checkpoint states is believed, also with the right SHA-256.

See ``tampering``.
"""

import json
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DModel
from tampering import (
    TENSORS,
    edit_config,
    edit_tensors,
    nested,
)

from qdiff_lib import load


def put(name, value, where=-1):
    """Put a number into a tensor."""

    def change(tensors):
        tensors[name] = tensors[name].clone()
        tensors[name].view(-1)[where] = value

    return change


def replace(name, make):
    return lambda tensors: tensors.update({name: make(tensors[name])})


LAYER, BROAD = "conv_in", "mid_block.resnets.0.conv1"
VALUES = {
    "nan-bias": (put(f"{LAYER}.bias", float("nan")), "has nan in 'conv_in.bias'"),
    "inf-bias": (put(f"{LAYER}.bias", float("inf")), "has inf in 'conv_in.bias'"),
    "huge-bias": (put(f"{LAYER}.bias", -1e38), r"has -1e\+38 in 'conv_in.bias'"),
    "nan-norm": (put("conv_norm_out.weight", float("nan")), "has nan in 'conv_norm_out.weight'"),
    "nan-scale": (put(f"{LAYER}.weight_scale", float("nan")), "has nan in 'conv_in.weight_scale'"),
    "inf-scale": (put(f"{LAYER}.weight_scale", float("inf")), "has inf in 'conv_in.weight_scale'"),
    "zero-scale": (put(f"{LAYER}.weight_scale", 0), "a scale of 0 in 'conv_in.weight_scale'"),
    "negative-scale": (put(f"{LAYER}.weight_scale", -1), "a scale of -1 in 'conv_in.weight_scale'"),
    "huge-scale": (put(f"{LAYER}.weight_scale", 999_999), "a scale of 999999 in 'conv_in.weight_scale'"),
    "zero-point": (put(f"{LAYER}.weight_zero_point", 255), "zero point of 255 in .*from 0 to 7"),
    "next-zero-point": (put(f"{LAYER}.weight_zero_point", 8), "zero point of 8 in .*from 0 to 7"),
    "input-nan": (put(f"{LAYER}.inputs.0.scale", float("nan")), "has nan in 'conv_in.inputs.0.scale'"),
    "input-zero": (put(f"{LAYER}.inputs.0.scale", 0), "a scale of 0 in 'conv_in.inputs.0.scale'"),
    "softmax-scale": (
        put("mid_block.attentions.0.quantize_softmax.scale", -1),
        "a scale of -1 in 'mid_block.attentions.0.quantize_softmax.scale'",
    ),
    "softmax-zero-point": (
        replace("mid_block.attentions.0.quantize_softmax.zero_point", lambda t: torch.full_like(t, -3)),
        "zero point of -3 in",
    ),
    "unused-bits": (
        put("conv_out.codes", 255),
        "255 as the last byte of 'conv_out.codes', of which the upper",
    ),
    "short-bias": (replace(f"{BROAD}.bias", lambda t: t[:1].clone()), r"bias' of shape \(1,\), not \(12,\)"),
    "long-bias": (replace(f"{BROAD}.bias", lambda t: t.repeat(2)), r"bias' of shape \(24,\), not \(12,\)"),
    "short-scale": (
        replace(f"{BROAD}.weight_scale", lambda t: t[:1].clone()),
        r"of shape \(1, 1\), not \(12, 1",
    ),
    "scalar-as-one": (
        replace(f"{LAYER}.inputs.0.scale", lambda t: t[None].clone()),
        r"shape \(1,\), not \(\)",
    ),
    "short-codes": (replace(f"{LAYER}.codes", lambda t: t[:-1].clone()), "'conv_in.codes' of shape"),
    "whole-bias": (replace(f"{LAYER}.bias", lambda t: t.to(torch.int32)), "'conv_in.bias' in torch.int32"),
    "complex-bias": (
        replace(f"{LAYER}.bias", lambda t: t.to(torch.complex64)),
        "'conv_in.bias' in torch.compl",
    ),
    "half-scale": (
        replace(f"{LAYER}.weight_scale", lambda t: t.half()),
        "'conv_in.weight_scale' in torch.fl",
    ),
    "wide-codes": (replace(f"{LAYER}.codes", lambda t: t.to(torch.int16)), "'conv_in.codes' in torch.int16"),
    "missing": (lambda tensors: tensors.pop(f"{LAYER}.bias"), "lacks 'conv_in.bias' of this network"),
    "extra": (lambda tensors: tensors.update(more=torch.zeros(1)), "no place for 'more' of this network"),
}


@pytest.mark.parametrize("change, message", VALUES.values(), ids=VALUES.keys())
def test_values_of_tensors(folder, change, message):
    edit_tensors(folder, change)
    for read in (load, DiffusionPipeline.from_pretrained, lambda f: UNet2DModel.from_pretrained(f / "unet")):
        with pytest.raises(ValueError, match=rf"{Path(TENSORS).name} .*{message}"):
            read(folder)


def test_the_last_code_does_not_fill_its_byte(folder):
    """Else the test above of the unused bits would test nothing."""
    unet = load(folder).unet
    assert unet.conv_out.weight_grid.bits == 3 and unet.conv_out.weight.numel() * 3 % 8


def recipe(change):
    return lambda config: change(config["quantization_config"]["recipe"])


def whole(change):
    return lambda config: change(config["quantization_config"])


def layer(**changes):
    return whole(lambda q: q["structure"]["layers"][0].update(changes))


STATED = {
    "seed": (recipe(lambda r: r.update(seed=-1)), "recipe of quantization_config is damaged"),
    "rate": (
        recipe(lambda r: r["rounding"].update(lr=float("nan"))),
        "recipe of quantization_config is damag",
    ),
    "long-number": (
        recipe(lambda r: r["rounding"].update(lr=10**400)),
        "recipe of quantization_config is dama",
    ),
    "rule": (recipe(lambda r: r["calibration"].update(rule=[3])), "recipe of quantization_config is damaged"),
    "part": (recipe(lambda r: r.update(rounding=None)), "recipe of quantization_config is damaged"),
    "calibration": (whole(lambda q: q.update(calibration=[1])), "quantization_config has calibration="),
    "deep": (
        whole(lambda q: q.update(calibration={"a": json.loads(nested(70))})),
        "quantization_config|nested",
    ),
    "format": (whole(lambda q: q.update(format=True)), "format True; this version has 2"),
    "self": (whole(lambda q: q.update(self=1)), r"entries \['self'\]"),
    "names": (layer(names=["conv_in.__class__"]), "names 'conv_in.__class__'"),
    "root": (layer(names=[""]), "names '', and the network has no such"),
    "a-million": (layer(names=["conv_in"] * 10**5), "names 10000. modules"),
    "sizes": (layer(names=["conv_in"], sizes=[-1, 2]), r"sizes=\[-1, 2\]"),
    "sum": (layer(names=["conv_in"], sizes=[3, 4]), r"sizes=\(3, 4\) must sum to"),
    "bits": (layer(weight_bits=1), "bits=1 is not supported"),
}


@pytest.mark.parametrize("change, message", STATED.values(), ids=STATED.keys())
def test_what_the_config_states(folder, change, message):
    edit_config(folder, change)
    for read in (load, DiffusionPipeline.from_pretrained):
        with pytest.raises(ValueError, match=f"config.json.*({message})"):
            read(folder)


def test_the_tests_edits_keep_a_whole_checkpoint_whole(folder):
    """Else the tests above would see a wrong hash only."""
    before = load(folder).unet.state_dict()
    edit_config(folder, lambda values: None)
    after = load(folder).unet.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_saving_refuses_what_loading_would(folder, tmp_path):
    unet = load(folder).unet
    unet.conv_out.bias.data.fill_(float("nan"))
    with pytest.raises(ValueError, match="the network has nan in 'conv_out.bias'"):
        unet.save_pretrained(tmp_path / "again")
    assert not list((tmp_path / "again").glob("*"))
