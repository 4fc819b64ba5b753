"""The structure of a quantized network: which modules are quantized, and to how many bits.

A structure is a small JSON form in ``unet/config.json``. It is enough to build the quantized network before
its integers are read:

    {"layers": [{"weight_bits": 4, "activation_bits": 8, "sizes": [64, 32], "names": [...]}, ...],
     "attention": [{"activation_bits": 8, "softmax_bits": 8, "names": [...]}]}

``sizes``: input channels of each part of a split layer; [] for a layer that is not split. Scales and zero
points are tensors, so they are not in the structure.
"""

from collections import Counter

from diffusers.models.attention_processor import Attention
from torch import nn

from ..modules.attention import QuantAttention
from ..modules.integers import HoldsIntegers
from ..modules.quant_layer import QUANTIZABLE, QuantLayer
from ..quantizers.grid import Grid
from ..utils.constants import FLOAT_BITS


def structure_of(unet: nn.Module) -> dict:
    """The structure of a quantized network, as described above."""
    layers, attention = {}, {}
    for name, module in unet.named_modules():
        if isinstance(module, QuantLayer):
            weights = module.weight_grid.bits if module.weight_grid else FLOAT_BITS
            activations = module.inputs[0].grid.bits if len(module.inputs) else FLOAT_BITS
            sizes = module.sizes if len(module.sizes) > 1 else ()
            layers.setdefault((weights, activations, sizes), []).append(name)
        elif isinstance(module, QuantAttention):
            bits = module.quantize_q.grid.bits, module.quantize_softmax.grid.bits
            attention.setdefault(bits, []).append(name)
    return {
        "layers": [
            {"weight_bits": w, "activation_bits": a, "sizes": list(sizes), "names": names}
            for (w, a, sizes), names in layers.items()
        ],
        "attention": [
            {"activation_bits": a, "softmax_bits": s, "names": names} for (a, s), names in attention.items()
        ],
    }


def build(unet: nn.Module, structure: dict) -> nn.Module:
    """Replace modules of ``unet`` by quantized ones, in place, and allocate their integers; returns ``unet``.

    structure: as described above. Raises ValueError for a damaged structure, and for an entry that names a
    module that the network does not have.
    """
    modules = dict(unet.named_modules())
    layers, attention = check_structure(structure, len(modules))
    for group in layers:
        bits, sizes = group["weight_bits"], tuple(group["sizes"])
        grid = None if group["activation_bits"] == FLOAT_BITS else Grid(group["activation_bits"])
        for name in group["names"]:
            layer = submodule(modules, name, QUANTIZABLE)
            parts = sizes or (layer.weight.shape[1],)
            unet.set_submodule(name, QuantLayer(layer, bits, grid, parts))
    for group in attention:
        grid, softmax = Grid(group["activation_bits"]), Grid(group["softmax_bits"])
        for name in group["names"]:
            unet.set_submodule(name, QuantAttention.of(submodule(modules, name, (Attention,)), grid, softmax))
    device = unet.device  # finding it takes long
    for module in unet.modules():
        if isinstance(module, HoldsIntegers):
            module.hold_integers(device)
    return unet


FIELDS = {
    "layers": {"weight_bits": int, "activation_bits": int, "sizes": list, "names": list},
    "attention": {"activation_bits": int, "softmax_bits": int, "names": list},
}


def entries(structure: dict, kind: str) -> list[dict]:
    """The groups ``structure[kind]``, checked. Raises ValueError for a group of another form."""
    groups = structure.get(kind) if isinstance(structure, dict) else None
    if not isinstance(groups, list):
        raise ValueError(
            f"the structure of quantization_config has {kind}={groups!r:.60}, not a list: save again"
        )
    for group in groups:
        whole = isinstance(group, dict) and group.keys() == FIELDS[kind].keys()
        whole = whole and all(type(group[name]) is form for name, form in FIELDS[kind].items())
        if not whole or any(type(size) is not int for size in group.get("sizes", [])):
            raise ValueError(
                f"quantization_config has an entry {group!r:.80} under {kind}, which needs "
                f"{', '.join(FIELDS[kind])}: save the model again"
            )
    return groups


def check_structure(structure: dict, most: int) -> tuple[list[dict], list[dict]]:
    """The groups of layers and of attention, checked.

    most: modules of the network, so the most names. Raises ValueError for other entries, for names that are
    no text, repeated, or too many, and for sizes that are not two or more numbers above 0.
    """
    groups = entries(structure, "layers"), entries(structure, "attention")
    if structure.keys() != FIELDS.keys():
        raise ValueError(f"the structure of quantization_config has {list(structure)!r:.80}: save again")
    names = [name for kind in groups for group in kind for name in group["names"]]
    if len(names) > most:
        raise ValueError(f"quantization_config names {len(names)} modules, and the network has {most}")
    wrong = [name for name in names if type(name) is not str]
    repeated = [] if wrong else [name for name, count in Counter(names).items() if count > 1]
    if wrong or repeated:
        fault = f"{wrong[0]!r:.80}, which is no text" if wrong else f"{repeated[0]!r:.80} more than once"
        raise ValueError(f"quantization_config names {fault}: save the model again")
    for group in groups[0]:
        sizes = group["sizes"]
        if len(sizes) == 1 or any(size < 1 for size in sizes):
            raise ValueError(
                f"quantization_config has sizes={sizes!r:.80}, which must be [] or two and more numbers "
                "above 0: save the model again"
            )
    return groups


def submodule(modules: dict[str, nn.Module], name: str, kinds: tuple[type, ...]) -> nn.Module:
    """The module ``name``. Raises ValueError if it is missing or of none of the classes ``kinds``."""
    module = modules.get(name)
    if not isinstance(module, kinds):
        raise ValueError(
            f"quantization_config names {name!r:.80}, and the network has no such "
            f"{' or '.join(kind.__name__ for kind in kinds)}: its config.json is of another network"
        )
    return module
