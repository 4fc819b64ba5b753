"""From an unmodified diffusers UNet to one with quantized layers and attention products in place."""

import copy
from fnmatch import fnmatch

import torch
from diffusers.models.attention_processor import Attention
from torch import nn

from .attention import QuantAttention
from .cost import TEXT_TOKENS
from .grid import FLOAT_BITS, Grid
from .layers import QuantLayer
from .recipes import Recipe
from .tracing import Trace

EDGES = ("conv_in", "conv_out")
SOFTMAX_BITS, TEXT_SOFTMAX_BITS = 8, 16  # where a recipe leaves them open: the paper's choice


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


def is_quantized(name: str, recipe: Recipe) -> bool:
    """Whether the recipe's name patterns choose this module: included, and not excluded."""
    included = any(fnmatch(name, pattern) for pattern in recipe.include)
    return included and not any(fnmatch(name, pattern) for pattern in recipe.exclude)


def insert_quantizers(unet: nn.Module, recipe: Recipe, trace: Trace) -> nn.Module:
    """A copy of ``unet`` in which every chosen layer that runs is a QuantLayer; ranges are still unset.

    The copy computes what the original computes until ranges are set. It is in eval mode (dropout off) and
    its parameters are frozen. Raises ValueError when the patterns choose no layer or an attention is of a
    kind whose products cannot be reached through diffusers' processor interface.
    """
    quantized = copy.deepcopy(unet).requires_grad_(False)
    names = [name for unit in trace.units for name in unit.layers if is_quantized(name, recipe)]
    if not names:
        raise ValueError(
            f"include={recipe.include} and exclude={recipe.exclude} choose no layer of this model"
        )
    for name in names:
        layer = quantized.get_submodule(name)
        weights, activations = layer_bits(name, recipe)
        grid = activation_grid(activations, recipe)
        sizes = trace.seams.get(name) if recipe.split else None
        quantized.set_submodule(name, QuantLayer(layer, weights, grid, sizes or (layer.weight.shape[1],)))
    if recipe.quantize_attention and recipe.activations != FLOAT_BITS:
        _insert_attention_quantizers(quantized, recipe)
    return quantized.eval()


def layer_bits(name: str, recipe: Recipe) -> tuple[int, int]:
    """Weight and activation bits of one layer, the edges' own where the recipe sets them."""
    if name in EDGES and recipe.edge_bits is not None:
        return max(recipe.edge_bits, recipe.weights), max(recipe.edge_bits, recipe.activations)
    return recipe.weights, recipe.activations


def activation_grid(bits: int, recipe: Recipe) -> Grid | None:
    """The grid of an activation; None for floating point."""
    return None if bits == FLOAT_BITS else Grid(bits, symmetric=recipe.symmetric_activations)


def _insert_attention_quantizers(unet: nn.Module, recipe: Recipe) -> None:
    grid = activation_grid(recipe.activations, recipe)
    softmax = Grid(recipe.softmax_bits or (TEXT_SOFTMAX_BITS if reads_text(unet) else SOFTMAX_BITS))
    for name, module in list(unet.named_modules()):
        if isinstance(module, Attention) and is_quantized(name, recipe):
            try:
                unet.set_submodule(name, QuantAttention.of(module, grid, softmax))
            except ValueError as error:
                raise ValueError(f"attention {name!r}: {error}") from error
