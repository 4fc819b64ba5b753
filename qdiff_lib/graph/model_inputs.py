"""The inputs of a UNet: in their two forms, and as examples made from its config alone.

A UNet's forward takes keyword arguments. One of them, ``added_cond_kwargs``, holds a dict of tensors. In the
*flat* form every tensor has a name: ``added_cond_kwargs.text_embeds``. In the *nested* form the dict stands
under ``added_cond_kwargs``, as the forward takes it.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

TEXT_TOKENS = 77  # tokens of the CLIP text encoder of Stable Diffusion
TIME_IDS = 6  # height and width of the original, of its crop's corner, and of the image (SDXL)


def example_inputs(
    unet: nn.Module, batch: int = 1, device: str | torch.device = "cpu", given: dict | None = None
) -> dict[str, Any]:
    """Return keyword arguments for one forward pass of ``unet``: zeros whose shapes come from its config.

    A network that takes the logarithm of the time gets a time of 1.

    They are ``sample`` (B, C, H, W), ``timestep`` (B,) and, for a UNet2DConditionModel,
    ``encoder_hidden_states`` (B, 77, width of the text encoder). Networks with more conditions also get
    those of ``example_conditions``.

    Args:
        batch: B, unless ``given`` has a ``sample``, which then decides B.
        given: arguments that replace or complete these.

    Raises:
        ValueError: the config has no size and ``given`` has no sample; or what ``text_width`` refuses.
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
    time = int(reads_log_time(unet))
    inputs.setdefault("timestep", torch.full((batch,), time, device=device, dtype=torch.long))
    if reads_text(unet) and "encoder_hidden_states" not in inputs:
        shape = batch, TEXT_TOKENS, text_width(unet)
        inputs["encoder_hidden_states"] = torch.zeros(shape, device=device, dtype=dtype)
    return {**example_conditions(unet, batch, device), **inputs}


def example_conditions(unet: nn.Module, batch: int, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Return zeros for the conditions of ``unet`` beside its time and its text, as keyword arguments.

    They are ``class_labels`` (B,) for a network with classes, ``timestep_cond`` (B, D) for one that reads
    the guidance scale (LCM), and for SDXL ``added_cond_kwargs`` with ``text_embeds`` (B, D) and ``time_ids``
    (B, 6).
    """
    config, options = unet.config, dict(device=device, dtype=next(unet.parameters()).dtype)
    inputs: dict[str, Any] = {}
    if reads_class_labels(unet):
        inputs["class_labels"] = torch.zeros(batch, device=device, dtype=torch.long)
    if config.get("time_cond_proj_dim"):
        inputs["timestep_cond"] = torch.zeros(batch, config.time_cond_proj_dim, **options)
    if config.get("addition_embed_type") == "text_time":
        width = config.projection_class_embeddings_input_dim - TIME_IDS * config.addition_time_embed_dim
        embeds, ids = (torch.zeros(batch, size, **options) for size in (width, TIME_IDS))
        inputs["added_cond_kwargs"] = {"text_embeds": embeds, "time_ids": ids}
    return inputs


def flat_inputs(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return keyword arguments in the flat form: the entries of a dict get names such as ``a.b``."""
    flat: dict[str, Any] = {}
    for name, value in inputs.items():
        entries = (
            {f"{name}.{key}": entry for key, entry in value.items()} if isinstance(value, dict) else None
        )
        flat |= {name: value} if entries is None else entries
    return flat


def nested_inputs(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return keyword arguments in the nested form; the inverse of ``flat_inputs``."""
    nested: dict[str, Any] = {}
    for name, value in columns.items():
        outer, _, key = name.rpartition(".")
        (nested.setdefault(outer, {}) if outer else nested)[key] = value
    return nested


def reads_text(unet: nn.Module) -> bool:
    """Return whether the network's attention reads the embedding of a text."""
    return "cross_attention_dim" in unet.config


def text_width(unet: nn.Module) -> int:
    """Return how many features of each token the network reads.

    Raises:
        ValueError: some of its levels read another number than others.
    """
    config = unet.config
    widths = config.encoder_hid_dim or config.cross_attention_dim
    if isinstance(widths, int):
        return widths
    blocks = zip((*config.down_block_types, config.mid_block_type), (*widths, widths[-1]), strict=True)
    read = {width for kind, width in blocks if "CrossAttn" in str(kind)} or {widths[0]}
    if len(read) > 1:
        raise ValueError(
            f"the UNet's config has cross_attention_dim={widths!r}: its levels read texts of different "
            "widths, and a pipeline gives all of them the same text: use a network of one width"
        )
    return read.pop()


def reads_log_time(unet: nn.Module) -> bool:
    """Return whether the network embeds the logarithm of the time, so that it has no time 0."""
    return getattr(unet.time_proj, "log", False)


def reads_class_labels(unet: nn.Module) -> bool:
    """Return whether the network needs a number for each image: of a class, or to be embedded like a time."""
    kind, classes = unet.config.get("class_embed_type"), unet.config.get("num_class_embeds")
    return kind == "timestep" or (kind is None and classes is not None)
