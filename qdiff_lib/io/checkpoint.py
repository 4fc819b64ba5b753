"""Saving a quantized pipeline as an ordinary diffusers folder.

``pipe.save_pretrained(folder)`` writes the same network. ``save_quantized`` does three more things. It
refuses a pipeline that could not be loaded again. It replaces the files in the folder only after all new
files are written. It stores the other components in 16 bits where that loses nothing. ``io.native``
describes ``unet/config.json`` and ``unet/diffusion_pytorch_model.safetensors``.
"""

import copy
from pathlib import Path

import diffusers
import torch
from diffusers import DiffusionPipeline
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..modules.quant_layer import QuantLayer
from ..utils.files import read_json, replacing_folder, write_json
from .native import check_savable

TENSORS = "unet/diffusion_pytorch_model.safetensors"


def save_quantized(pipe: DiffusionPipeline, folder: Path) -> Path:
    """Write a pipeline with a quantized UNet to ``folder``; returns the path of the packed tensors.

    The files in ``folder`` are replaced only after all new files are written.

    Raises ValueError for a pipeline that ``quantize`` did not make, for a network that was changed after
    ``quantize``, and for a class or component that diffusers and transformers cannot load again.
    """
    if not str(folder):
        raise ValueError(f"folder={folder!r} is empty: name a folder, such as 'build/w4a8'")
    check_loadable(pipe)
    folder = Path(folder)
    with replacing_folder(folder) as temporary:
        pipe.save_pretrained(temporary)
        only_the_hash(temporary / TENSORS)
        for name, component in pipe.components.items():
            if isinstance(component, nn.Module) and name != "unet":
                save_component(component, temporary / name)
        for config in (temporary / "model_index.json", *temporary.glob("*/config.json")):
            forget_origin(config)
    return folder / TENSORS


def check_loadable(pipe: DiffusionPipeline) -> None:
    """Raise ValueError unless ``load`` can read what ``save_quantized`` would write for this pipeline."""
    if not hasattr(unwrapped(pipe.unet), "quantization"):
        raise ValueError("the pipeline's UNet is not quantized; call quantize(pipe, recipe) first")
    kind = type(pipe).__name__
    if getattr(diffusers, kind, None) is not type(pipe):
        raise ValueError(
            f"the pipeline is a {kind}, which is no class of diffusers, so that load cannot read it: save a "
            f"diffusers pipeline of its components, or call pipe.save_pretrained and {kind}.from_pretrained"
        )
    for name, component in pipe.components.items():
        library = type(component).__module__.partition(".")[0]
        if component is not None and name != "unet" and library not in ("diffusers", "transformers"):
            raise ValueError(
                f"a checkpoint cannot hold {name} ({type(component).__name__}), no class of diffusers or "
                "transformers: replace it; a sampler by with_sampler(pipe, 'ddim')"
            )
    check_savable(unwrapped(pipe.unet))


def unwrapped(network: nn.Module) -> nn.Module:
    """The network itself: ``network``, or the module inside the wrapper of ``torch.compile``."""
    return getattr(network, "_orig_mod", network)


def save_component(component: nn.Module, folder: Path) -> None:
    """Write a network in 16 bits if every weight is exactly a half-precision number; otherwise do nothing.

    ``folder`` has the network in 32 bits already. The config still states float32: transformers loads the
    network in the type that the config states.
    """
    values = [v for v in component.state_dict().values() if v.is_floating_point()]
    if all(v.dtype == torch.float32 and torch.equal(v, v.half().float()) for v in values):
        copy.deepcopy(component).half().save_pretrained(folder)
        config = read_json(folder / "config.json")
        stated = {name: "float32" for name in ("dtype", "torch_dtype") if name in config}
        write_json(folder / "config.json", {**config, **stated})


def only_the_hash(path: Path) -> None:
    """Write a safetensors file again with the hash as its only metadata.

    With two entries of metadata the order of the entries is random, so equal networks would give different
    bytes.
    """
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        hashed = file.metadata()["qdiff_sha256"]
    save_file(tensors, path, {"qdiff_sha256": hashed})


def forget_origin(config: Path) -> None:
    """Remove from a saved config the path from which the full-precision model was loaded."""
    write_json(config, {name: value for name, value in read_json(config).items() if name != "_name_or_path"})


def weight_layers(unet: nn.Module) -> list[tuple[str, QuantLayer]]:
    """(name, layer) of every layer with quantized weights, in the order of ``named_modules``."""
    return [(n, m) for n, m in unet.named_modules() if isinstance(m, QuantLayer) and m.weight_grid]


def float_tensors(unet: nn.Module) -> dict[str, Tensor]:
    """The tensors of the state that stay in floating point, by name.

    They are biases, normalization parameters, and weights of layers that are not quantized. Codes, scales and
    zero points are left out.
    """
    held = ("codes", "weight_scale", "weight_zero_point", "scale", "zero_point")
    return {k: v for k, v in unet.state_dict().items() if k.rpartition(".")[2] not in held}
