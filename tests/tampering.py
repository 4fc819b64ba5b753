"""A small quantized checkpoint, and changes of its files that keep its stated SHA-256 right."""

import json
import shutil

from safetensors.torch import load_file, save_file
from tiny_models import SMALL, ddpm, random_inputs, unet2d

from qdiff_lib import Recipe, quantize, save_quantized
from qdiff_lib.io.native import content_hash

CONFIG, INDEX, SAMPLER = "unet/config.json", "model_index.json", "scheduler/scheduler_config.json"
TENSORS = "unet/diffusion_pytorch_model.safetensors"
ODD = dict(block_out_channels=(6, 12), norm_num_groups=3)  # 54 weights of 3 bits end within a byte


def write_checkpoint(folder, weights=3, **changes):
    """Save a quantized pipeline of 8x8 grey images, with split layers; its codes do not fill whole bytes."""
    pipe = ddpm(unet2d(**{**ODD, **changes}))
    numbers = {**SMALL, "steps": 2, "samples": 4}
    recipe = Recipe.linear(weights, 8, split=True, softmax_bits=16, **numbers)
    save_quantized(quantize(pipe, recipe, random_inputs(pipe.unet, 4), progress=False), folder)


def edit_json(path, change):
    """Change the value of a JSON file in place, or replace it by what ``change`` returns."""
    value = json.loads(path.read_text())
    changed = change(value)
    path.write_text(json.dumps(value if changed is None else changed))


def edit_tensors(folder, change=lambda tensors: None):
    """Change the tensors by name, and state the SHA-256 of the new ones."""
    tensors = load_file(folder / TENSORS)
    change(tensors)
    values = json.loads((folder / CONFIG).read_text()).get("quantization_config")
    save_file(tensors, folder / TENSORS, {"qdiff_sha256": content_hash(values, tensors)})


def edit_config(folder, change):
    """Change the network's config, and state the SHA-256 of the new one."""
    edit_json(folder / CONFIG, change)
    edit_tensors(folder)


def index(**entries):
    """Change entries of ``model_index.json``."""
    return lambda folder: edit_json(folder / INDEX, lambda value: value.update(entries))


def config(**entries):
    return lambda folder: edit_json(folder / CONFIG, lambda value: value.update(entries))


def sampler(**entries):
    return lambda folder: edit_json(folder / SAMPLER, lambda value: value.update(entries))


def nested(levels):
    """An array in an array, so many times."""
    return "[" * levels + "]" * levels


def plain_checkpoint(folder):
    """Replace the quantized network by one with weights."""
    shutil.rmtree(folder / "unet")
    unet2d().save_pretrained(folder / "unet")
