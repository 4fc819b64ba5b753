"""Example inputs of a UNet, from its config alone."""

import torch
from torch import nn

TEXT_TOKENS = 77  # of the CLIP text encoder that conditions Stable Diffusion


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
