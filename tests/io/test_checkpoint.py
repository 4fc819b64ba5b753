"""Quantized checkpoints: as small as the bits promise, checked before they are written; damage is named."""

import copy
import importlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DDPMPipeline, UNet2DModel, VQModel
from latent_models import latent_diffusion, stable_diffusion
from safetensors import safe_open
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
from torch import nn

from qdiff_lib import Recipe, load, quantize, sample, save_quantized
from qdiff_lib.io import checkpoint
from qdiff_lib.io.checkpoint import TENSORS, float_tensors
from qdiff_lib.io.native import content_hash
from qdiff_lib.modules.activation_quantizer import activation_quantizers
from qdiff_lib.modules.quant_layer import quant_layers
from qdiff_lib.quantizers.grid import Grid

ROOT = Path(__file__).parents[2]
CONFIG = "unet/config.json"


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


@pytest.fixture(scope="module")
def written(pipe, tmp_path_factory):
    """A checkpoint of ``pipe``; do not change it."""
    folder = tmp_path_factory.mktemp("written") / "saved"
    save_quantized(pipe, folder)
    return folder


@pytest.fixture
def folder(written, tmp_path):
    """A copy of it."""
    return shutil.copytree(written, tmp_path / "saved")


def contents(folder):
    """Bytes of all files, by path."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


CASES = {
    "W4A32": dict(activations=32),
    "W32A8": dict(weights=32),
    "edges-and-excluded": dict(edge_bits=8, exclude=("mid_block.*", "time_embedding.*")),
    "no-attention": dict(quantize_attention=False),
    "symmetric-mse": dict(symmetric_activations=True, activation_range="mse_search", split=True),
    "qdiffusion": dict(method="qdiffusion"),
    "text": dict(method="qdiffusion", make=conditional_unet),
}


@pytest.mark.parametrize("options", CASES.values(), ids=CASES.keys())
def test_a_round_trip_keeps_every_bit(options, tmp_path):
    options = dict(options)
    pipe = quantized_pipe(options.pop("make", unet2d)(), **options)
    inputs = random_inputs(pipe.unet)
    save_quantized(pipe, tmp_path)
    unet = load(tmp_path).unet
    assert torch.equal(output(unet, inputs), output(pipe.unet, inputs))
    assert_same_tensors(snapshot(unet), snapshot(pipe.unet))
    bits = [[q.grid.bits for q in activation_quantizers(u)] for u in (unet, pipe.unet)]
    assert bits[0] == bits[1]
    parts = [[(layer.weight_grid, layer.sizes) for layer in quant_layers(u)] for u in (unet, pipe.unet)]
    assert parts[0] == parts[1]


def test_a_loaded_pipeline_is_the_saved_one(pipe, written):
    loaded = load(written)
    assert type(loaded) is type(pipe) and type(loaded.scheduler) is type(pipe.scheduler)
    configs = [{k: v for k, v in p.scheduler.config.items() if not k.startswith("_")} for p in (loaded, pipe)]
    assert configs[0] == configs[1]
    assert loaded.unet.quantization.recipe == pipe.unet.quantization.recipe
    assert not [name for name, module in loaded.unet.named_modules() if module.training]
    assert not [name for name, p in loaded.unet.named_parameters() if p.requires_grad]
    assert torch.equal(sample(loaded, 2, 3).images, sample(pipe, 2, 3).images)


def stated_hash(path):
    """The SHA-256 in a file's metadata."""
    with safe_open(path, "pt") as file:
        return file.metadata()["qdiff_sha256"]


def test_a_loaded_pipeline_can_be_saved_again(written, tmp_path):
    second = save_quantized(load(written), tmp_path / "second")
    assert_same_tensors(load_file(second), load_file(written / TENSORS))
    assert stated_hash(second) == stated_hash(written / TENSORS)
    assert (tmp_path / "second" / CONFIG).read_bytes() == (written / CONFIG).read_bytes()


