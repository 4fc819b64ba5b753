"""Quantized checkpoints: integer codes packed at their bits, loaded without the full-precision weights.

A checkpoint is a diffusers folder, with the pipeline's other components (decoder, text encoder, tokenizer,
scheduler) as they are, whose ``unet`` holds ``quantized.safetensors`` instead of weights:

    <layer>.weight          uint8, packed codes of the layer's weight
    weight_scale            float32, all layers' scales in execution order, (C_out, parts) each, flattened
    weight_zero_point       uint8 (uint16 where a layer has more bits), likewise
    activation_scale        float32, one for each activation quantizer, in module order
    activation_zero_point   like weight_zero_point
    everything else         parameters that stay in floating point, such as biases and norms, by name

``quantized.json`` beside it has the recipe, how the calibration set was made, and the sha256 of that file.
Grids and split seams are not stored: the recipe and a trace of the architecture give them again.
"""

import copy
from pathlib import Path

import diffusers
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .architectures import set_heads
from .files import atomic_path, read_json, sha256, write_json
from .grid import dequantize, quantize
from .layers import QuantLayer, activation_quantizers
from .packing import pack, unpack
from .pipeline import Quantization
from .recipes import Recipe
from .surgery import example_inputs, insert_quantizers
from .tracing import trace
from .zoo import in_single_precision

FORMAT = 1
TENSORS = "unet/quantized.safetensors"


def save_quantized(pipe: DiffusionPipeline, folder: Path) -> Path:
    """Write ``pipe``, whose UNet is quantized, to ``folder``; returns the path of the packed tensors.

    The UNet's files are replaced atomically. Raises ValueError for a pipeline that ``quantize`` did not make,
    and for one with a component that diffusers and transformers cannot load again.
    """
    if not hasattr(pipe.unet, "quantization"):
        raise ValueError("the pipeline's UNet is not quantized; call quantize(pipe, recipe) first")
    for name, component in pipe.components.items():
        if type(component).__module__.startswith(__package__):
            kind = type(component).__name__
            raise ValueError(
                f"a checkpoint cannot hold {name} ({kind}); save with with_sampler(pipe, 'ddim')"
            )
    folder = Path(folder)
    (folder / "unet").mkdir(parents=True, exist_ok=True)
    for name, component in pipe.components.items():
        if name != "unet" and hasattr(component, "save_pretrained"):
            save_component(component, folder / name)
    pipe.save_config(folder)
    pipe.unet.save_config(folder / "unet")
    forget_origin(folder / "unet" / "config.json")
    about = {
        "format": FORMAT,
        "unet": type(pipe.unet).__name__,
        "recipe": pipe.unet.quantization.recipe.to_dict(),
        "calibration": pipe.unet.quantization.calibration,
    }
    # Both files are written before either is replaced: a failure leaves an old checkpoint loadable.
    with atomic_path(folder / "quantized.json") as described, atomic_path(folder / TENSORS) as temporary:
        save_file(packed_state(pipe.unet), temporary)
        write_json(described, {**about, "sha256": sha256(temporary)})
    return folder / TENSORS


def save_component(component: object, folder: Path) -> None:
    """Write a component as it is; weights that are half-precision numbers throughout take two bytes each."""
    if isinstance(component, nn.Module):
        values = [v for v in component.state_dict().values() if v.is_floating_point()]
        if all(torch.equal(v, v.half().to(v.dtype)) for v in values):
            component = copy.deepcopy(component).half()
    component.save_pretrained(folder)
    if (folder / "config.json").is_file():
        forget_origin(folder / "config.json")


def forget_origin(config: Path) -> None:
    """Take the path that the full-precision model was loaded from out of a saved config."""
    write_json(config, {name: value for name, value in read_json(config).items() if name != "_name_or_path"})


def load_quantized(folder: Path) -> DiffusionPipeline:
    """The pipeline that ``save_quantized`` wrote, bit for bit.

    Raises FileNotFoundError for a missing file and ValueError for a damaged one or another format.
    """
    folder = Path(folder)
    about = read_json(folder / "quantized.json")
    if about.get("format") != FORMAT:
        raise ValueError(
            f"{folder}/quantized.json has format {about.get('format')!r}; this version reads {FORMAT}"
        )
    if sha256(folder / TENSORS) != about["sha256"]:
        raise ValueError(f"{folder / TENSORS} is damaged: its sha256 is not the recorded one; quantize again")
    unet = empty_unet(getattr(diffusers, about["unet"]), folder / "unet")
    recipe, found = Recipe.from_dict(about["recipe"]), trace(unet, example_inputs(unet, device=unet.device))
    unet = insert_quantizers(unet, recipe.grids, found)
    if unet.device.type == "meta":
        unet = unet.to_empty(device="cpu")
    unet.quantization = Quantization(recipe, found, about.get("calibration", {}))
    restore_packed(unet, load_file(folder / TENSORS))
    pipe = in_single_precision(DiffusionPipeline.from_pretrained(folder, unet=unet, use_safetensors=True))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def empty_unet(kind: type[nn.Module], folder: Path) -> nn.Module:
    """A UNet of a folder's config, on the meta device: its weights come from the packed file.

    A network with buffers that its state leaves out computes them, on the CPU.
    """
    config = kind.load_config(folder)
    with torch.device("meta"):
        unet = kind.from_config(config)
    if dict(unet.named_buffers()).keys() - unet.state_dict().keys():
        unet = kind.from_config(config)
    return set_heads(unet.eval())


