"""Hostile folders: no code of a folder runs, and nothing that a checkpoint states is believed unchecked.

The SHA-256 of tampered checkpoints is right: see ``tampering``.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DModel
from latent_models import stable_diffusion
from safetensors.torch import load_file, save_file
from tampering import CONFIG, INDEX, SAMPLER, TENSORS, edit_config, edit_json, edit_tensors, write_checkpoint

from qdiff_lib import load
from qdiff_lib.io import shipped_data
from qdiff_lib.utils.files import DEEPEST_JSON, LARGEST_JSON, read_json

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A quantized checkpoint; do not change it."""
    folder = tmp_path_factory.mktemp("written") / "saved"
    write_checkpoint(folder)
    return folder


@pytest.fixture(scope="module")
def text_model(tmp_path_factory):
    """A pipeline with a text encoder, not quantized; do not change it."""
    folder = tmp_path_factory.mktemp("text") / "model"
    stable_diffusion().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(written, tmp_path):
    """A copy of the checkpoint."""
    return shutil.copytree(written, tmp_path / "saved")


@pytest.fixture
def text_folder(text_model, tmp_path):
    """A copy of the pipeline with a text encoder."""
    return shutil.copytree(text_model, tmp_path / "text")


def index(**entries):
    """Change entries of ``model_index.json``."""
    return lambda folder: edit_json(folder / INDEX, lambda value: value.update(entries))


def config(**entries):
    return lambda folder: edit_json(folder / CONFIG, lambda value: value.update(entries))


def sampler(**entries):
    return lambda folder: edit_json(folder / SAMPLER, lambda value: value.update(entries))


# No code of a folder runs

RUNS = """
import pathlib
pathlib.Path({mark!r}).touch()
from diffusers import UNet2DModel as MyUNet, DDPMPipeline as MyPipe
"""
PLACES = {
    "unet": ("unet/my_code.py", index(unet=["my_code", "MyUNet"])),
    "scheduler": ("scheduler/my_code.py", index(scheduler=["my_code", "MyUNet"])),
    "pipeline": ("my_code.py", index(_class_name=["my_code", "MyPipe"])),
    "pipeline-file": ("pipeline.py", index(_class_name="MyPipe")),
    "working-directory": ("../my_code.py", index(unet=["my_code", "MyUNet"])),
    "of-the-system": ("../my_code.py", index(unet=["os", "system"])),
}
LOAD = """
import sys
from qdiff_lib import load
for folder in sys.argv[1:]:
    try:
        load(folder)
    except ValueError as error:
        print(error)
"""


def test_no_code_of_a_folder_runs(written, tmp_path):
    """In a process of its own, whose working directory has the module, as in a notebook."""
    mark = tmp_path / "ran"
    for name, (place, name_it) in PLACES.items():
        folder = shutil.copytree(written, tmp_path / name)
        name_it(folder)
        (folder / place).write_text(RUNS.format(mark=str(mark)))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-c", LOAD, *PLACES]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert not mark.exists()
    lines = dict(zip(PLACES, done.stdout.splitlines(), strict=True))
    for name, line in lines.items():
        reason = (
            "no class of diffusers" if "pipeline" in name else "only classes of diffusers and transformers"
        )
        assert reason in line, name


@pytest.mark.parametrize("name", ["unet/helper.py", "helper.py", "scheduler/__init__.pyc", "unet/native.so"])
def test_a_file_of_code_is_refused(folder, name):
    (folder / name).write_text("")
    with pytest.raises(ValueError, match=f"{Path(name).name} is code, which a model does not need"):
        load(folder)


