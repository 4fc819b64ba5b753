"""Packed checkpoints: bit-exact, as small as the bits promise, and clear about what is wrong with them."""

import importlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel
from safetensors.torch import load_file, save_file
from tiny_models import (
    SMALL,
    assert_same_tensors,
    conditional_unet,
    ddpm,
    output,
    random_inputs,
    snapshot,
    unet2d,
)

from qdiff_lib import Recipe, checkpoint, load_quantized, quantize, sample, save_quantized
from qdiff_lib.checkpoint import TENSORS, float_count
from qdiff_lib.files import sha256
from qdiff_lib.layers import activation_quantizers, quant_layers, quantized_state

ROOT = Path(__file__).parent.parent


def quantized_pipe(unet=None, method="linear", weights=4, activations=8, **changes):
    pipe = ddpm(unet)
    recipe = Recipe.named(method, weights=weights, activations=activations, **{**SMALL, **changes})
    return quantize(pipe, recipe, random_inputs(pipe.unet, 8), progress=False)


@pytest.fixture(scope="module")
def pipe():
    """A quantized pipeline with split layers; do not change it."""
    return quantized_pipe(split=True)


@pytest.fixture(scope="module")
def other():
    """Another one, of 8 bits."""
    return quantized_pipe(weights=8)


@pytest.fixture
def folder(pipe, tmp_path):
    """A checkpoint of ``pipe``."""
    save_quantized(pipe, tmp_path / "saved")
    return tmp_path / "saved"


CASES = {
    "W4A8": dict(),
    "W4A8-split": dict(split=True),
    "W3A32": dict(weights=3, activations=32),
    "W8A6": dict(weights=8, activations=6),
    "W16A16": dict(weights=16, activations=16, softmax_bits=16),
    "W32A8": dict(weights=32),
    "edges-and-excluded": dict(edge_bits=8, exclude=("mid_block.*", "time_embedding.*")),
    "asymmetric-mse": dict(symmetric_activations=False, activation_range="mse_search", split=True),
    "qdiffusion": dict(method="qdiffusion"),
    "text": dict(method="qdiffusion", make=conditional_unet),
}


@pytest.mark.parametrize("options", CASES.values(), ids=CASES.keys())
def test_a_round_trip_keeps_every_bit(options, tmp_path):
    options = dict(options)
    pipe = quantized_pipe(options.pop("make", unet2d)(), **options)
    inputs = random_inputs(pipe.unet)
    save_quantized(pipe, tmp_path)
    unet = load_quantized(tmp_path).unet
    assert torch.equal(output(unet, inputs), output(pipe.unet, inputs))
    assert_same_tensors(quantized_state(unet), quantized_state(pipe.unet))
    assert_same_tensors(snapshot(unet), snapshot(pipe.unet))
    grids = [[q.grid for q in activation_quantizers(u)] for u in (unet, pipe.unet)]
    assert grids[0] == grids[1]
    parts = [[(layer.weight_grid, layer.sizes) for layer in quant_layers(u)] for u in (unet, pipe.unet)]
    assert parts[0] == parts[1]


def test_a_loaded_pipeline_is_the_saved_one(pipe, folder):
    loaded = load_quantized(folder)
    assert type(loaded) is type(pipe) and type(loaded.scheduler) is type(pipe.scheduler)
    configs = [{k: v for k, v in p.scheduler.config.items() if not k.startswith("_")} for p in (loaded, pipe)]
    assert configs[0] == configs[1]
    assert loaded.unet.quantization.recipe == pipe.unet.quantization.recipe
    assert loaded.unet.quantization.trace == pipe.unet.quantization.trace
    assert not [name for name, module in loaded.unet.named_modules() if module.training]
    assert not [name for name, p in loaded.unet.named_parameters() if p.requires_grad]
    assert torch.equal(sample(loaded, 2, 3).images, sample(pipe, 2, 3).images)


def test_a_loaded_pipeline_can_be_saved_again(folder, tmp_path):
    second = save_quantized(load_quantized(folder), tmp_path / "second")
    assert second.read_bytes() == (folder / TENSORS).read_bytes()


def test_no_full_precision_weights_are_stored(pipe, folder):
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    assert sorted(files) == [
        "model_index.json", "quantized.json", "scheduler/scheduler_config.json", "unet/config.json", TENSORS,
    ]  # fmt: skip
    tensors = load_file(folder / TENSORS)
    packed = {name for name in tensors if tensors[name].dtype == torch.uint8}
    layers = {f"{name}.weight" for name, m in unet2d().named_modules() if isinstance(m, torch.nn.Linear)}
    layers |= {f"{name}.weight" for name, m in unet2d().named_modules() if isinstance(m, torch.nn.Conv2d)}
    assert {name for name in packed if name.endswith(".weight")} == {n for n in layers if n in tensors}
    assert len(quant_layers(pipe.unet)) == sum(name.endswith(".weight") for name in packed)


def training_config():
    """``CONFIG`` of training/train_ddpm.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "training"))
        return importlib.import_module("train_ddpm").CONFIG


@pytest.fixture(scope="module")
def large():
    """The shipped model's architecture with random weights, and two inputs to calibrate on."""
    unet = UNet2DModel(**training_config())
    return ddpm(unet), random_inputs(unet, 2)


