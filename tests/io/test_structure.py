"""What is quantized where, as JSON, and a network built from it."""

import copy
import json

import pytest
from tiny_models import conditional_unet, unet2d, with_quantizers

from qdiff_lib.io.structure import build, structure_of
from qdiff_lib.modules.activation_quantizer import activation_quantizers
from qdiff_lib.modules.attention import QuantAttention
from qdiff_lib.modules.quant_layer import QuantLayer, quant_layers
from qdiff_lib.recipes.parts import Grids

GRIDS = {
    "split": Grids(weights=4, activations=8, split=True),
    "whole": Grids(weights=3, activations=6, split=False, softmax_bits=16),
    "edges": Grids(weights=2, activations=4, edge_bits=8, exclude=("mid_block.*",)),
    "weights-only": Grids(weights=16, activations=32),
    "activations-only": Grids(weights=32, activations=8),
    "no-attention": Grids(quantize_attention=False),
}


@pytest.mark.parametrize("grids", GRIDS.values(), ids=GRIDS.keys())
@pytest.mark.parametrize("make", [unet2d, conditional_unet])
def test_a_network_is_built_again(make, grids):
    unet = with_quantizers(make(), grids)
    structure = json.loads(json.dumps(structure_of(unet)))
    again = build(make(), structure)
    assert structure_of(again) == structure
    parts = [[(m.sizes, m.shape, m.weight_grid) for m in quant_layers(u)] for u in (unet, again)]
    assert parts[0] == parts[1]
    bits = [[q.grid.bits for q in activation_quantizers(u)] for u in (unet, again)]
    assert bits[0] == bits[1]
    kinds = [[(n, type(m)) for n, m in u.named_modules() if n] for u in (unet, again)]
    assert kinds[0] == kinds[1]


def test_the_structure_names_every_layer_and_attention():
    unet = with_quantizers(unet2d(), GRIDS["edges"])
    structure = structure_of(unet)
    names = {(group["weight_bits"], name) for group in structure["layers"] for name in group["names"]}
    expected = {(m.weight_grid.bits, n) for n, m in unet.named_modules() if isinstance(m, QuantLayer)}
    assert names == expected and {(8, "conv_in"), (8, "conv_out"), (2, "time_embedding.linear_1")} <= names
    named = [name for group in structure["attention"] for name in group["names"]]
    assert named == [n for n, m in unet.named_modules() if isinstance(m, QuantAttention)]
    assert named and not any(name.startswith("mid_block") for _, name in names)


def test_split_layers_have_their_sizes():
    whole, split = (structure_of(with_quantizers(unet2d(), GRIDS[name])) for name in ("whole", "split"))
    assert {tuple(group["sizes"]) for group in whole["layers"]} == {()}
    sizes = {name: group["sizes"] for group in split["layers"] for name in group["names"] if group["sizes"]}
    layers = dict(unet2d().named_modules())
    assert sizes and all(sum(size) == layers[name].weight.shape[1] for name, size in sizes.items())


def layer(**changes):
    return lambda structure: structure["layers"][0].update(changes)


WRONG = {
    "no-list": (lambda s: s.update(layers={}), "layers={}, not a list"),
    "no-attention": (lambda s: s.pop("attention"), "attention=None, not a list"),
    "no-object": (lambda s: s["layers"].append(3), "entry 3 under layers, which needs weight_bits"),
    "missing-field": (
        lambda s: s["layers"][0].pop("sizes"),
        "under layers, which needs weight_bits, activat",
    ),
    "extra-field": (layer(more=1), "under layers, which needs"),
    "bits-as-text": (layer(weight_bits="4"), "under layers, which needs"),
    "bits-as-bool": (layer(weight_bits=True), "under layers, which needs"),
    "bits": (layer(weight_bits=9), "9"),
    "sizes": (layer(names=["conv_in"], sizes=[1, 1]), r"sizes=\(1, 1\) must sum to .* 1 input channels"),
    "sizes-as-text": (layer(sizes=["a"]), "under layers, which needs"),
    "unknown": (layer(names=["conv_nowhere"]), "names 'conv_nowhere', and the network has no such Conv1d"),
    "number": (layer(names=[3]), "names 3, which is no text"),
    "block": (layer(names=["mid_block"]), "names 'mid_block', and the network has no such"),
    "twice": (layer(names=["conv_in", "conv_in"]), "names 'conv_in' more than once"),
    "attention": (
        lambda s: s["attention"][0].update(names=["mid_block"]),
        "names 'mid_block', and the network has no such Attention",
    ),
    "layer-and-attention": (
        lambda s: s["attention"][0].update(names=["conv_out"]),
        "names 'conv_out' more than once",
    ),
    "text-of-python": (layer(names=["conv_in.__class__"]), "names 'conv_in.__class__', and the network has"),
    "empty-text": (layer(names=[""]), "names '', and the network has no such"),
    "a-million": (layer(names=[str(i) for i in range(10**6)]), "names 10000.. modules, and the network has"),
    "negative-sizes": (layer(names=["conv_in"], sizes=[-1, 2]), r"sizes=\[-1, 2\], which must be"),
    "one-size": (layer(names=["conv_in"], sizes=[1]), r"sizes=\[1\], which must be"),
    "extra-kind": (lambda s: s.update(more=[]), "structure of quantization_config has .*more"),
}


@pytest.mark.parametrize("change, message", WRONG.values(), ids=WRONG.keys())
def test_wrong_structures(change, message):
    structure = copy.deepcopy(structure_of(with_quantizers(unet2d(), GRIDS["whole"])))
    build(unet2d(), structure)
    change(structure)
    with pytest.raises(ValueError, match=message):
        build(unet2d(), structure)


@pytest.mark.parametrize("structure", [None, [1], "text"], ids=str)
def test_what_is_no_structure(structure):
    with pytest.raises(ValueError, match="structure of quantization_config"):
        build(unet2d(), structure)
