"""Example inputs of a UNet, from its config alone."""

import torch
from torch import Tensor, nn

TEXT_TOKENS = 77  # of the CLIP text encoder that conditions Stable Diffusion


def example_inputs(
    unet: nn.Module, batch: int = 1, device: str | torch.device = "cpu", given: dict | None = None
) -> dict[str, Tensor]:
    """Keyword arguments for one forward pass of ``unet``, made from its config: zeros of the right shapes.

    ``sample`` (B, C, H, W), ``timestep`` (B,) and for a UNet2DConditionModel ``encoder_hidden_states``
    (B, 77, width of the text encoder). given: arguments that replace or complete them; B is then that of its
    ``sample``. Raises ValueError where the config has no size and ``given`` no sample.
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
        width = width if isinstance(width, int) else width[0]  # all blocks see the same text
        inputs["encoder_hidden_states"] = torch.zeros(batch, TEXT_TOKENS, width, device=device, dtype=dtype)
    return inputs


def reads_text(unet: nn.Module) -> bool:
    """Whether the network's attention reads the embedding of a text."""
    return "cross_attention_dim" in unet.config