def weight_layers(unet: nn.Module) -> list[tuple[str, QuantLayer]]:
    """(name, layer) of every layer with quantized weights, in module order."""
    return [(n, m) for n, m in unet.named_modules() if isinstance(m, QuantLayer) and m.weight_grid]


def float_parameters(unet: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers that stay in floating point, under the names of the unquantized UNet."""
    quantized = {f"{name}.layer.weight" for name, _ in weight_layers(unet)}
    grids = {f"{name}.{field}" for name, _ in unet.named_modules() for field in GRID_FIELDS}
    state = {k: v for k, v in unet.state_dict().items() if k not in quantized | grids}
    return {name.replace(".layer.", "."): value.contiguous() for name, value in state.items()}


GRID_FIELDS = ("weight_scale", "weight_zero_point", "scale", "zero_point")


def packed_state(unet: nn.Module) -> dict[str, Tensor]:
    """The tensors of the file, as the module's docstring lists them."""
    layers = weight_layers(unet)
    state = {f"{name}.weight": pack(weight_codes(layer), layer.weight_grid.bits) for name, layer in layers}
    if layers:
        state["weight_scale"] = torch.cat([layer.weight_scale.flatten() for _, layer in layers])
        zero_points = torch.cat([layer.weight_zero_point.flatten() for _, layer in layers])
        state["weight_zero_point"] = smallest_integers(zero_points)
    quantizers = activation_quantizers(unet)
    if quantizers:
        state["activation_scale"] = torch.stack([q.scale for q in quantizers])
        state["activation_zero_point"] = smallest_integers(torch.stack([q.zero_point for q in quantizers]))
    return {
        **{k: v.cpu() for k, v in state.items()},
        **{k: v.cpu() for k, v in float_parameters(unet).items()},
    }


def smallest_integers(values: Tensor) -> Tensor:
    """Codes, whole numbers of at most 16 bits, as uint8 where they fit, else uint16."""
    return values.to(torch.uint8 if values.max() <= 255 else torch.uint16)


def weight_codes(layer: QuantLayer) -> Tensor:
    """The integer codes of a layer's weight, which lies on its grid; shape of the weight."""
    bits = layer.weight_grid.bits
    parts = [quantize(w, *layer.part_grid(i), bits) for i, w in enumerate(layer.weight_parts())]
    return torch.cat(parts, dim=1).cpu()


class Tensors(dict):
    """The tensors of a file, from which each is taken once."""

    def pop(self, name: str) -> Tensor:
        if name not in self:
            raise ValueError(f"the file lacks the tensor {name!r} of this model; quantize again")
        return super().pop(name)


def restore_packed(unet: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Fill a UNet with inserted quantizers from a file's tensors.

    Raises ValueError for left-over and for missing ones.
    """
    tensors = Tensors(tensors)
    layers = weight_layers(unet)
    if layers:
        scales, zeros = tensors.pop("weight_scale"), tensors.pop("weight_zero_point").float()
        counts = [layer.layer.weight.shape[0] * len(layer.sizes) for _, layer in layers]
        for (name, layer), scale, zero in zip(layers, scales.split(counts), zeros.split(counts), strict=True):
            set_codes(layer, tensors.pop(f"{name}.weight"), scale, zero)
    quantizers = activation_quantizers(unet)
    if quantizers:
        zeros = tensors.pop("activation_zero_point").float()
        for quantizer, scale, zero in zip(quantizers, tensors.pop("activation_scale"), zeros, strict=True):
            quantizer.set_range(scale, zero)
    for name, value in float_parameters(unet).items():
        value.copy_(tensors.pop(name))
    if tensors:
        raise ValueError(f"the file has tensors that the model has no place for: {sorted(tensors)[:3]}")


def set_codes(layer: QuantLayer, packed: Tensor, scale: Tensor, zero_point: Tensor) -> None:
    """Give a layer the weight of these packed codes; ``scale``, ``zero_point``: flat, (C_out x parts,)."""
    shape = tuple(layer.layer.weight.shape)
    layer.weight_scale = scale.reshape(shape[0], -1)
    layer.weight_zero_point = zero_point.reshape(shape[0], -1)
    codes = unpack(packed, layer.weight_grid.bits, shape).split(layer.sizes, dim=1)
    parts = [dequantize(piece, *layer.part_grid(i)) for i, piece in enumerate(codes)]
    layer.set_weight(parts)


def float_count(unet: nn.Module) -> int:
    """How many numbers of the model stay in 32-bit floating point."""
    return sum(value.numel() for value in float_parameters(unet).values())
