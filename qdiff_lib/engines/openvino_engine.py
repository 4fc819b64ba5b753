"""Execution on CPUs by OpenVINO: integer layers in int8, everything else in floating point.

The network is exported once and kept on disk. It is compiled once for each batch size. Layers of which an
operand has 16 bits or is in floating point run in floating point.
"""

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import torch
from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder
from torch import Tensor, nn

from ..graph.model_inputs import flat_inputs
from ..utils.files import atomic_path
from ..utils.hashing import sources_hash, tensors_hash
from ..utils.progress import progress_bar
from .channels_last import with_channels_last
from .exported import PositionalNetwork, exported_network
from .openvino_graph import simplified
from .openvino_trace import traced_operations

PRECISIONS = ("f32", "bf16")
EXPORTS = ("quantizers", "modules", "graph", "engines")  # packages that decide what is exported
EXAMPLE_BATCH = 2  # exporters treat a batch of 1 as a special case


@dataclass(frozen=True)
class ExecutedLayer:
    """A convolution or matrix product as the engine runs it.

    macs: multiply-accumulates of one call. integers: whether it multiplies int8 numbers.
    """

    name: str
    macs: int
    integers: bool


@cache
def core() -> openvino.Core:
    """Return OpenVINO's ``Core``. There is one, and it lives as long as the process.

    Its CPU plugin replaces the stack on which a thread handles signals, and frees the new one when the plugin
    ends. If this happened in another thread, which collects garbage, the next signal would end the process.
    """
    return openvino.Core()


