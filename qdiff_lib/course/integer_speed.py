"""Lesson 6: one call of the network in integers and in floating point, measured here and taken apart.

Both run on OpenVINO, from the same graph. In floating point, its quantizers are left out. So whatever differs
comes from the integers alone. OpenVINO is imported only where it is needed: it may not be installed.
"""

import gc
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..engines.run import why_missing

PRODUCTS = "products"
MOVING, MEANS = "moving data", "means of norms"
KINDS = {  # by OpenVINO's type of operation
    **dict.fromkeys(("Convolution", "FullyConnected", "MatMul"), PRODUCTS),
    **dict.fromkeys(("Reorder", "Transpose", "Concat", "VariadicSplit", "Broadcast", "Pad"), MOVING),
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceL2"), MEANS),
}
OTHERS = "element-wise"
EXPORT = """
import sys, torch
from qdiff_lib import load
from qdiff_lib.course.integer_speed import network_inputs
from qdiff_lib.engines.openvino_engine import OpenVINONetwork
unet = load(sys.argv[1]).unet
OpenVINONetwork(unet).exported(network_inputs(unet, 2))
"""


@dataclass(frozen=True)
class Product:
    """A convolution or matrix product. intensity: multiply-accumulates per byte read or written."""

    macs: int
    intensity: float
    seconds: float

    @property
    def rate(self) -> float:
        """Billions of multiply-accumulates per second."""
        return self.macs / self.seconds / 1e9


@dataclass(frozen=True)
class Execution:
    """One call. milliseconds: the median. kinds: milliseconds by kind. products: of the layers."""

    milliseconds: float
    kinds: dict[str, float]
    products: tuple[Product, ...]

    @property
    def share(self) -> float:
        """The share of the time that products take, 0 to 1."""
        return self.kinds[PRODUCTS] / sum(self.kinds.values())


@dataclass(frozen=True)
class Speed:
    """What was measured here.

    torch: milliseconds of one call. rates: "float" and "int8", in 10^9 products per second, and "memory", in
    10^9 bytes per second. integer_share: of the multiply-accumulates, 0 to 1, as the engine runs them.
    """

    torch: float
    floats: Execution
    integers: Execution
    rates: dict[str, float]
    integer_share: float


def engine_here() -> str:
    """The engine that computes in integers on this machine: OpenVINO, or the slow reference without it."""
    return "reference" if why_missing("openvino") else "openvino"


def network_inputs(unet: nn.Module, batch: int) -> dict[str, Tensor]:
    """Random inputs of an unconditional network: ``batch`` noisy images at time 500."""
    shape = (batch, unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)
    noisy = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return {"sample": noisy, "timestep": torch.full((batch,), 500.0)}


def input_of(layer: nn.Module, unet: nn.Module, noisy: Tensor, time: int) -> Tensor:
    """What a layer of a network gets as its input, when the network gets noisy images (B, C, H, W)."""
    caught = []
    hook = layer.register_forward_pre_hook(lambda module, inputs: caught.append(inputs[0]))
    try:
        with torch.no_grad():
            unet(noisy, time)
    finally:
        hook.remove()
    return caught[0]


