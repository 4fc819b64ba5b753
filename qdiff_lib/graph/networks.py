"""Building a diffusers UNet from its config, and running it in eval mode."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from torch import nn

from .fixed_heads import FixedHeadsUNet2DModel

UNET_CLASSES = {kind.__name__: kind for kind in (UNet2DModel, UNet2DConditionModel, FixedHeadsUNet2DModel)}


def build(config: Mapping[str, Any], device: str | torch.device = "cpu") -> nn.Module:
    """Build the UNet that a config describes, with random weights, in eval mode.

    Args:
        config: a diffusers UNet config with "_class_name", a key of ``UNET_CLASSES``.
        device: the device of the parameters; "meta" gives shapes without memory.

    Raises:
        TypeError: `config` is not a mapping.
        ValueError: "_class_name" is missing or names another class, or the class needs another entry.
    """
    if not isinstance(config, Mapping):
        raise TypeError(
            f"config is a {type(config).__name__}; pass a dict such as paper_networks.DDPM_CIFAR10"
        )
    name = config.get("_class_name")
    if name not in UNET_CLASSES:
        raise ValueError(f'config["_class_name"] is {name!r}; set it to one of {", ".join(UNET_CLASSES)}')
    with torch.device(device):
        return UNET_CLASSES[name].from_config(dict(config)).eval()


@contextmanager
def evaluating(module: nn.Module) -> Iterator[nn.Module]:
    """Put the module in eval mode (no dropout) within the block, and restore its mode afterwards."""
    training = module.training
    try:
        yield module.eval()
    finally:
        module.train(training)
