"""Integers against floating point, by real engines: every network call is timed in turns with the others.

What is timed is one call of the noise network. Simulated quantization is not timed here: it is no execution
in integers.
"""

import copy
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import openvino
import torch
from diffusers import DDPMPipeline, DDPMScheduler

from qdiff_lib import Recipe, load, quantize
from qdiff_lib.engines.openvino_engine import OpenVINONetwork, core, integer_share
from qdiff_lib.graph.networks import build
from qdiff_lib.recipes.paper_networks import DDPM_CIFAR10

RATE_SIZE = 1024  # rows and columns of the matrices that measure the machine's arithmetic rate
Calls = dict[str, Callable[[], object]]


def measure(quick: bool = False) -> dict:
    """Times of one network call by all engines, the machine's arithmetic rates, and where the time goes."""
    batches, turns = ((1, 2), 1) if quick else ((1, 8, 32), 9)
    small = (load("ddpm-fashion").unet, load("ddpm-fashion-w4a8").unet)
    cases = [network_case("ddpm-fashion", *small, batch, turns, compiled=batch == 32) for batch in batches]
    if not quick:
        wide = (pipe.unet for pipe in cifar10())
        cases.append(network_case("the paper's CIFAR-10 UNet", *wide, 8, turns, compiled=True))
    return {"rates": arithmetic_rates(64 if quick else RATE_SIZE), "cases": cases}


def cifar10() -> tuple[DDPMPipeline, DDPMPipeline]:
    """DDPM on CIFAR-10 with random weights, and the same at W4A8. Speed and memory need no training."""
    torch.manual_seed(0)
    pipe = DDPMPipeline(unet=build(DDPM_CIFAR10), scheduler=DDPMScheduler())
    recipe = Recipe.qdiffusion(4, 8, weight_rounding="nearest", samples=8, steps=2, edge_bits=16)
    return pipe, quantize(pipe, recipe, progress=False)


def network_case(
    name: str, full: torch.nn.Module, quantized: torch.nn.Module, batch: int, turns: int, compiled: bool
) -> dict:
    """The medians of one call with ``batch`` images; ``compiled``: torch.compile too, which takes minutes."""
    size = full.config.sample_size
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, full.config.in_channels, size, size, generator=generator)
    inputs = {"sample": x, "timestep": torch.full((batch,), 500.0)}
    integers = OpenVINONetwork(quantized, progress=False)
    others = {
        "OpenVINO fp32": OpenVINONetwork(full, progress=False),
        "OpenVINO integers": integers,
        "OpenVINO integers, rest bf16": OpenVINONetwork(quantized, "bf16", progress=False),
    }
    calls = torch_calls(full, inputs)
    times = in_turns(calls | {kind: partial(network, inputs) for kind, network in others.items()}, turns)
    if compiled:  # in turns of their own: compiled code slows down what runs after it
        times |= in_turns(torch_calls(full, inputs, compiled=True), turns)
    layers = integers.layers(inputs)
    return {
        "network": name,
        "batch": batch,
        "milliseconds": times,
        "integer_share": integer_share(layers),
        "gmacs": sum(layer.macs for layer in layers) / 1e9,
        "profile": profile(integers, inputs),
    }


def torch_calls(full: torch.nn.Module, inputs: dict, compiled: bool = False) -> Calls:
    """Torch's ways to call the network in floating point."""
    half, narrow = copy.deepcopy(full).bfloat16(), inputs | {"sample": inputs["sample"].bfloat16()}
    ways = {"torch fp32": (full, inputs), "torch bf16": (half, narrow)}
    if compiled:
        ways = {f"{name}, compiled": (torch.compile(net), given) for name, (net, given) in ways.items()}

    def call(network: torch.nn.Module, given: dict) -> object:
        with torch.no_grad():
            return network(**given)

    return {name: partial(call, *pair) for name, pair in ways.items()}


def in_turns(calls: Calls, turns: int) -> dict[str, dict]:
    """Median, fastest and slowest time of each call in milliseconds; all are called once before."""
    times = {name: [] for name in calls}
    for call in calls.values():
        call()
        call()
    for _ in range(turns):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(1000 * (time.perf_counter() - start))
    return {
        name: {"median": statistics.median(found), "fastest": min(found), "slowest": max(found)}
        for name, found in times.items()
    }


def profile(network: OpenVINONetwork, inputs: dict) -> dict[str, float]:
    """Milliseconds of one call by kind of operation, as the engine counts them (counting makes it slower)."""
    settings = network.settings() | {"PERF_COUNT": True, "CACHE_DIR": ""}
    compiled = core().compile_model(network.fixed(inputs), "CPU", settings)
    request = compiled.create_infer_request()
    arrays = [value.numpy() for value in inputs.values()]
    request.infer(arrays)
    request.infer(arrays)
    kinds: dict[str, float] = {}
    for node in request.get_profiling_info():
        integers = node.exec_type.upper().endswith("I8")
        product = node.node_type in ("Convolution", "FullyConnected", "MatMul")
        kind = f"{node.node_type}{' in integers' if integers and product else ''}"
        if node.node_type == "Subgraph":
            kind = "attention in integers" if integers and "bmm" in node.node_name else "element-wise"
        kinds[kind] = kinds.get(kind, 0.0) + 1000 * node.real_time.total_seconds()
    return dict(sorted(kinds.items(), key=lambda pair: -pair[1]))


def arithmetic_rates(size: int) -> dict[str, float]:
    """Multiply-accumulates per second, in 10^9, of a square matrix product in OpenVINO: fp32, bf16, int8."""
    rates = {}
    for name, precision in (("fp32", "f32"), ("bf16", "bf16"), ("int8", "f32")):
        compiled = core().compile_model(product(size, name == "int8"), "CPU", {
            "INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": torch.get_num_threads()
        })  # fmt: skip
        x = np.random.default_rng(0).random((size, size), dtype=np.float32)
        found = in_turns({name: partial(compiled, [x])}, 9)
        rates[name] = size**3 / (found[name]["fastest"] / 1000) / 1e9
    return rates


def product(size: int, integers: bool) -> openvino.Model:
    """A model of one matrix product, whose operands are quantized if ``integers``."""
    from openvino import opset13 as op

    x = op.parameter([size, size], np.float32)
    weight = np.random.default_rng(1).integers(-15, 16, (size, size)).astype(np.float32)
    values, matrix = x, op.constant(weight)
    if integers:
        values = op.fake_quantize(x, *(op.constant(np.float32(v)) for v in (0, 255, 0, 255)), levels=256)
        matrix = op.fake_quantize(
            matrix, *(op.constant(np.float32(v)) for v in (-128, 127, -128, 127)), levels=256
        )
    return openvino.Model([op.matmul(values, matrix, False, True)], [x])