ENTRIES = {
    "no-component": (
        index(unet=["diffusers", "DiffusionPipeline"]),
        "DiffusionPipeline' of diffusers as its un",
    ),
    "a-pipeline": (index(unet=["diffusers", "DDPMPipeline"]), "'DDPMPipeline' of diffusers as its unet"),
    "a-function": (index(unet=["diffusers", "is_torch_available"]), "'is_torch_available' of diffusers"),
    "a-module": (index(unet=["diffusers", "models"]), "'models' of diffusers as its unet"),
    "dunder": (index(unet=["diffusers", "__loader__"]), "'__loader__' of diffusers"),
    "dotted": (index(unet=["diffusers", "models.UNet2DModel"]), "'models.UNet2DModel' of diffusers"),
    "base-class": (index(unet=["diffusers", "ModelMixin"]), "'ModelMixin' of diffusers"),
    "auto-class": (index(unet=["transformers", "AutoModel"]), "'AutoModel' of transformers"),
    "scheduler-as-unet": (index(unet=["diffusers", "DDPMScheduler"]), "which is no ModelMixin"),
    "unet-as-scheduler": (index(scheduler=["diffusers", "UNet2DModel"]), "which is no SchedulerMixin"),
    "submodule": (index(unet=["diffusers.models", "UNet2DModel"]), "of 'diffusers.models' as its unet"),
    "own-other-module": (index(unet=["qdiff_lib.io.models", "load"]), "of 'qdiff_lib.io.models' as its unet"),
    "three": (index(unet=["diffusers", "UNet2DModel", "more"]), 'each as ."library", "Class"'),
    "numbers": (index(unet=[1, 2]), "each as"),
    "object": (index(unet={"a": 1}), "each as"),
    "none": (index(unet=[None, None]), "each as"),
    "half": (index(unet=["diffusers", None]), "each as"),
    "outside": (index(**{"../other": ["diffusers", "UNet2DModel"]}), "'../other'.* its pipeline takes unet"),
    "missing": (lambda f: edit_json(f / INDEX, lambda v: v.pop("unet") and None), "lacks the entry 'unet'"),
    "pipeline-base": (index(_class_name="DiffusionPipeline"), "_class_name='DiffusionPipeline'"),
    "pipeline-function": (index(_class_name="is_torch_available"), "_class_name='is_torch_available'"),
    "pipeline-network": (index(_class_name="UNet2DModel"), "_class_name='UNet2DModel'"),
    "auto-map": (config(auto_map={"AutoModel": "code.Model"}), r"config.json has the entry auto_map"),
    "trust": (index(trust_remote_code=True), "model_index.json has the entry trust_remote_code=True"),
    "nested": (sampler(a=[{"auto_map": 1}]), "scheduler_config.json has the entry auto_map"),
    "quantizer": (config(quantization_config={"quant_method": "quanto"}), "is not of the method 'qdiff'"),
    "quantizer-list": (config(quantization_config={"quant_method": ["qdiff"]}), "is not of the method"),
}


@pytest.mark.parametrize("change, message", ENTRIES.values(), ids=ENTRIES.keys())
def test_entries_that_name_other_code_are_refused(folder, change, message):
    change(folder)
    with pytest.raises(ValueError, match=message):
        load(folder)


def test_the_own_class_and_the_safety_checker_are_allowed():
    from qdiff_lib.io.index import component_class

    path = Path("folder/model_index.json")
    own = component_class(path, "unet", "qdiff_lib.graph.fixed_heads", "FixedHeadsUNet2DModel")
    assert own.__name__ == "FixedHeadsUNet2DModel"
    checker = component_class(path, "safety_checker", "stable_diffusion", "StableDiffusionSafetyChecker")
    assert checker.__module__.startswith("diffusers.")


TEXT = {
    "kernels": (
        "text_encoder/config.json",
        lambda v: v.update(attn_implementation="someone/kernels"),
        "attn_implementation='someone/kernels', which can be code",
    ),
    "auto-map": ("tokenizer/tokenizer_config.json", lambda v: v.update(auto_map=[1]), "the entry auto_map"),
    "empty-tokenizer": (
        "tokenizer/tokenizer.json",
        lambda v: {},
        "tokenizer.json is damaged, it has no vocab",
    ),
    "quantized": (
        "text_encoder/config.json",
        lambda v: v.update(quantization_config={"quant_method": "x"}),
        "quantization_config, which is not supported",
    ),
    "layers": ("text_encoder/config.json", lambda v: v.update(num_hidden_layers=10**9), "num_hidden_layers"),
    "words": ("text_encoder/config.json", lambda v: v.update(vocab_size=3), "text_encoder lacks the weight"),
    "vae-of-another-kind": (
        "vae/config.json",
        lambda v: v.update(_class_name="VQModel"),
        "_class_name='VQMod",
    ),
}


@pytest.mark.parametrize("name, change, message", TEXT.values(), ids=TEXT.keys())
def test_text_components(text_folder, name, change, message):
    edit_json(text_folder / name, change)
    with pytest.raises(ValueError, match=message):
        load(text_folder)


def test_a_whole_text_model_loads(text_folder):
    assert load(text_folder).tokenizer is not None


NETWORKS = {
    "text_encoder": "text_encoder/model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "unet": "unet/diffusion_pytorch_model.safetensors",
}


