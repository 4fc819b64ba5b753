"""Example inputs of a UNet, made from its config alone."""

import torch
from torch import Tensor, nn

TEXT_TOKENS = 77  # tokens of the CLIP text encoder of Stable Diffusion


def example_inputs(
    unet: nn.Module, batch: int = 1, device: str | torch.device = "cpu", given: dict | None = None
) -> dict[str, Tensor]:
    """Return keyword arguments for one forward pass of ``unet``: zeros whose shapes come from its config.

    They are ``sample`` (B, C, H, W), ``timestep`` (B,) and, for a UNet2DConditionModel,
    ``encoder_hidden_states`` (B, 77, width of the text encoder).

    Args:
        batch: B, unless ``given`` has a ``sample``, which then decides B.
        given: arguments that replace or complete these.

    Raises:
        ValueError: the config has no size and ``given`` has no sample.
    """
    inputs, config, dtype = dict(given or {}), unet.config, next(unet.parameters()).dtype
    if "sample" not in inputs:
        size = config.sample_size
        if size is None:
            raise ValueError("config.sample_size is None; pass sample in inputs")
        height, width = size if isinstance(size, list | tuple) else (size, size)
        shape = (batch, config.in_channels, height, width)
        inputs["sample"] = torch.zeros(shape, device=device, dtype=dtype)
    batch = len(inputs["sample"])
    inputs.setdefault("timestep", torch.zeros(batch, device=device, dtype=torch.long))
    if reads_text(unet) and "encoder_hidden_states" not in inputs:
        width = config.encoder_hid_dim or config.cross_attention_dim
        width = width if isinstance(width, int) else width[0]  # all blocks read the same text
        inputs["encoder_hidden_states"] = torch.zeros(batch, TEXT_TOKENS, width, device=device, dtype=dtype)
    return inputs


def reads_text(unet: nn.Module) -> bool:
    """Return whether the network's attention reads the embedding of a text."""
    return "cross_attention_dim" in unet.config