def test_no_full_precision_weights_are_stored(pipe, written):
    files = [path.relative_to(written).as_posix() for path in contents(written)]
    assert sorted(files) == ["model_index.json", "scheduler/scheduler_config.json", CONFIG, TENSORS]
    tensors = load_file(written / TENSORS)
    layers = {n for n, m in unet2d().named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    assert {name.removesuffix(".codes") for name in tensors if name.endswith(".codes")} == layers
    assert not [name for name in layers if f"{name}.weight" in tensors]
    assert len(quant_layers(pipe.unet)) == len(layers)


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


def promised_bytes(unet, bits, splits):
    """Codes at their bits, 4 bytes for each other parameter, and 5 for each output channel and part."""
    layers = {n: m for n, m in unet.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    weights = sum(layer.weight.numel() for layer in layers.values())
    others = sum(p.numel() for p in unet.parameters()) - weights
    scales = sum(layer.weight.shape[0] * len(splits.get(name, (0,))) for name, layer in layers.items())
    return weights * bits / 8 + others * 4 + scales * 5, others


@pytest.mark.slow
@pytest.mark.parametrize("bits", [3, 8])
def test_the_size_is_what_the_bits_promise(large, bits, tmp_path):
    pipe, inputs = large
    recipe = Recipe.linear(bits, 8, split=True, weight_range="min_max")
    quantized = quantize(pipe, recipe, inputs, progress=False)
    size = save_quantized(quantized, tmp_path).stat().st_size
    promised, floats = promised_bytes(pipe.unet, bits, quantized.unet.quantization.trace.concat_splits)
    assert sum(value.numel() for value in float_tensors(quantized.unet).values()) == floats
    names = sum(len(name) + 80 for name in quantized.unet.state_dict())  # the header of safetensors
    assert promised <= size <= 1.02 * promised + names


# What could not be loaded again is refused before anything is replaced


class MyPipeline(DDPMPipeline):
    pass


class MyUNet(UNet2DModel):
    pass


class MyVQModel(VQModel):
    pass


class Wrapped:
    def __init__(self, scheduler):
        self.scheduler = scheduler


def of_my_pipeline(pipe):
    return MyPipeline(pipe.unet, pipe.scheduler)


def of_my_unet(pipe):
    pipe.unet.__class__ = MyUNet
    return pipe


def with_an_added_layer(pipe):
    pipe.unet.mid_block.adapter = nn.Linear(2, 2)
    return pipe


def with_a_float_layer(pipe):
    pipe.unet.conv_in = unet2d().conv_in
    return pipe


def with_a_layer_of_other_bits(pipe):
    pipe.unet.conv_in = quantized_pipe(weights=3).unet.conv_in
    return pipe


def with_other_activation_bits(pipe):
    pipe.unet.conv_in.inputs[0].grid = Grid(4)
    return pipe


def with_a_removed_layer(pipe):
    pipe.unet.conv_out = nn.Identity()
    return pipe


def with_a_part(pipe):
    pipe = latent_diffusion(pipe.unet)
    pipe.vqvae.__class__ = MyVQModel
    return pipe


def with_a_wrapped_scheduler(pipe):
    pipe.scheduler = Wrapped(pipe.scheduler)
    return pipe


REFUSED = {
    "pipeline-class": (of_my_pipeline, "the pipeline is a MyPipeline, which is no class of diffusers"),
    "unet-class": (of_my_unet, "unet is a MyUNet, which diffusers cannot load: save a UNet2DModel"),
    "added-layer": (with_an_added_layer, "changed after quantize: 'mid_block.adapter.bias' is .* give None"),
    "float-layer": (with_a_float_layer, "changed after quantize: 'conv_in.codes' is None"),
    "other-bits": (
        with_a_layer_of_other_bits,
        "changed after quantize: 'conv_in.codes' is .*, and its files",
    ),
    "activation-bits": (with_other_activation_bits, "changed after quantize: it has layers of other bits"),
    "removed-layer": (with_a_removed_layer, "changed after quantize: 'conv_out.bias' is None"),
    "component": (with_a_part, r"cannot hold vqvae \(MyVQModel\), no class of diffusers or transformers"),
    "scheduler": (
        with_a_wrapped_scheduler,
        r"cannot hold scheduler \(Wrapped\).*with_sampler\(pipe, 'ddim'\)",
    ),
}


@pytest.mark.parametrize("change, message", REFUSED.values(), ids=REFUSED.keys())
def test_refused_saves_leave_the_old_checkpoint(change, message, other, pipe, folder):
    before = contents(folder)
    changed = change(ddpm(copy.deepcopy(other.unet)))
    with pytest.raises(ValueError, match=message):
        save_quantized(changed, folder)
    assert contents(folder) == before
    inputs = random_inputs(pipe.unet)
    assert torch.equal(output(load(folder).unet, inputs), output(pipe.unet, inputs))


@pytest.mark.parametrize(
    "change", [of_my_unet, with_an_added_layer, with_a_float_layer, with_a_removed_layer]
)
def test_diffusers_own_save_refuses_a_changed_network(change, other, tmp_path):
    unet = change(ddpm(copy.deepcopy(other.unet))).unet
    with pytest.raises(ValueError, match="cannot load|changed after quantize"):
        unet.save_pretrained(tmp_path / "model")
    assert not list(tmp_path.rglob("*.safetensors")) and not list(tmp_path.rglob("config.json"))


def test_an_unquantized_pipeline_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not quantized; call quantize"):
        save_quantized(ddpm(), tmp_path / "saved")
    assert not list(tmp_path.iterdir())


def test_no_pickled_weights_are_written(other, tmp_path):
    with pytest.raises(ValueError, match="safe_serialization=False.*leave it out"):
        copy.deepcopy(other.unet).save_pretrained(tmp_path, safe_serialization=False)
    assert not list(tmp_path.rglob("*.bin"))


@pytest.mark.parametrize("failing", ["save_component", "forget_origin", "write_json"])
@pytest.mark.parametrize("error", [OSError("no space left on device"), KeyboardInterrupt()], ids=["io", "^C"])
def test_an_interrupted_save_leaves_the_old_checkpoint(other, folder, failing, error, monkeypatch):
    before = contents(folder)

    def fail(*args):
        raise error

    with monkeypatch.context() as patch, pytest.raises(type(error)):
        patch.setattr(checkpoint, failing, fail)
        save_quantized(latent_diffusion(other.unet), folder)
    assert contents(folder) == before


def test_a_save_replaces_the_old_checkpoint(other, folder):
    save_quantized(other, folder)
    inputs = random_inputs(other.unet)
    assert torch.equal(output(load(folder).unet, inputs), output(other.unet, inputs))


# Damage is named, by load and by from_pretrained


def edit_config(folder, **changes):
    """Change entries of ``quantization_config``; the stated hash stays."""
    values = json.loads((folder / CONFIG).read_text())
    values["quantization_config"] |= changes
    (folder / CONFIG).write_text(json.dumps(values))


def edit_tensors(folder, change):
    """Change tensors, and state the hash of the new ones."""
    tensors = load_file(folder / TENSORS)
    change(tensors)
    values = json.loads((folder / CONFIG).read_text())["quantization_config"]
    metadata = {"format": "pt", "qdiff_sha256": content_hash(values, tensors)}
    save_file(tensors, folder / TENSORS, metadata)


def flip(place):
    def damage(folder):
        content = bytearray((folder / TENSORS).read_bytes())
        content[place] ^= 1
        (folder / TENSORS).write_bytes(content)

    return damage


cut_header = flip(9)


def cut(folder):
    (folder / TENSORS).write_bytes((folder / TENSORS).read_bytes()[:-100])


def tensors(change):
    return lambda folder: edit_tensors(folder, change)


def structure(change):
    """Change the structure, and state the hash of the new one."""

    def damage(folder):
        values = json.loads((folder / CONFIG).read_text())["quantization_config"]["structure"]
        edit_config(folder, structure=change(values) or values)
        edit_tensors(folder, lambda tensors: None)

    return damage


def no_hash(folder):
    save_file(load_file(folder / TENSORS), folder / TENSORS)


def pickled(folder):
    torch.save(load_file(folder / TENSORS), (folder / TENSORS).with_suffix(".bin"))
    (folder / TENSORS).unlink()


def without(name):
    return lambda folder: edit_config_without(folder, name)


def edit_config_without(folder, name):
    values = json.loads((folder / CONFIG).read_text())
    del values["quantization_config"][name]
    (folder / CONFIG).write_text(json.dumps(values))


def layer_of(**changes):
    return structure(lambda s: s["layers"][0].update(changes))


FILE, JSON = "diffusion_pytorch_model.safetensors", "config.json"
DAMAGE = {
    "flipped-bit": (flip(-1), f"{FILE} is damaged, or belongs to another config.json"),
    "flipped-bit-of-the-header": (cut_header, FILE),
    "cut": (cut, FILE),
    "no-hash": (no_hash, f"{FILE} is damaged"),
    "missing-tensor": (tensors(lambda t: t.pop("conv_in.codes")), f"{FILE} lacks 'conv_in.codes'"),
    "missing-bias": (tensors(lambda t: t.pop("conv_in.bias")), f"{FILE} lacks 'conv_in.bias'"),
    "missing-scale": (
        tensors(lambda t: t.pop("conv_in.inputs.0.scale")),
        f"{FILE} lacks 'conv_in.inputs.0.sc",
    ),
    "extra-tensor": (
        tensors(lambda t: t.update(surplus=torch.zeros(2))),
        f"{FILE} has no place for 'surplus'",
    ),
    "too-few-codes": (
        tensors(lambda t: t.update({"conv_in.codes": t["conv_in.codes"][:-1].clone()})),
        "conv_in.codes",
    ),
    "float-codes": (
        tensors(lambda t: t.update({"conv_in.codes": t["conv_in.codes"].float()})),
        f"{FILE}.*'conv_in.codes'",
    ),
    "format": (lambda folder: edit_config(folder, format=3), f"{JSON}.* format 3; this version has 2"),
    "no-format": (without("format"), JSON),
    "surplus-entry": (lambda folder: edit_config(folder, more=1), f"{JSON}.* entries \\['more'\\]"),
    "no-structure": (without("structure"), f"{JSON}.* lacks \\['structure'\\]"),
    "no-recipe": (without("recipe"), f"{JSON}.* lacks \\['recipe'\\]"),
    "recipe-of-another-form": (lambda folder: edit_config(folder, recipe={"weights": 4}), f"{JSON}.*recipe"),
    "structure-no-object": (structure(lambda s: [1]), f"{JSON}.*structure"),
    "no-layers": (structure(lambda s: {"attention": []}), f"{JSON}.*layers=None"),
    "unknown-layer": (layer_of(names=["conv_nowhere"]), f"{JSON}.*'conv_nowhere'"),
    "layer-is-a-number": (layer_of(names=[3]), f"{JSON}.* 3"),
    "not-a-layer": (layer_of(names=["mid_block"]), f"{JSON}.*'mid_block'"),
    "bits": (layer_of(weight_bits=9), f"{JSON}.*9"),
    "bits-as-text": (layer_of(weight_bits="4"), f"{JSON}.*under layers"),
    "sizes": (layer_of(sizes=[1, 2, 3]), JSON),
    "sizes-as-text": (layer_of(sizes=["a"]), JSON),
    "pickled": (pickled, r"diffusion_pytorch_model.bin"),
}


UNREADABLE = (cut, cut_header)


@pytest.mark.parametrize("damage, message", DAMAGE.values(), ids=DAMAGE.keys())
def test_damage_is_named(damage, message, folder):
    damage(folder)
    with pytest.raises(ValueError, match=message):
        load(folder)
    kinds = OSError if damage in UNREADABLE else ValueError  # diffusers' own for what is no safetensors file
    with pytest.raises(kinds, match=message):
        UNet2DModel.from_pretrained(folder, subfolder="unet")


def test_the_tests_edit_keeps_a_whole_file_whole(pipe, folder):
    """Else the tests above would see a wrong hash only."""
    edit_tensors(folder, lambda tensors: None)
    assert_same_tensors(snapshot(load(folder).unet), snapshot(pipe.unet))
    assert len(stated_hash(folder / TENSORS)) == 64


@pytest.mark.parametrize("kind", ["other-bits", "other-calibration"])
def test_another_config_beside_the_tensors(kind, other, written, folder, tmp_path):
    save_quantized(other if kind == "other-bits" else quantized_pipe(split=True, seed=5), tmp_path / "other")
    shutil.copy(tmp_path / "other" / CONFIG, folder / CONFIG)
    with pytest.raises(ValueError, match=FILE):
        load(folder)
    with pytest.raises(ValueError, match=FILE):
        UNet2DModel.from_pretrained(folder / "unet")


@pytest.mark.parametrize("name", [TENSORS, CONFIG])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises((ValueError, OSError), match="diffusion_pytorch_model|unet/.*json"):
        load(folder)
    with pytest.raises((ValueError, OSError), match=r"diffusion_pytorch_model|config\.json"):
        UNet2DModel.from_pretrained(folder / "unet")


def test_a_checkpoint_can_be_moved(pipe, folder, tmp_path):
    shutil.move(folder, tmp_path / "elsewhere")
    assert load(tmp_path / "elsewhere").unet.quantization.recipe == pipe.unet.quantization.recipe


# Networks that are wrapped, or have adapters


def test_a_compiled_network_is_quantized_before():
    pipe = ddpm()
    pipe.unet = torch.compile(pipe.unet, backend="eager")
    with pytest.raises(ValueError, match="torch.compile: .*_orig_mod"):
        quantize(pipe, Recipe.linear(**SMALL), progress=False)


def test_adapters_are_fused_before():
    from peft import LoraConfig  # takes a second, and no other test needs it

    pipe = stable_diffusion()
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights="gaussian"))
    recipe, prompts = Recipe.linear(**SMALL), ["flag", "dog"]
    with pytest.raises(ValueError, match=r"LoRA.*pipe.fuse_lora\(\); pipe.unload_lora_weights\(\) first"):
        quantize(pipe, recipe, prompts=prompts, progress=False)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    assert quantize(pipe, recipe, prompts=prompts, progress=False).unet.quantization.recipe == recipe


def test_an_empty_folder_name_is_refused():
    with pytest.raises(ValueError, match="folder='' is empty"):
        save_quantized(None, "")
