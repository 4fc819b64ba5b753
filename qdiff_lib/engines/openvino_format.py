"""A quantized network as OpenVINO's IR: a graph (.xml) and its constants (.bin).

The graph is the one that the engine "openvino" runs. Its integer layers are computed in integers by OpenVINO
too, if they are read from the files.
"""

from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import openvino
from openvino import opset13
from torch import Tensor, nn

from .openvino_engine import converted

UINT4_TOP = 15


def write_ir(unet: nn.Module, inputs: Mapping[str, Tensor], folder: Path) -> None:
    """Write ``network.xml`` and ``network.bin`` to a folder, for any batch size.

    Args:
        unet: a network in float32 on the CPU.
        inputs: example inputs by name, in the flat form of ``graph.model_inputs``, each with two rows.
    """
    model = converted(unet, inputs)
    model.reshape({i: [-1, *x.shape[1:]] for i, x in enumerate(inputs.values())})
    for port, name in zip((*model.inputs, *model.outputs), (*inputs, "noise"), strict=True):
        port.get_tensor().set_names({name})
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Constant" and node.get_element_type() == openvino.Type.i8:
            pack_levels(node)
    model.validate_nodes_and_infer_types()
    graph = folder / "network.xml"
    openvino.serialize(model, graph, graph.with_suffix(".bin"))
    remove_notes(graph)


def pack_levels(constant: openvino.Node) -> None:
    """Store int8 levels as codes of 4 bits with one zero point for each output channel, if they fit.

    OpenVINO subtracts the zero points in int8 while it compiles, so the layer still runs in int8.
    """
    levels = constant.get_data().astype(np.int16)
    lowest = levels.min(axis=tuple(range(1, levels.ndim)), keepdims=True).clip(max=0)
    codes = levels - lowest
    if codes.max() > UINT4_TOP:
        return
    packed = opset13.constant(codes.astype(np.uint8), openvino.Type.u4)
    zero_point = opset13.constant((-lowest).astype(np.int8))
    same = opset13.subtract(opset13.convert(packed, "i8"), zero_point)
    for user in constant.output(0).get_target_inputs():
        user.replace_source_output(same.output(0))


def remove_notes(graph: Path) -> None:
    """Remove what OpenVINO notes about the origin of each operation, a third of the file, and indentation."""
    tree = ElementTree.parse(graph)
    for part in tree.iter():
        part.tail = None
        part.text = part.text if part.text and part.text.strip() else None
        for notes in part.findall("rt_info") if part.tag == "layer" else ():
            for note in notes.findall("attribute[@name='fused_names']"):
                notes.remove(note)
            if not len(notes):
                part.remove(notes)
    tree.write(graph, encoding="utf-8", xml_declaration=True)
