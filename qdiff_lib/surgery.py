"""From an unmodified diffusers UNet to one with quantized layers and attention products in place."""

import copy
from fnmatch import fnmatch

import torch
from diffusers.models.attention_processor import Attention
from torch import nn

from .attention import QuantAttention
from .cost import TEXT_TOKENS
from .grid import Grid
from .layers import QuantLayer
from .limits import FLOAT_BITS
from .recipe_parts import Grids
from .tracing import Trace

EDGES = ("conv_in", "conv_out")
SOFTMAX_BITS, TEXT_SOFTMAX_BITS = 8, 16  # where the grids leave them open: the paper's choice


def example_inputs(unet: nn.Module, batch: int = 1, device: str | torch.device = "cpu") -> dict:
    """Keyword arguments for one forward pass of ``unet``, made from its config: zeros of the right shapes.

    A UNet2DConditionModel also gets ``encoder_hidden_states``, (batch, 77, width of the text encoder).
    """
    config = unet.config
    size = config.sample_size
    height, width = size if isinstance(size, list | tuple) else (size, size)
    dtype = next(unet.parameters()).dtype
    sample = torch.zeros(batch, config.in_channels, height, width, device=device, dtype=dtype)
    inputs = {"sample": sample, "timestep": torch.zeros(batch, device=device, dtype=torch.long)}
    if reads_text(unet):
        width = config.encoder_hid_dim or config.cross_attention_dim
        width = width if isinstance(width, int) else width[0]  # all blocks see the same text
        context = (batch, TEXT_TOKENS, width)
        inputs["encoder_hidden_states"] = torch.zeros(context, device=device, dtype=dtype)
    return inputs


def reads_text(unet: nn.Module) -> bool:
    """Whether the network's attention reads the embedding of a text."""
    return "cross_attention_dim" in unet.config


def is_quantized(name: str, grids: Grids) -> bool:
    """Whether the name patterns choose this module: included, and not excluded."""
    included = any(fnmatch(name, pattern) for pattern in grids.include)
    return included and not any(fnmatch(name, pattern) for pattern in grids.exclude)


def insert_quantizers(unet: nn.Module, grids: Grids, trace: Trace) -> nn.Module:
    """A copy of ``unet`` in which every chosen layer that runs is a QuantLayer; ranges are still unset.

    The copy computes what the original computes until ranges are set. It is in eval mode (dropout off) and
    its parameters are frozen. Raises ValueError when the patterns choose no layer or an attention is of a
    kind whose products cannot be reached through diffusers' processor interface.
    """
    quantized = copy.deepcopy(unet).requires_grad_(False)
    names = [name for unit in trace.units for name in unit.layers if is_quantized(name, grids)]
    if not names:
        raise ValueError(f"include={grids.include} and exclude={grids.exclude} choose no layer of this model")
    for name in names:
        layer = quantized.get_submodule(name)
        weights, activations = layer_bits(name, grids)
        grid = activation_grid(activations, grids)
        sizes = trace.seams.get(name) if grids.split else None
        quantized.set_submodule(name, QuantLayer(layer, weights, grid, sizes or (layer.weight.shape[1],)))
    if grids.quantize_attention and grids.activations != FLOAT_BITS:
        _insert_attention_quantizers(quantized, grids)
    return quantized.eval()


def layer_bits(name: str, grids: Grids) -> tuple[int, int]:
    """Weight and activation bits of one layer, the edges' own where they are set."""
    if name in EDGES and grids.edge_bits is not None:
        return max(grids.edge_bits, grids.weights), max(grids.edge_bits, grids.activations)
    return grids.weights, grids.activations


def activation_grid(bits: int, grids: Grids) -> Grid | None:
    """The grid of an activation; None for floating point."""
    return None if bits == FLOAT_BITS else Grid(bits, symmetric=grids.symmetric_activations)


def _insert_attention_quantizers(unet: nn.Module, grids: Grids) -> None:
    grid = activation_grid(grids.activations, grids)
    softmax = Grid(grids.softmax_bits or (TEXT_SOFTMAX_BITS if reads_text(unet) else SOFTMAX_BITS))
    for name, module in list(unet.named_modules()):
        if isinstance(module, Attention) and is_quantized(name, grids):
            try:
                unet.set_submodule(name, QuantAttention.of(module, grid, softmax))
            except ValueError as error:
                raise ValueError(f"attention {name!r}: {error}") from error
