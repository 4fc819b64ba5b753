"""Execution on NVIDIA GPUs by Triton: integer layers in int8, the rest as it is.

Tensor cores multiply int8 up to twice as fast as bf16, but only large products reach that. So each layer is
measured once on the GPU in hand, and a layer that bf16 computes faster is run in bf16. This module can be
imported without Triton and without a GPU.
"""

import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..graph.model_inputs import example_inputs
from ..graph.sharing import copy_sharing_tensors
from ..modules.quant_layer import QuantLayer
from .triton_layer import BF16Layer, TritonLayer, why_float

REPEATS = 3  # of a measurement on the CPU


@dataclass(frozen=True)
class LayerReport:
    """Where a quantized layer runs.

    runs_in: "int8", "bf16", or "float" (simulated quantization, in the type of the network).
    reason: why it does not run in int8, or "".
    """

    name: str
    runs_in: str
    reason: str


def triton_network(unet: nn.Module, batch: int = 8, measure: bool | None = None) -> nn.Module:
    """Return a copy of a network whose integer layers run in int8. It shares the other tensors of ``unet``.

    Args:
        unet: a UNet on a GPU, quantized or not. Later changes of its quantized weights have no effect.
        batch: images at a time for which layers are measured.
        measure: run a layer in bf16 if that is faster. None: yes on a GPU, no under Triton's interpreter.

    Raises:
        ValueError: ``batch`` is not positive, or the network is on the CPU and Triton does not interpret.
    """
    from .triton_blocks import INTERPRETED

    if batch < 1:
        raise ValueError(f"batch={batch} must be at least 1: how many images are drawn at a time")
    device = next(unet.parameters()).device
    if device.type != "cuda" and not INTERPRETED:
        raise ValueError("engine='triton' runs on NVIDIA GPUs: call pipe.to('cuda') first")
    network = copy_sharing_tensors(unet)
    for name, module in list(network.named_modules()):
        if isinstance(module, QuantLayer) and not why_float(module):
            network.set_submodule(name, TritonLayer(module))
    if device.type == "cuda" if measure is None else measure:
        use_faster_layers(network, unet, batch)
    return network


def layer_reports(network: nn.Module) -> list[LayerReport]:
    """Return for each quantized layer of a network from ``triton_network`` where it runs, and why."""
    reports = []
    for name, module in network.named_modules():
        if isinstance(module, TritonLayer):
            reports.append(LayerReport(name, "int8", ""))
        elif isinstance(module, BF16Layer):
            reports.append(LayerReport(name, "bf16", module.reason))
        elif isinstance(module, QuantLayer):
            reports.append(LayerReport(name, "float", why_float(module)))
    return reports


@torch.no_grad()
def use_faster_layers(network: nn.Module, unet: nn.Module, batch: int) -> None:
    """Replace in place each integer layer that bf16 computes faster.

    Equal layers with equal inputs are measured once.

    Args:
        network: a copy of ``unet`` with integer layers.
        unet: the network with the quantized layers.
        batch: images at a time.
    """
    found: dict[tuple, tuple[float, float]] = {}
    for name, x in layer_inputs(network, batch).items():
        layer = network.get_submodule(name)
        other = BF16Layer(unet.get_submodule(name))
        key = (layer.work(), tuple(x.shape), x.stride(), x.dtype)
        if key not in found:
            x = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=layer.scale.device).normal_()
            found[key] = (seconds(layer, x), seconds(other, x))
        integers, floats = found[key]
        if floats < integers:
            other.reason = f"{1e6 * floats:.1f} us in bf16, {1e6 * integers:.1f} us in int8"
            network.set_submodule(name, other)


def layer_inputs(network: nn.Module, batch: int) -> dict[str, Tensor]:
    """Return the input of each integer layer in one forward pass, by name, as a tensor without memory."""
    found, hooks = {}, []
    for name, module in network.named_modules():
        if isinstance(module, TritonLayer):

            def keep(module: nn.Module, args: tuple, name: str = name) -> None:
                x = args[0]
                found[name] = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")

            hooks.append(module.register_forward_pre_hook(keep))
    network(**example_inputs(network, batch, next(network.parameters()).device))
    for hook in hooks:
        hook.remove()
    return found


def seconds(layer: nn.Module, x: Tensor) -> float:
    """Return the shortest duration of a call of a layer after warm-up, in seconds."""
    layer(x)
    if x.is_cuda:
        from triton.testing import do_bench

        return do_bench(lambda: layer(x), warmup=10, rep=30, return_mode="min") / 1000
    measured = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        layer(x)
        measured.append(time.perf_counter() - start)
    return min(measured)
