"""Putting quantizers into a diffusers UNet: quantized layers and quantized attention products."""

import copy
from collections.abc import Callable
from difflib import get_close_matches
from fnmatch import fnmatch

from accelerate.hooks import add_hook_to_module, remove_hook_from_module
from diffusers.models.attention_processor import Attention
from torch import nn

from ..graph.model_inputs import reads_text
from ..graph.tracing import Trace
from ..modules.attention import QuantAttention
from ..modules.quant_layer import QuantLayer
from ..quantizers.grid import Grid
from ..recipes.parts import Grids
from ..utils.constants import FLOAT_BITS

HOOKS = [name for name in vars(nn.Module()) if name.startswith(("_forward_hooks", "_forward_pre_hooks"))]
EDGES = ("conv_in", "conv_out")
SOFTMAX_BITS, TEXT_SOFTMAX_BITS = 8, 16  # bits if the recipe does not set them; as in the paper


def matches(name: str, pattern: str) -> bool:
    """Whether the pattern is that of this module or of one that holds it: "mid_block" means all within."""
    parts = name.split(".")
    return any(fnmatch(".".join(parts[: i + 1]), pattern) for i in range(len(parts)))


def is_quantized(name: str, grids: Grids) -> bool:
    """Whether the name patterns ``include`` and ``exclude`` choose the module of this name."""
    included = any(matches(name, pattern) for pattern in grids.include)
    return included and not any(matches(name, pattern) for pattern in grids.exclude)


def check_patterns(unet: nn.Module, trace: Trace, grids: Grids) -> None:
    """Raise ValueError for a pattern that matches no layer and no attention; it names similar ones."""
    names = [name for unit in trace.units for name in unit.layers]
    names += [name for name, module in unet.named_modules() if isinstance(module, Attention)]
    for field, patterns in (("include", grids.include), ("exclude", grids.exclude)):
        for pattern in patterns:
            if not any(matches(name, pattern) for name in names):
                known = {".".join(n.split(".")[: i + 1]) for n in names for i in range(n.count(".") + 1)}
                near = " or ".join(map(repr, get_close_matches(pattern, sorted(known))))
                advice = f"did you mean {near}?" if near else f"its layers have names such as {names[0]!r}"
                raise ValueError(
                    f"{field} has the pattern {pattern!r}, which matches no layer of this network: {advice}"
                )


def insert_quantizers(unet: nn.Module, grids: Grids, trace: Trace) -> nn.Module:
    """A copy of ``unet`` in which every chosen layer that runs is a ``QuantLayer``, without ranges.

    trace: its units give the layers that run, its ``concat_splits`` the halves of shortcut layers, which get
    grids of their own (Q-Diffusion, section 3.3.2). Until ranges are set, the copy computes the same as
    ``unet``. The copy is in eval mode (no dropout) and its parameters are frozen.

    Raises ValueError if the patterns choose no layer, or for an attention whose products cannot be quantized
    through diffusers' processor interface.
    """
    check_patterns(unet, trace, grids)
    quantized = copy.deepcopy(unet).requires_grad_(False)
    names = [name for unit in trace.units for name in unit.layers if is_quantized(name, grids)]
    if not names:
        raise ValueError(f"include={grids.include} and exclude={grids.exclude} choose no layer of this model")
    for name in names:
        layer = quantized.get_submodule(name)
        weights, activations = layer_bits(name, grids)
        grid = activation_grid(activations, grids)
        sizes = trace.concat_splits.get(name) if grids.split else None
        sizes = sizes or (layer.weight.shape[1],)
        replace(quantized, name, lambda layer, how=(weights, grid, sizes): QuantLayer(layer, *how))
    if grids.quantize_attention and grids.activations != FLOAT_BITS:
        _insert_attention_quantizers(quantized, grids)
    return quantized.eval()


def replace(network: nn.Module, name: str, make: Callable[[nn.Module], nn.Module]) -> None:
    """Put ``make(module)`` in the place of the module of this name; its hooks move to the new module."""
    old = network.get_submodule(name)
    accelerated = getattr(old, "_hf_hook", None)
    if accelerated is not None:
        remove_hook_from_module(old)
        vars(old).pop("forward", None)  # the class has it
    new = make(old)
    for kind in HOOKS:
        setattr(new, kind, getattr(old, kind))
    network.set_submodule(name, new)
    if accelerated is not None:
        add_hook_to_module(new, accelerated)


def layer_bits(name: str, grids: Grids) -> tuple[int, int]:
    """Weight and activation bits of one layer; for the first and last layer at least ``edge_bits``."""
    if name in EDGES and grids.edge_bits is not None:
        return max(grids.edge_bits, grids.weights), max(grids.edge_bits, grids.activations)
    return grids.weights, grids.activations


def activation_grid(bits: int, grids: Grids) -> Grid | None:
    """The grid of an activation with this many bits; None for floating point."""
    return None if bits == FLOAT_BITS else Grid(bits, symmetric=grids.symmetric_activations)


def _insert_attention_quantizers(unet: nn.Module, grids: Grids) -> None:
    grid = activation_grid(grids.activations, grids)
    softmax = Grid(grids.softmax_bits or (TEXT_SOFTMAX_BITS if reads_text(unet) else SOFTMAX_BITS))
    for name, module in list(unet.named_modules()):
        if isinstance(module, Attention) and is_quantized(name, grids):
            try:
                replace(unet, name, lambda module: QuantAttention.of(module, grid, softmax))
            except ValueError as error:
                raise ValueError(f"attention {name!r}: {error}") from error