@pytest.mark.parametrize("part", NETWORKS)
@pytest.mark.parametrize(
    "value", [None, float("nan"), float("inf"), 1e38], ids=["missing", "nan", "inf", "1e38"]
)
def test_weights_that_are_missing_or_no_numbers(text_folder, part, value):
    tensors = load_file(text_folder / NETWORKS[part])
    name = max(tensors, key=lambda name: tensors[name].is_floating_point() * tensors[name].numel())
    if value is None:
        del tensors[name]
    else:
        tensors[name].view(-1)[-1] = value
    save_file(tensors, text_folder / NETWORKS[part], {"format": "pt"})
    message = f"{part} lacks the weight '{name}'" if value is None else f"{part} has {value:g} in '{name}'"
    with pytest.raises(ValueError, match=message.replace("+", r"\+")):
        load(text_folder)


# JSON


def nested(levels):
    return "[" * levels + "]" * levels


@pytest.mark.parametrize("name", [INDEX, CONFIG, SAMPLER])
@pytest.mark.parametrize("levels", [DEEPEST_JSON, 400, 100_000])
def test_deep_json(folder, name, levels):
    (folder / name).write_text(f'{{"a": {nested(levels)}}}')
    with pytest.raises(ValueError, match=f"{Path(name).name} is damaged, it is n"):
        load(folder)


@pytest.mark.parametrize("name", [INDEX, CONFIG, SAMPLER])
def test_huge_json(folder, name):
    with open(folder / name, "ab") as file:
        file.truncate(10**9)  # a sparse file
    with pytest.raises(ValueError, match=f"{Path(name).name} is damaged, it has 1000000000 bytes"):
        load(folder)


def test_json_at_its_limits(tmp_path):
    (tmp_path / "a.json").write_text(f'{{"a": {nested(DEEPEST_JSON - 1)}}}')
    assert read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("{}" + " " * (LARGEST_JSON - 2))
    assert read_json(tmp_path / "a.json") == {}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("name", [INDEX, CONFIG, "unet/other.safetensors"])
def test_a_pipe_in_place_of_a_file_does_not_hang(folder, name):
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(ValueError, match="no ordinary file|no model_index.json"):
        load(folder)


# Settings

SETTINGS = {
    "not-a-multiple": (
        config(sample_size=15),
        "config.json has sample_size=15, at which this network cannot run",
    ),
    "zero": (config(sample_size=0), "sample_size=0, which must be from 1"),
    "negative": (config(sample_size=-4), "sample_size=-4, which must be from 1"),
    "huge": (config(sample_size=10**6), "sample_size=1000000, which must be from 1"),
    "pair": (config(sample_size=[8, 15]), r"sample_size=\[8, 15\], at which"),
    "three": (config(sample_size=[8, 8, 8]), "neither a number of pixels nor two"),
    "null": (config(sample_size=None), "sample_size=None, neither a number"),
    "text": (config(sample_size="8"), "sample_size='8', not a list or a whole number or null"),
    "layers": (config(layers_per_block=10**9), "layers_per_block=1000000000, which must be"),
    "levels": (config(down_block_types=["DownBlock2D"] * 10**5), "down_block_types of 100000 entries"),
    "infinite": (config(norm_eps=float("inf")), "norm_eps=inf, which must be from"),
    "nan": (config(norm_eps=float("nan")), "norm_eps=nan, which must be from"),
    "no-factor": (config(mid_block_scale_factor=0), "mid_block_scale_factor=0, which must be from"),
    "groups": (config(norm_num_groups=5), "config.json: no UNet2DModel has these settings"),
    "class": (
        config(_class_name="UNet2DConditionModel"),
        "_class_name='UNet2DConditionModel', and a UNet2DMo",
    ),
}


@pytest.mark.parametrize("change, message", SETTINGS.values(), ids=SETTINGS.keys())
@pytest.mark.parametrize("quantized", [True, False], ids=["quantized", "plain"])
def test_settings_of_a_network(folder, text_folder, quantized, change, message):
    if not quantized:  # the same settings in a folder whose UNet has its weights
        DiffusionPipeline.from_pretrained(folder).unet  # noqa: B018  the folder is whole
        plain_checkpoint(folder)
    change(folder)
    with pytest.raises(ValueError, match=message):
        load(folder)


def plain_checkpoint(folder):
    """Replace the quantized network by one with weights."""
    from tiny_models import unet2d

    shutil.rmtree(folder / "unet")
    unet2d().save_pretrained(folder / "unet")


@pytest.mark.parametrize(
    "size, message", [(15, "sample_size=15, at which"), (0, "sample_size=0, which must")]
)
def test_from_pretrained_refuses_a_size_that_cannot_run(folder, size, message):
    config(sample_size=size)(folder)
    for read in (DiffusionPipeline.from_pretrained, lambda f: UNet2DModel.from_pretrained(f / "unet")):
        with pytest.raises(ValueError, match=message):
            read(folder)


