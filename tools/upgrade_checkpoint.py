"""Converts a quantized checkpoint of format 1 to the current format, which diffusers loads.

    python -m tools.upgrade_checkpoint OLD NEW

The integers stay the same. Format 1 had packed codes by layer, all scales and zero points in four tensors in
the order of the layers, and the recipe in ``quantized.json``.
"""

import argparse
import json
from pathlib import Path

import diffusers
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from qdiff_lib.graph.model_inputs import example_inputs
from qdiff_lib.graph.tracing import trace
from qdiff_lib.io.checkpoint import TENSORS, save_quantized, weight_layers
from qdiff_lib.io.native import make_native
from qdiff_lib.io.quantization import Quantization
from qdiff_lib.modules.activation_quantizer import activation_quantizers
from qdiff_lib.modules.quant_layer import QuantLayer
from qdiff_lib.ptq.insertion import insert_quantizers
from qdiff_lib.recipes.recipe import Recipe
from qdiff_lib.recipes.timestep_rules import rule_from_dict

RENAMED = {
    "rounding": "weight_rounding",
    "step_iterations": "step_size_iterations",
    "lr_steps": "lr_step_sizes",
}
GRIDS = ("weight_scale", "weight_zero_point", "activation_scale", "activation_zero_point")


def upgrade(old: Path, new: Path) -> None:
    """Convert the checkpoint in ``old`` (format 1) and write it to ``new``.

    Raises ValueError for tensors that are missing or not used.
    """
    about = json.loads((old / "quantized.json").read_text())
    kind = getattr(diffusers, about["unet"])
    unet = kind.from_config(kind.load_config(old / "unet")).eval()
    recipe = Recipe.from_dict(nested(about["recipe"]))
    found = trace(unet, example_inputs(unet))
    unet = insert_quantizers(unet, recipe.grids, found)
    fill(unet, load_file(old / "unet" / "quantized.safetensors"))
    unet = make_native(unet, Quantization(recipe, about.get("calibration", {}), found))
    pipe = diffusers.DiffusionPipeline.from_pretrained(old, unet=unet, use_safetensors=True)
    for part in pipe.components.values():
        if isinstance(part, nn.Module) and part is not unet:
            part.float()
    save_quantized(pipe, new)
    print(f"wrote {new / TENSORS}: {(new / TENSORS).stat().st_size:,} bytes")


def nested(flat: dict) -> dict:
    """The current JSON form, with parts, of a recipe of format 1, which has no parts."""
    changes = {RENAMED.get(name, name): value for name, value in flat.items()}
    return Recipe().replace(**{**changes, "rule": rule_from_dict(flat["rule"])}).to_dict()


@torch.no_grad()
def fill(unet: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Set the integers, scales, zero points and floats of a network with quantizers from a file of format 1.

    tensors: of the file, by name. Raises ValueError for tensors that are missing or not used.
    """
    grids = {name: tensors.pop(name) for name in GRIDS if name in tensors}
    layers = weight_layers(unet)
    counts = [layer.shape[0] * len(layer.sizes) for _, layer in layers]
    rows = zip(grids["weight_scale"].split(counts), grids["weight_zero_point"].split(counts), strict=True)
    for (name, layer), (scale, zero_point) in zip(layers, rows, strict=True):
        layer.hold_integers()
        layer.weight_scale = scale.view(layer.shape[0], -1)
        layer.weight_zero_point.copy_(zero_point.view(layer.shape[0], -1))
        layer.codes.copy_(tensors.pop(f"{name}.weight"))
        layer.derive_weight(torch.float32)
    for i, quantizer in enumerate(activation_quantizers(unet)):
        quantizer.set_range(grids["activation_scale"][i], grids["activation_zero_point"][i])
    missing = unet.load_state_dict(tensors, strict=False)
    floats = {f"{name}.weight" for name, layer in unet.named_modules() if isinstance(layer, QuantLayer)}
    held = ("codes", "weight_scale", "weight_zero_point", "scale", "zero_point")
    lost = [k for k in missing.missing_keys if k.rpartition(".")[2] not in held and k not in floats]
    if missing.unexpected_keys or lost:
        raise ValueError(f"left over: {missing.unexpected_keys[:3]}; missing: {lost[:3]}")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    args = parser.parse_args()
    upgrade(args.old, args.new)


if __name__ == "__main__":
    main()
