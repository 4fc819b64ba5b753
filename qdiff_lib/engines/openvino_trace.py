"""The operations of a network in the form that OpenVINO's converter reads, traced once.

Given a program of ``torch.export``, OpenVINO decomposes it, and torch then traces the network two more times.
Here the operations are decomposed while they are traced. For ``ddpm-fashion-w4a8`` this takes a quarter of
the time.
"""

from collections.abc import Sequence

import torch
from openvino.frontend.pytorch.torchdynamo.export_decompositions import ops_to_not_decompose
from torch import Tensor, nn
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export.decomp_utils import CustomDecompTable
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext


@torch.no_grad()
def traced_operations(network: nn.Module, inputs: Sequence[Tensor]) -> GraphModule:
    """Return the operations of a network for any batch size.

    Args:
        network: takes the inputs in their order.
        inputs: example inputs, each with the same number of rows, at least 2. Only the rows may change later.
    """
    fake = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    symbolic = [fake.from_tensor(x, symbolic_context=any_rows(x)) for x in inputs]
    with enable_python_dispatcher():  # without it, some operations fix the number of rows
        trace = make_fx(network, decompositions(), tracing_mode="fake", _allow_non_fake_inputs=True)
        return trace(*symbolic)


def any_rows(x: Tensor) -> StatelessSymbolicContext:
    """Return which sizes of an input may change: its number of rows, which all inputs have in common."""
    return StatelessSymbolicContext([DimDynamic.DUCK, *[DimDynamic.STATIC] * (x.ndim - 1)])


def decompositions() -> dict:
    """Return how operations are computed from others; what OpenVINO knows is left whole."""
    table = CustomDecompTable()
    for operation in ops_to_not_decompose():
        table.pop(operation, None)
    return dict(table.items())
