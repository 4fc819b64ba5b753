"""Bytes and bit operations of a noise network: the columns Size and Bops of the paper's tables (section 4).

The counts are for one denoising step of one sample: the UNet alone, without text encoder, decoder or the
second pass of guidance. As usual, they leave out norms, activation functions, softmax and additions.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from ..modules.attention import QuantAttention
from ..modules.quant_layer import QuantLayer
from ..utils.constants import FLOAT_BITS
from .hooks import hooked
from .model_inputs import example_inputs
from .networks import UNET_CLASSES, build

MANTISSA_BITS = 23  # bit operations count a 32-bit float by its mantissa

Bits = int | Mapping[str, int]  # one number for all layers, or numbers by layer name (32 for missing layers)


@dataclass(frozen=True)
class LayerCost:
    """The cost of one executed layer. An attention module has one entry for both its products."""

    name: str
    kind: str  # "conv", "linear" or "attention"
    parameters: int  # weights and bias, 0 for attention products
    macs: int  # multiply-accumulates for one sample


def layer_costs(unet: nn.Module | Mapping[str, Any], inputs: dict | None = None) -> list[LayerCost]:
    """Return the cost of every convolution, linear layer and attention product, in execution order.

    The network is rebuilt from its config on the meta device. So no memory is allocated and `unet` does not
    change. Changes to its modules after construction are not counted.

    Args:
        unet: a UNet of a class in `networks.UNET_CLASSES`, or a config for `networks.build`.
        inputs: arguments of the forward pass that replace or complete the defaults. The defaults are `sample`
            (1, C, H, W) from the config, `timestep` (1,) and, for UNet2DConditionModel,
            `encoder_hidden_states` (1, 77, channels); class labels and the added conditions of SDXL and LCM
            have defaults too. Any device and batch size will do: the counts are for one sample.

    Raises:
        TypeError: `unet` has another class.
        ValueError: the config names another class, lacks a size that `inputs` does not give, or has attention
            with added keys and values.
    """
    network = _rebuild_on_meta(unet)
    costs: list[LayerCost] = []
    before, after = [], []
    for name, module in network.named_modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear)):
            after.append((module, _layer_counter(name, costs)))
        elif isinstance(module, Attention):
            remember, count = _attention_counter(name, module, costs)
            after.append((module.to_k, remember))
            before.append((module.to_out[0], count))
    with hooked(before, after), torch.no_grad():
        network(**_to_meta(example_inputs(network, device="meta", given=inputs)))
    return costs


def parameter_count(unet: nn.Module) -> int:
    """Return the number of parameters of a network, norms included.

    Raises:
        TypeError: `unet` is not a module.
    """
    if not isinstance(unet, nn.Module):
        raise TypeError(f"unet is a {type(unet).__name__}; pass a module, or build(config) for a config")
    return sum(parameter.numel() for parameter in unet.parameters())


def model_bytes(parameters: int, bits: int) -> float:
    """Return the bytes of `parameters` numbers of `bits` bits, without scales. The paper's MB are 10^6 bytes.

    Raises:
        ValueError: `bits` is not 2..16 or 32.
    """
    return parameters * _checked_bits("bits", bits) / 8


def bops(costs: list[LayerCost], weight_bits: Bits, activation_bits: Bits) -> float:
    """Return the bit operations of one denoising step of one sample.

    They are the sum of 2 x MACs x weight bits x activation bits over all layers and attention products. A
    32-bit float counts as 23 bits. Attention products have no weights, but count with the same product of
    bits, as in the paper's tables. Activation bits are those of a layer's input.

    Args:
        costs: the result of ``layer_costs``.
        weight_bits, activation_bits: one number for all layers, or numbers by layer name.

    Raises:
        ValueError: bits are not 2..16 or 32, or a mapping names a layer that is not in `costs`.
    """
    weights = _bits_by_layer("weight_bits", weight_bits, costs)
    activations = _bits_by_layer("activation_bits", activation_bits, costs)
    return float(sum(2 * cost.macs * w * a for cost, w, a in zip(costs, weights, activations, strict=True)))


def _rebuild_on_meta(unet: nn.Module | Mapping[str, Any]) -> nn.Module:
    if isinstance(unet, Mapping):
        return build(unet, device="meta")
    if not isinstance(unet, tuple(UNET_CLASSES.values())):
        expected = " or ".join(UNET_CLASSES)
        raise TypeError(f"unet is a {type(unet).__name__}; pass a {expected}, or its config")
    with torch.device("meta"):
        return type(unet).from_config(unet.config).eval()


def _to_meta(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _to_meta(item) for key, item in value.items()}
    return value.to("meta") if isinstance(value, Tensor) else value


def _layer_counter(name: str, costs: list[LayerCost]) -> Callable:
    """Return a hook that counts a convolution or linear layer after it has run."""

    def count(layer: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> None:  # output (B, ...)
        kind = "linear" if isinstance(layer, nn.Linear) else "conv"
        macs_per_output = layer.weight[0].numel()  # in_channels / groups x kernel size, or in_features
        costs.append(LayerCost(name, kind, parameter_count(layer), output[0].numel() * macs_per_output))

    return count


def _attention_counter(name: str, attention: Attention, costs: list[LayerCost]) -> tuple[Callable, Callable]:
    """Return two hooks, to call after ``to_k`` and before ``to_out``, that count q k^T and p v.

    Each product takes heads x tokens_q x tokens_k x head_dim multiply-accumulates.
    """
    if getattr(attention, "add_k_proj", None) is not None:
        raise ValueError(f"{name!r} has added keys; pass a unet with plain self and cross attention only")
    key_tokens = 0

    def remember(module: nn.Module, args: tuple, kwargs: dict, keys: Tensor) -> None:
        nonlocal key_tokens
        key_tokens = keys.shape[1]  # of (B, tokens_k, heads x head_dim)

    def count(
        module: nn.Module, args: tuple, kwargs: dict
    ) -> None:  # args: ((B, tokens_q, heads x head_dim),)
        costs.append(LayerCost(name, "attention", 0, 2 * args[0][0].numel() * key_tokens))

    return remember, count


def _bits_by_layer(argument: str, bits: Bits, costs: list[LayerCost]) -> list[int]:
    names = [cost.name for cost in costs]
    if not isinstance(bits, Mapping):
        bits = dict.fromkeys(names, _checked_bits(argument, bits))
    if unknown := sorted(set(bits) - set(names)):
        raise ValueError(f"{argument} names {unknown[0]!r}, which is not in costs; use the names found there")
    checked = [_checked_bits(f"{argument}[{name!r}]", bits.get(name, 32)) for name in names]
    return [MANTISSA_BITS if value == FLOAT_BITS else value for value in checked]


def _checked_bits(argument: str, bits: int) -> int:
    if not isinstance(bits, int) or isinstance(bits, bool) or not (2 <= bits <= 16 or bits == 32):
        raise ValueError(f"{argument} is {bits!r}; pass an integer from 2 to 16, or 32 for floating point")
    return bits


def layer_bits_of(unet: nn.Module, costs: list[LayerCost]) -> tuple[dict[str, int], dict[str, int]]:
    """Return weight bits and activation bits by layer name, as ``bops`` takes them. 32: not quantized.

    The weight bits of an attention product are those of ``to_q``, and its activation bits those of q, as in
    the paper's tables.

    Args:
        unet: a network, quantized or not.
        costs: the result of ``layer_costs``.
    """
    weights, activations = {}, {}
    modules = dict(unet.named_modules())
    for cost in costs:
        module = modules[cost.name]
        if isinstance(module, QuantLayer):
            weights[cost.name] = module.weight_grid.bits if module.weight_grid else FLOAT_BITS
            activations[cost.name] = module.inputs[0].grid.bits if len(module.inputs) else FLOAT_BITS
        elif cost.kind == "attention" and isinstance(module.to_q, QuantLayer):
            quantized = isinstance(module, QuantAttention)
            weights[cost.name] = module.to_q.weight_grid.bits if module.to_q.weight_grid else FLOAT_BITS
            activations[cost.name] = module.quantize_q.grid.bits if quantized else FLOAT_BITS
    return weights, activations
