"""A quantized network as an ONNX model in the form called QDQ: quantize, dequantize, then multiply.

An activation passes through QuantizeLinear and DequantizeLinear, with its scale and its zero point as uint8.
A weight is a constant of codes, as UINT4 or UINT8, that passes through DequantizeLinear with one scale and
one zero point for each output channel. An engine may multiply the integers, or the values that they stand
for: both give the same numbers up to rounding in floating point.
"""

from collections.abc import Mapping

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from ..modules.attention import QuantAttention
from ..modules.quant_layer import QuantLayer
from .exported import (
    CODE_BITS,
    OPS,
    ExportedActivation,
    PositionalNetwork,
    exported_network,
    runs_in_integers,
)

OPSET = 21  # the first with UINT4
LARGEST_FILE = 2**31 - 1  # bytes; protobuf, in which ONNX files are written, allows no more
UINT4_TOP = 15


class WeightCodes(nn.Module):
    """One part of an integer weight in its own codes, scales and zero points. See ``ExportedWeight``."""

    moved = False

    def __init__(self, codes: Tensor, scale: Tensor, zero_point: Tensor):
        super().__init__()
        self.register_buffer("codes", codes.contiguous())
        self.register_buffer("scale", scale.contiguous())
        self.register_buffer("zero_point", zero_point.int())  # differences of uint8 would wrap

    def pieces(self) -> list[Tensor]:
        """Return the weight alone, (C_out, C_in of the part, ...)."""
        grid = (self.scale, self.zero_point, 0, 0, 2**CODE_BITS - 1, torch.uint8)
        return [OPS.dequantize_per_channel(self.codes, *grid)]


def network_with_codes(unet: nn.Module) -> nn.Module:
    """Return a copy in the form that engines read. Every tensor has its own codes and zero point."""
    network = exported_network(unet)
    for name, layer in unet.named_modules():
        if isinstance(layer, QuantAttention):
            copied = network.get_submodule(name)
            copied.attend = copied.products
            for part in ("quantize_q", "quantize_k", "quantize_v", "quantize_softmax"):
                quantizer = getattr(layer, part)
                known = quantizer.scale is not None
                setattr(copied, part, ExportedActivation(quantizer) if known else nn.Identity())
        if isinstance(layer, QuantLayer) and runs_in_integers(layer):
            pieces = layer.integer_codes().split(layer.sizes, dim=1)
            scales, zero_points = layer.weight_scale.unbind(1), layer.weight_zero_point.unbind(1)
            parts = map(WeightCodes, pieces, scales, zero_points)
            network.get_submodule(name).weights = nn.ModuleList(parts)
    return network.eval()


def serialized(unet: nn.Module, inputs: Mapping[str, Tensor]) -> bytes:
    """Return a network as the bytes of an ONNX file, for any batch size.

    Args:
        unet: a network in float32 on the CPU.
        inputs: example inputs by name, in the flat form of ``graph.model_inputs``, each with two rows.

    Raises:
        ValueError: the file would be too large.
    """
    network = PositionalNetwork(network_with_codes(unet), tuple(inputs))
    dynamic = {"inputs": tuple({0: torch.export.Dim.DYNAMIC} for _ in inputs)}
    with torch.no_grad():
        program = torch.export.export(network, tuple(inputs.values()), dynamic_shapes=dynamic, strict=False)
    names = dict(input_names=list(inputs), output_names=["noise"])
    model = torch.onnx.export(program, dynamo=True, opset_version=OPSET, verbose=False, **names).model_proto
    remove_notes(model.graph)
    pack_weights(model.graph)
    if model.ByteSize() > LARGEST_FILE:
        raise ValueError(
            f"the ONNX file would have {model.ByteSize()} bytes, and {LARGEST_FILE} are allowed: "
            "use format='openvino'"
        )
    return model.SerializeToString()


def remove_notes(graph: onnx.GraphProto) -> None:
    """Remove where torch's exporter found each operation, half of the file, and name the free batch."""
    for part in (*graph.node, *graph.input, *graph.output, *graph.initializer, graph):
        del part.metadata_props[:]
        part.doc_string = ""
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"


def pack_weights(graph: onnx.GraphProto) -> None:
    """Store codes and zero points of weights as UINT4 where no code is above 15, two in a byte."""
    constants = {each.name: each for each in graph.initializer}
    producers = {node.output[0]: node for node in graph.node}

    def value(name: str) -> np.ndarray:
        """Return a constant, or what a conversion of its type reads."""
        name = name if name in constants else producers[name].input[0]
        return onnx.numpy_helper.to_array(constants[name])

    for node in graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] not in constants:
            continue
        codes, zero_point = value(node.input[0]), value(node.input[2])
        if max(codes.max(), zero_point.max()) <= UINT4_TOP:
            names = [f"{node.output[0]}.{part}" for part in ("codes", "zero_point")]
            graph.initializer.extend(map(uint4, names, (codes, zero_point)))
            node.input[0], node.input[2] = names
    remove_unused(graph)


def uint4(name: str, codes: np.ndarray) -> onnx.TensorProto:
    """Return codes from 0 to 15 as a tensor of type UINT4. The first of two codes has the lower bits."""
    flat = np.append(codes.astype(np.uint8).ravel(), [0] * (codes.size % 2)).astype(np.uint8)
    packed = (flat[::2] | flat[1::2] << 4).tobytes()
    return onnx.helper.make_tensor(name, onnx.TensorProto.UINT4, codes.shape, packed, raw=True)


def remove_unused(graph: onnx.GraphProto) -> None:
    """Remove the constants, and the conversions of constants, that no operation reads any more."""
    for parts, names in ((graph.node, lambda node: node.output), (graph.initializer, lambda c: [c.name])):
        read = {name for node in graph.node for name in node.input} | {each.name for each in graph.output}
        for i in reversed(range(len(parts))):
            if not read.intersection(names(parts[i])):
                del parts[i]