def prepare(name: str, unet: nn.Module) -> None:
    """Export the network of a shipped model, if this was never done before: in a process of its own.

    An export needs some hundred MB. That process gives them back. Without a folder to keep it in, the export
    is left to the first call.
    """
    from ..engines.openvino_engine import OpenVINONetwork, shapes_of

    network = OpenVINONetwork(unet)
    kept = network.cache and network.cache / f"{network.identity(shapes_of(network_inputs(unet, 2)))}.xml"
    if not kept or kept.is_file():
        return
    print("OpenVINO gets the network for the first time: this takes about a minute, once")
    paths = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-W", "ignore", "-c", EXPORT, name]
    done = subprocess.run(command, env=os.environ | paths, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the export of {name} failed: {done.stderr.strip()[-500:]}")


def measure(full: nn.Module, network: Any, batch: int, repeats: int) -> Speed:
    """Time one call with ``batch`` images in turns: by torch, and by OpenVINO in both arithmetics.

    full: the network in full precision, on the CPU. network: the ``OpenVINONetwork`` of the quantized one.
    """
    network.compiled.clear()  # memory; the next image compiles again, from the cache
    rates = machine_rates(repeats)
    gc.collect()
    inputs, plain = network_inputs(full, batch), network.fixed
    arrays = [value.numpy() for value in inputs.values()]
    runs = {
        "floats": Counted.of(without_quantizers(plain(inputs)), operand_bytes=4),
        "integers": Counted.of(plain(inputs), operand_bytes=1),
    }
    calls = {name: partial(run.request.infer, arrays) for name, run in runs.items()}
    times = in_turns(calls | {"torch": partial(without_gradient, full, inputs)}, repeats)
    found = {name: Execution(times[name], *run.taken_apart()) for name, run in runs.items()}
    share = runs["integers"].integer_share()
    return Speed(times["torch"], found["floats"], found["integers"], rates, share)


@torch.no_grad()
def without_gradient(unet: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """The predicted noise."""
    return unet(**inputs).sample


def in_turns(
    calls: Mapping[str, Callable[[], object]], repeats: int, of: Callable = statistics.median
) -> dict[str, float]:
    """The duration of each call, in milliseconds. They take turns, so that a busy moment hits all.

    of: what is taken of the repeated durations.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()  # the first call prepares what later ones use
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: of(found) for name, found in times.items()}


def compile_counting(model: Any) -> Any:
    """The model compiled for the CPU, for torch's number of threads. It counts the time of each operation."""
    from ..engines.openvino_engine import core

    settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "PERFORMANCE_HINT": "LATENCY"}
    settings |= {"INFERENCE_PRECISION_HINT": "f32", "PERF_COUNT": True}
    return core().compile_model(model, "CPU", settings)


def without_quantizers(model: Any) -> Any:
    """Leave out all quantizers of a model, in place: the same graph, in floating point."""
    from openvino import opset13

    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        if kind == "FakeQuantize":
            node.output(0).replace(node.input_value(0))
        elif kind == "Convert" and node.input_value(0).get_node().get_type_name() == "Constant":
            levels = node.input_value(0).get_node().data.astype(np.float32)
            node.output(0).replace(opset13.constant(levels).output(0))
    model.validate_nodes_and_infer_types()
    return model


@dataclass(frozen=True)
class Counted:
    """A compiled model.

    sizes: see ``product_sizes``. layers: what each of its operations was made of. integers: names of layers
    whose operations compute in int8.
    """

    request: Any
    sizes: dict[str, tuple[int, int]]
    layers: dict[str, set[str]]
    integers: set[str]

    @classmethod
    def of(cls, model: Any, operand_bytes: int) -> "Counted":
        """Compile a model."""
        compiled = compile_counting(model)
        layers, integers = {}, set()
        for node in compiled.get_runtime_model().get_ops():
            info = node.get_rt_info()
            names = set(map(layer_of, info["originalLayersNames"].astype(str).split(",")))
            layers[node.get_friendly_name()] = names
            if info["primitiveType"].astype(str).upper().endswith("I8"):
                integers |= names
        return cls(compiled.create_infer_request(), product_sizes(model, operand_bytes), layers, integers)

    def integer_share(self) -> float:
        """The share of the multiply-accumulates that run in integers, 0 to 1."""
        macs = {name: macs for name, (macs, _) in self.sizes.items()}
        return sum(macs[name] for name in macs if name in self.integers) / sum(macs.values())

    def taken_apart(self) -> tuple[dict[str, float], tuple[Product, ...]]:
        """Milliseconds of the last call by kind of operation, and its products."""
        kinds, found = dict.fromkeys((PRODUCTS, MOVING, MEANS, OTHERS), 0.0), []
        counted = self.request.get_profiling_info()
        alone = [
            self.layers.get(node.node_name, ()) for node in counted if KINDS.get(node.node_type) == PRODUCTS
        ]
        for node in counted:
            seconds, names = node.real_time.total_seconds(), set(self.layers.get(node.node_name, ()))
            if node.node_type == "Subgraph":
                names = names.difference(*alone)  # else it is what follows a product, for example a sum
            inside = [self.sizes[name] for name in names if name in self.sizes]
            fused = inside and node.node_type == "Subgraph"  # attention's products
            kind = PRODUCTS if fused else KINDS.get(node.node_type, OTHERS)
            kinds[kind] += 1000 * seconds
            if inside and seconds and kind == PRODUCTS:
                macs, moved = (sum(column) for column in zip(*inside, strict=True))
                found.append(Product(macs, macs / moved, seconds))
        return kinds, tuple(found)


def layer_of(operation: str) -> str:
    """The name of the layer that an operation belongs to."""
    return operation.rpartition("/")[0]


def product_sizes(model: Any, operand_bytes: int) -> dict[str, tuple[int, int]]:
    """Multiply-accumulates, and bytes read and written, of each product of a model by the name of its layer.

    An operand's number takes ``operand_bytes``, and an output's four.
    """
    found = {}
    for node in model.get_ordered_ops():
        if node.get_type_name() not in ("Convolution", "MatMul"):
            continue
        first, second, out = (list(port.get_shape()) for port in (*node.inputs(), node.output(0)))
        if node.get_type_name() == "Convolution":
            depth = int(np.prod(second[1:]))
        else:
            depth = first[-2 if node.get_attributes()["transpose_a"] else -1]
        operands = int(np.prod(first)) + int(np.prod(second))
        outputs = int(np.prod(out))
        found[layer_of(node.get_friendly_name())] = (outputs * depth, operands * operand_bytes + 4 * outputs)
    return found


def machine_rates(repeats: int, channels: int = 256) -> dict[str, float]:
    """What the machine reaches at best: a wide convolution in both arithmetics, and a copy of memory."""
    from openvino import opset13 as op

    rng, shape, kernel = np.random.default_rng(0), [1, channels, 32, 32], [channels, channels, 3, 3]
    values = op.constant(rng.integers(-15, 16, kernel).astype(np.float32))
    given, calls = rng.integers(0, 256, shape).astype(np.float32), {}
    for name in ("float", "int8"):
        x = op.parameter(shape, np.float32)
        operands = (levels(x, 0, 255), levels(values, -128, 127)) if name == "int8" else (x, values)
        calls[name] = partial(compile_counting(wide(operands, x)).create_infer_request().infer, [given])
    large = np.zeros(2**22, dtype=np.float32)  # 16 MB
    calls["memory"] = large.copy
    times = in_turns(calls, 4 * repeats, min)
    macs = channels * 32 * 32 * channels * 9
    work = {"float": macs, "int8": macs, "memory": 2 * large.nbytes}
    return {name: work[name] / times[name] / 1e6 for name in calls}


def levels(x: Any, low: int, high: int) -> Any:
    """Round to whole numbers between ``low`` and ``high``: the pattern that OpenVINO computes in int8."""
    from openvino import opset13 as op

    return op.fake_quantize(x, *(op.constant(np.float32(v)) for v in (low, high, low, high)), levels=256)


def wide(operands: tuple, x: Any) -> Any:
    """A model of one convolution. x: its input, from which the first operand is made."""
    import openvino
    from openvino import opset13 as op

    return openvino.Model([op.convolution(*operands, [1, 1], [1, 1], [1, 1], [1, 1])], [x])
