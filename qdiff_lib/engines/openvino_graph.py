"""Changes of an OpenVINO graph after conversion that save passes over memory. They change no value."""

import openvino
from openvino import opset13


def simplified(model: openvino.Model) -> openvino.Model:
    """Apply all changes of this module to a model in place; returns it."""
    for node in model.get_ordered_ops():
        if node.get_type_name() == "ReduceSum":
            read_once(node)
        elif node.get_type_name() == "VariadicSplit":
            skip_concatenation(node)
    model.validate_nodes_and_infer_types()
    return model


def read_once(total: openvino.Node) -> None:
    """Replace ``sqrt(sum(x^2))`` by one operation, which never writes the squares."""
    squares = total.input_value(0).get_node()
    if squares.get_type_name() != "Power":
        return
    norm = opset13.reduce_l2(
        squares.input_value(0), total.input_value(1), total.get_attributes()["keep_dims"]
    )
    for user in total.output(0).get_target_inputs():
        if user.get_node().get_type_name() in ("Sqrt", "Power"):
            user.get_node().output(0).replace(norm.output(0))


def skip_concatenation(split: openvino.Node) -> None:
    """Connect the parts of a split with the inputs of the concatenation that it undoes."""
    whole = split.input_value(0).get_node()
    if whole.get_type_name() != "Concat":
        return
    inputs = [whole.input_value(i) for i in range(whole.get_input_size())]
    if [str(x.get_partial_shape()) for x in inputs] == [str(x.get_partial_shape()) for x in split.outputs()]:
        for part, x in zip(split.outputs(), inputs, strict=True):
            part.replace(x)