class OpenVINONetwork:
    """A noise network that OpenVINO runs. It is called like the diffusers UNet it was made from.

    Args:
        unet: a UNet on the CPU, quantized or not. Later changes of its weights have no effect.
        precision: what everything but integers is computed in: "f32" or "bf16". bf16 is faster on CPUs that
            have it, and adds an error.
        cache: a folder for exported and compiled networks; None: see ``cache_folder``.
        progress: show what takes long: export, and compilation for another batch size.

    Raises:
        ValueError: the precision is unknown, or the network is not on the CPU.
    """

    def __init__(
        self, unet: nn.Module, precision: str = "f32", cache: Path | None = None, progress: bool = True
    ):
        if precision not in PRECISIONS:
            raise ValueError(f"precision={precision!r} is unknown; use one of {PRECISIONS}")
        if next(unet.parameters()).device.type != "cpu":
            raise ValueError("engine='openvino' runs on the CPU: call pipe.to('cpu') first")
        self.unet, self.precision, self.progress = unet, precision, progress
        self.cache = cache or cache_folder()
        self.models: dict[tuple, openvino.Model] = {}
        self.compiled: dict[tuple, openvino.CompiledModel] = {}

    def __deepcopy__(self, memo: dict) -> "OpenVINONetwork":
        return self

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the predicted noise (B, C, H, W), in float32.

        Args:
            inputs: tensors by name, in the flat form of ``graph.model_inputs``, each with B rows.
        """
        outputs = self.compiled_for(inputs)([array(x) for x in inputs.values()], share_inputs=True)
        return torch.from_numpy(np.array(outputs[0]))

    def compiled_for(self, inputs: Mapping[str, Tensor]) -> openvino.CompiledModel:
        """Return the network compiled for the shapes of ``inputs``; it compiles once for each batch size."""
        key = shapes_of(inputs)
        if key not in self.compiled:
            batch = len(next(iter(inputs.values())))
            with progress_bar(
                total=2, desc=f"OpenVINO: {batch} images", unit="stage", shown=self.progress
            ) as bar:
                model = self.fixed(inputs)
                bar.update()
                self.compiled[key] = core().compile_model(model, "CPU", self.settings())
                bar.update()
        return self.compiled[key]

    def settings(self) -> dict[str, Any]:
        """Return OpenVINO's settings: torch's number of threads, the precision, and the cache."""
        threads = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        kept = {"CACHE_DIR": str(self.cache)} if self.cache else {}
        return {**threads, **kept, "INFERENCE_PRECISION_HINT": self.precision}

    def exported(self, inputs: Mapping[str, Tensor]) -> openvino.Model:
        """Return the network as an OpenVINO model for any batch size, from memory, from disk, or made now."""
        rows = {name: x[:1].repeat(EXAMPLE_BATCH, *[1] * (x.ndim - 1)) for name, x in inputs.items()}
        key = shapes_of(rows)
        if key not in self.models:
            path = self.cache and self.cache / f"{self.identity(key)}.xml"
            if not path or not path.is_file():
                self.models[key] = converted(self.unet, rows)
                if path:
                    save(self.models[key], path)
            else:
                self.models[key] = core().read_model(path)
        return self.models[key]

    def fixed(self, inputs: Mapping[str, Tensor]) -> openvino.Model:
        """Return the exported network with the shapes of ``inputs``, simplified."""
        model = self.exported(inputs).clone()
        model.reshape({i: list(x.shape) for i, x in enumerate(inputs.values())})
        return simplified(model)

    def identity(self, key: tuple) -> str:
        """Return a hash of all that decides the exported model."""
        config = {name: value for name, value in self.unet.config.items() if name != "quantization_config"}
        library = Path(__file__).parents[1]
        code = sources_hash(sorted(path for part in EXPORTS for path in (library / part).glob("*.py")))
        made_by = [config, structure(self.unet), key, code, torch.__version__, openvino.__version__]
        return tensors_hash(self.unet.state_dict(), made_by)[:32]

    def layers(self, inputs: Mapping[str, Tensor]) -> list[ExecutedLayer]:
        """Return every convolution and matrix product of the compiled network, as the engine runs it.

        It compiles anew: a network from the cache has lost the names of some layers.
        """
        fresh = self.settings() | {"CACHE_DIR": ""}
        compiled = core().compile_model(self.fixed(inputs), "CPU", fresh)
        integers = set()
        for node in compiled.get_runtime_model().get_ops():
            info = node.get_rt_info()
            if info["primitiveType"].astype(str).upper().endswith("I8"):
                names = info["originalLayersNames"].astype(str).split(",")
                integers |= {name.rpartition("/")[0] for name in names}
        return [ExecutedLayer(name, macs, name in integers) for name, macs in products(self.fixed(inputs))]


def converted(unet: nn.Module, inputs: Mapping[str, Tensor]) -> openvino.Model:
    """Export a network and convert it to an OpenVINO model for any batch size.

    inputs: example inputs, each with ``EXAMPLE_BATCH`` rows.
    """
    narrow = {torch.float16, torch.bfloat16} & {value.dtype for value in unet.state_dict().values()}
    wide = copy.deepcopy(unet).float() if narrow else unet
    network = with_channels_last(exported_network(wide)).eval()
    operations = traced_operations(PositionalNetwork(network, tuple(inputs)), tuple(inputs.values()))
    return openvino.convert_model(TorchFXPythonDecoder(operations, dynamic_shapes=True))


def products(model: openvino.Model) -> list[tuple[str, int]]:
    """Return name and multiply-accumulates of each convolution and matrix product of a model."""
    found = []
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        if kind in ("Convolution", "GroupConvolution"):
            per_output = int(np.prod(node.input(1).get_shape()[-(len(node.get_output_shape(0)) - 1) :]))
        elif kind == "MatMul":
            per_output = node.input(0).get_shape()[-2 if node.get_attributes()["transpose_a"] else -1]
        else:
            continue
        found.append(
            (node.get_friendly_name().rpartition("/")[0], int(np.prod(node.get_output_shape(0))) * per_output)
        )
    return found


def integer_share(layers: list[ExecutedLayer]) -> float:
    """Return the share of multiply-accumulates that run in integers, 0 to 1."""
    return sum(layer.macs for layer in layers if layer.integers) / sum(layer.macs for layer in layers)


def structure(unet: nn.Module) -> list:
    """Return what decides the form of a network beside its config and its tensors."""
    own = ("sizes", "weight_grid", "grid")
    return [
        [name, type(module).__name__, *(str(getattr(module, each, "")) for each in own)]
        for name, module in unet.named_modules()
    ]


def shapes_of(inputs: Mapping[str, Tensor]) -> tuple:
    """Return names, types and shapes of inputs."""
    return tuple((name, str(x.dtype), *x.shape) for name, x in flat_inputs(inputs).items())


def array(x: Tensor) -> np.ndarray:
    """Return a tensor as a contiguous array."""
    return x.detach().contiguous().numpy()


def save(model: openvino.Model, path: Path) -> None:
    """Write a model as ``path`` (.xml) and its weights beside it (.bin); the .xml comes last."""
    with atomic_path(path) as temporary:
        openvino.serialize(model, temporary, path.with_suffix(".bin"))


def cache_folder() -> Path | None:
    """Return the folder of exported and compiled networks, or None if it cannot be made.

    It is ``qdiff_lib/openvino`` in the user's cache: $XDG_CACHE_HOME, or ~/.cache.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qdiff_lib" / "openvino"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None
