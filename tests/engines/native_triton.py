"""Compile the kernels for two GPUs, and trace a layer on a GPU that need not exist. Prints JSON.

This runs in a process of its own, without Triton's interpreter.
"""

import json
import logging

import torch
import triton
from functorch.compile import make_boxed_func
from integer_layers import integer_layer
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch._subclasses import FakeTensorMode
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from qdiff_lib.engines import triton_kernels
from qdiff_lib.engines.triton_layer import TritonLayer

WORDS = ("s32.s8.s8.s32", "wgmma", ".s32.s8.s8", "div.rn.f32", "div.full", "cvt.rni", "add")
OPERANDS = dict(
    x="*i8", zero="*i8", pad="*i8", constant="*i32", move="*i32", scale="*fp32", bias="*fp32", out="*bf16"
)
QUANTIZED = dict(x="*fp32", scale="*fp32", limits="*i32", out="*i8")
SETTINGS = dict(
    KERNEL_H=3, KERNEL_W=3, STRIDE_H=1, STRIDE_W=1, DILATION_H=1, DILATION_W=1, BIAS=True, SUMS=False
)
ONES = dict.fromkeys(("pixels", "outputs", "columns", "channels", "first", "height", "width"), 1) | dict(
    KERNEL_H=1, KERNEL_W=1, PARTS=1, out_height=1, out_width=1, pad_top=1, pad_left=1
)
BLOCKS = dict(BLOCK_M=64, BLOCK_N=32, BLOCK_K=64)
KERNELS = {
    "packed": (triton_kernels.product_kernel.fn, {**OPERANDS, "weight": "*u8"}, True),
    "moved": (triton_kernels.product_kernel.fn, {**OPERANDS, "weight": "*i8"}, False),
    "quantize": (triton_kernels.quantize_kernel, QUANTIZED, None),
}


def instructions(name: str, compute_capability: int, **changes: int) -> dict[str, int]:
    """How often each word occurs in a kernel's instructions. Triton makes a constant of an argument of 1."""
    kernel, pointers, packed = KERNELS[name]
    constants = dict(BLOCK_P=64, BLOCK_C=64, pixel_stride=1)
    if packed is not None:
        constants = {**SETTINGS, **BLOCKS, "PARTS": 2, "PACKED": packed, "MOVED": not packed}
    constants |= changes
    types = {
        each: "constexpr" if each in constants else pointers.get(each, "i32") for each in kernel.arg_names
    }
    aligned = {(i,): [["tt.divisibility", 16]] for i, each in enumerate(kernel.arg_names) if each in pointers}
    source = ASTSource(kernel, types, constants, aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", compute_capability, 32))
    return {word: compiled.asm["ptx"].count(word) for word in WORDS}


def kernels_in_the_graph() -> int:
    """How many kernels ``torch.compile`` finds in a layer, without a break of its graph."""
    layer = TritonLayer(integer_layer(nn.Conv2d(64, 64, 3, padding=1), sizes=(48, 16)))
    graphs = []

    def keep(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return make_boxed_func(graph.forward)

    logging.disable()  # without a GPU it cannot ask the compiler which arguments a kernel writes
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        compiled = torch.compile(layer.to("cuda"), backend=aot_autograd(fw_compiler=keep), fullgraph=True)
        compiled(torch.empty(1, 64, 8, 8, device="cuda"))
    return sum("triton_kernel_wrapper" in str(node.target) for node in graphs[0].graph.nodes)


if __name__ == "__main__":
    found = {f"{name} {gpu}": instructions(name, gpu) for name in KERNELS for gpu in (80, 90)}
    found["ones"] = instructions("packed", 80, **ONES)
    found["sums"] = instructions("packed", 80, SUMS=True)
    print(json.dumps({**found, "traced": kernels_in_the_graph()}))
