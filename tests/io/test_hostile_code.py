"""Hostile folders: no code of a folder runs, and every component is one that is known by name."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tampering import INDEX, config, edit_json, index, sampler

from qdiff_lib import load

ROOT = Path(__file__).parents[2]


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
    "fewer-layers": (
        "text_encoder/config.json",
        lambda v: v.update(num_hidden_layers=0),
        "text_encoder has the weight .*, and its config.json has fewer layers",
    ),
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
