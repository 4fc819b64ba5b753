"""Writing a quantized network as a file that other inference engines read: ONNX, or OpenVINO's IR.

The file holds the UNet alone, for images of one size and any number of images at a time. It needs neither
this library nor torch. Integer weights of up to 4 bits take 4 bits in the file, and all others up to 8 bits
take 8. Layers of which an operand has 16 bits are written in floating point.
"""

import copy
import importlib.util
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from ..graph.model_inputs import example_inputs, flat_inputs, reads_text
from ..utils.constants import EXPORT_FORMATS
from ..utils.files import atomic_path, check_writable
from ..utils.lock import new_folder

EXAMPLE_BATCH = 2  # exporters treat a batch of 1 as a special case

PACKAGES = {"onnx": ("onnx", "onnxscript"), "openvino": ("openvino",)}


def export_network(pipe: DiffusionPipeline | nn.Module, path: str | Path, format: str = "onnx") -> None:
    """Write the UNet of a pipeline in a format that other engines read.

    Its inputs have the names of the UNet's arguments: ``sample`` (B, C, H, W), ``timestep`` (B,) in float32,
    and ``encoder_hidden_states`` (B, tokens, D) where the network reads texts. Its output is ``noise``
    (B, C, H, W). B is free.

    Args:
        pipe: a pipeline, or its UNet alone, quantized or not. It does not change.
        path: for "onnx" the file to write, which ends in .onnx; for "openvino" a new folder, which gets
            ``network.xml`` and ``network.bin``. The file or folder is complete or absent.
        format: "onnx" or "openvino".

    Raises:
        ValueError: the format is unknown, its packages are not installed, the path does not fit it, or the
            network is not on the CPU or does not fit into the format.
    """
    path = Path(path)
    check_export(path, format)
    unet = getattr(pipe, "unet", pipe)
    if unet.device.type != "cpu":
        raise ValueError(f"the network is on {unet.device}, and export needs it on the CPU: call .to('cpu')")
    inputs = example(pipe)
    if unet.dtype != torch.float32:
        unet = copy.deepcopy(unet).float()
    if format == "onnx":
        from .onnx_format import serialized

        with atomic_path(path) as temporary:
            temporary.write_bytes(serialized(unet, inputs))
    else:
        from .openvino_format import write_ir

        with new_folder(path) as folder:
            write_ir(unet, inputs, folder)


def check_export(path: Path, format: str) -> None:
    """Check that a format can be written here and to this path, before the work.

    Raises:
        ValueError: the format is unknown, its packages are not installed, or the path does not fit it.
        OSError: the path cannot be written.
    """
    if format not in EXPORT_FORMATS:
        raise ValueError(f"format={format!r} is unknown; use one of {EXPORT_FORMATS}")
    if missing := why_no_export(format):
        raise ValueError(f"format={format!r} {missing}")
    if format == "onnx" and (path.suffix.lower() != ".onnx" or path.is_dir()):
        raise ValueError(f"path={str(path)!r} is not allowed; name a file that ends in .onnx")
    if format == "openvino" and path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"path={str(path)!r} is not an empty folder; name a new one")
    check_writable(path)


def why_no_export(format: str) -> str:
    """Return what a format lacks here and what to do about it, or "" if it can be written."""
    packages = PACKAGES[format]
    if all(importlib.util.find_spec(name) for name in packages):
        return ""
    return f"needs packages that are not installed: run python -m pip install {' '.join(packages)}"


def example(pipe: DiffusionPipeline | nn.Module) -> dict[str, Tensor]:
    """Return inputs of the shapes that a network reads, in the flat form of ``graph.model_inputs``.

    The number of tokens is that of the pipeline's texts, or 77 if only the UNet is given.
    """
    unet, words = getattr(pipe, "unet", pipe), getattr(pipe, "tokenizer", None)
    inputs = example_inputs(unet, EXAMPLE_BATCH)
    inputs["timestep"] = inputs["timestep"].float()
    if words is not None and reads_text(unet):
        inputs["encoder_hidden_states"] = inputs["encoder_hidden_states"][:, : words.model_max_length]
    flat = flat_inputs(inputs)
    return {name: x.float() if x.is_floating_point() else x for name, x in flat.items()}