def promised_bytes(unet, bits, seams):
    """Codes at their bits, 4 bytes for each other parameter, and 5 for each output channel and part."""
    layers = {n: m for n, m in unet.named_modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)}
    weights = sum(layer.weight.numel() for layer in layers.values())
    others = sum(p.numel() for p in unet.parameters()) - weights
    scales = sum(layer.weight.shape[0] * len(seams.get(name, (0,))) for name, layer in layers.items())
    return weights * bits / 8 + others * 4 + scales * 5, others


@pytest.mark.slow
@pytest.mark.parametrize("bits", [3, 4, 8])
def test_the_size_is_what_the_bits_promise(large, bits, tmp_path):
    pipe, inputs = large
    recipe = Recipe.linear(bits, 8, split=True)
    quantized = quantize(pipe, recipe, inputs, progress=False)
    size = save_quantized(quantized, tmp_path).stat().st_size
    promised, floats = promised_bytes(pipe.unet, bits, quantized.unet.quantization.trace.seams)
    assert float_count(quantized.unet) == floats
    assert size == pytest.approx(promised, rel=0.05)
    everything = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert everything < size + 8192
    loaded = load_quantized(tmp_path)
    assert torch.equal(output(loaded.unet, inputs), output(quantized.unet, inputs))


# What is wrong is said


def edit_about(folder, **changes):
    path = folder / "quantized.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_tensors(folder, change):
    tensors = load_file(folder / TENSORS)
    change(tensors)
    save_file(tensors, folder / TENSORS)
    edit_about(folder, sha256=sha256(folder / TENSORS))


@pytest.mark.parametrize("place", [0, 9, -1], ids=["length", "header", "last-byte"])
def test_a_damaged_file_is_refused(folder, place):
    content = bytearray((folder / TENSORS).read_bytes())
    content[place] ^= 1
    (folder / TENSORS).write_bytes(content)
    with pytest.raises(ValueError, match="quantized.safetensors is damaged"):
        load_quantized(folder)


def test_a_truncated_file_is_refused(folder):
    (folder / TENSORS).write_bytes((folder / TENSORS).read_bytes()[:-100])
    with pytest.raises(ValueError, match="quantized.safetensors is damaged"):
        load_quantized(folder)


@pytest.mark.parametrize("name", ["quantized.json", TENSORS])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=Path(name).name):
        load_quantized(folder)


def test_a_missing_config_is_named(folder):
    (folder / "unet" / "config.json").unlink()
    with pytest.raises(OSError, match="config.json"):
        load_quantized(folder)


@pytest.mark.parametrize("version", [0, 2, None])
def test_another_format_is_refused(folder, version):
    edit_about(folder, format=version)
    with pytest.raises(ValueError, match=f"format {version}; this version reads 1"):
        load_quantized(folder)


def test_an_unquantized_pipeline_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not quantized; call quantize"):
        save_quantized(ddpm(), tmp_path / "saved")
    assert not list(tmp_path.iterdir())


def test_left_over_tensors_are_refused(folder):
    edit_tensors(folder, lambda tensors: tensors.update(surplus=torch.zeros(2)))
    with pytest.raises(ValueError, match="no place for: .*surplus"):
        load_quantized(folder)


@pytest.mark.parametrize("name", ["conv_in.weight", "conv_in.bias", "weight_scale", "activation_scale"])
def test_a_missing_tensor_is_named(folder, name):
    edit_tensors(folder, lambda tensors: tensors.pop(name))
    with pytest.raises(ValueError, match=f"lacks the tensor '{name}'"):
        load_quantized(folder)


def test_too_few_codes_are_refused(folder):
    edit_tensors(folder, lambda t: t.update({"conv_in.weight": t["conv_in.weight"][:-1].clone()}))
    with pytest.raises(ValueError, match="codes of 4 bits take 36 bytes, but there are 35"):
        load_quantized(folder)


# Interrupted saves


@pytest.mark.parametrize("failing", ["packed_state", "save_file", "sha256", "write_json"])
@pytest.mark.parametrize(
    "error", [OSError("no space left on device"), KeyboardInterrupt()], ids=["io", "ctrl-c"]
)
def test_an_interrupted_save_leaves_the_old_checkpoint(pipe, other, folder, failing, error, monkeypatch):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def fail(*args):
        if failing == "save_file":
            Path(args[1]).write_bytes(b"half")
        raise error

    with monkeypatch.context() as patch, pytest.raises(type(error)):
        patch.setattr(checkpoint, failing, fail)
        save_quantized(other, folder)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    inputs = random_inputs(pipe.unet)
    assert torch.equal(output(load_quantized(folder).unet, inputs), output(pipe.unet, inputs))


def test_a_save_replaces_the_old_checkpoint(other, folder):
    save_quantized(other, folder)
    inputs = random_inputs(other.unet)
    assert torch.equal(output(load_quantized(folder).unet, inputs), output(other.unet, inputs))


def test_a_checkpoint_can_be_moved(pipe, folder, tmp_path):
    shutil.move(folder, tmp_path / "elsewhere")
    assert load_quantized(tmp_path / "elsewhere").unet.quantization.recipe == pipe.unet.quantization.recipe
