"""Building a diffusers UNet from its config, and running it in eval mode."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from diffusers.models.attention_processor import Attention
from torch import nn

UNET_CLASSES = {"UNet2DModel": UNet2DModel, "UNet2DConditionModel": UNet2DConditionModel}


def build(config: Mapping[str, Any], device: str | torch.device = "cpu") -> nn.Module:
    """Build the UNet that a config describes, with random weights, in eval mode.

    Args:
        config: a diffusers UNet config with "_class_name" UNet2DModel or UNet2DConditionModel.
        device: where the parameters live; "meta" gives shapes without memory.

    Raises:
        TypeError: if `config` is not a mapping.
        ValueError: if "_class_name" is missing or names another class.
    """
    if not isinstance(config, Mapping):
        raise TypeError(
            f"config is a {type(config).__name__}; pass a dict such as paper_networks.DDPM_CIFAR10"
        )
    name = config.get("_class_name")
    if name not in UNET_CLASSES:
        raise ValueError(f'config["_class_name"] is {name!r}; set it to one of {", ".join(UNET_CLASSES)}')
    with torch.device(device):
        return set_heads(UNET_CLASSES[name].from_config(dict(config)).eval())


def set_heads(unet: nn.Module) -> nn.Module:
    """Give each attention the number of heads that the config has under "_heads"; without it, do nothing.

    diffusers carries that entry along with the config, but does not act on it.
    """
    heads = unet.config.get("_heads")
    for module in unet.modules():
        if heads and isinstance(module, Attention):
            module.heads = module.sliceable_head_dim = heads
            module.scale = (module.inner_dim // heads) ** -0.5
    return unet


@contextmanager
def evaluating(module: nn.Module) -> Iterator[nn.Module]:
    """The module in eval mode (no dropout), and afterwards in the mode that it was in."""
    training = module.training
    try:
        yield module.eval()
    finally:
        module.train(training)