NOISE = {
    "too-large": (sampler(beta_end=1e38), r"beta_end=1e\+38, which must be from 0 to 1"),
    "negative": (sampler(beta_start=-1, beta_end=-2), "beta_start=-1, which must be from 0 to 1"),
    "nan": (sampler(beta_start=float("nan")), "beta_start=nan, which must be"),
    "text": (sampler(beta_start="0.1"), "beta_start='0.1', not a number"),
    "trained": (sampler(trained_betas=[0.1] * 99 + [2.0]), "give betas of 2, not from 0 to 1"),
    "few-trained": (sampler(trained_betas=[]), "num_train_timesteps=100, and there are 0 betas"),
    "no-noise": (sampler(beta_start=0), "give betas of 0, not from 0 to 1"),
    "fraction": (sampler(steps_offset=0.5), "steps_offset=0.5, not a whole number"),
    "beyond": (sampler(steps_offset=50), "its settings do not fit each other"),
    "times": (sampler(num_train_timesteps=10**12), "num_train_timesteps=1000000000000, which must"),
    "schedule": (sampler(beta_schedule="none"), "no DDPMScheduler has these settings"),
    "clipped": (sampler(clip_sample_range=float("inf")), "clip_sample_range=inf, which must"),
}


@pytest.mark.parametrize("change, message", NOISE.values(), ids=NOISE.keys())
def test_settings_of_a_sampler(folder, change, message):
    change(folder)
    with pytest.raises(ValueError, match=f"scheduler_config.json.*{message}"):
        load(folder)


# Tensors whose SHA-256 is right


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


# The shipped files


@pytest.fixture
def data(written, tmp_path, monkeypatch):
    """A data folder with one shipped model, and a manifest of it."""
    sys.path.insert(0, str(ROOT / "training"))
    from manifest import manifest

    sys.path.remove(str(ROOT / "training"))
    folder = tmp_path / "data"
    shutil.copytree(written, folder / "models" / "tiny")
    (folder / "MANIFEST.json").write_text(json.dumps(manifest(folder)))
    monkeypatch.setattr(shipped_data, "data_folder", lambda: folder)
    return folder


def test_every_file_of_a_shipped_model_is_listed():
    listed = shipped_data.manifest()
    names = {path.rpartition("/")[2] for path in listed if path.startswith("models/sd-emoji/")}
    assert {
        "model_index.json",
        "config.json",
        "scheduler_config.json",
        "merges.txt",
        "tokenizer.json",
    } <= names
    assert "prompts/emoji.txt" in listed and not any(path.endswith("README.md") for path in listed)


@pytest.mark.parametrize("by_path", [False, True], ids=["name", "path"])
@pytest.mark.parametrize("name", [INDEX, CONFIG, SAMPLER, TENSORS])
def test_a_changed_file_of_a_shipped_model(data, monkeypatch, by_path, name):
    given = os.path.relpath(data / "models" / "tiny") if by_path else "tiny"
    assert load(given) is not None
    content = (data / "models" / "tiny" / name).read_bytes()
    (data / "models" / "tiny" / name).write_bytes(content.replace(b" ", b"\t", 1))
    with pytest.raises(shipped_data.DamagedFileError, match=f"{Path(name).name} is damaged: its SHA-256"):
        load(given)
    (data / "models" / "tiny" / name).unlink()
    with pytest.raises((FileNotFoundError, ValueError), match=f"{Path(name).name}|is no model"):
        load(given)


def test_an_added_file_of_a_shipped_model(data):
    (data / "models" / "tiny" / "unet" / "other.json").write_text("{}")
    with pytest.raises(ValueError, match="other.json' is not in MANIFEST.json"):
        load("tiny")


@pytest.mark.parametrize(
    "content", [None, "{}", "[]", '{"files": []}', '{"files": {"a": 1}}', nested(100_000)]
)
def test_a_broken_manifest_concerns_shipped_files_only(data, folder, content):
    (data / "MANIFEST.json").unlink()
    if content is not None:
        (data / "MANIFEST.json").write_text(content)
    for given in ("tiny", data / "models" / "tiny"):
        with pytest.raises(
            (FileNotFoundError, shipped_data.DamagedFileError), match="MANIFEST.json is"
        ) as error:
            load(given)
        assert "\n" not in str(error.value) and "git checkout -- data" in str(error.value)
    assert load(folder) is not None


def test_own_folders_load_without_any_shipped_data(folder, monkeypatch, tmp_path):
    monkeypatch.setattr(shipped_data, "__file__", str(tmp_path / "qdiff_lib/io/shipped_data.py"))
    assert load(folder) is not None
    with pytest.raises(ValueError, match="name_or_path='ddpm-fashion' is no model"):
        load("ddpm-fashion")
