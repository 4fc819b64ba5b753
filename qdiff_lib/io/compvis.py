"""Converts CompVis' latent-diffusion checkpoints to diffusers: the paper's two LSUN models (section 4).

    pipe = convert("model.ckpt", ORIGINALS["ldm4-bedrooms"])
    pipe.save_pretrained("build/ldm4-bedrooms")

The hub has neither model. The UNet gets the weights averaged over training (EMA), as in CompVis' sampling
script. ``DiffusionPipeline.from_pretrained`` loads the folder too, for LDM-8 only after ``import qdiff_lib``:
LDM-8 has eight attention heads at every level, and diffusers has no class for that (see
``graph.fixed_heads``).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, LDMPipeline, VQModel
from safetensors.torch import load_file
from torch import Tensor, nn

from ..graph.networks import build
from ..recipes.paper_networks import LDM4_BEDROOMS, LDM8_CHURCHES

UNET, AVERAGE, FIRST_STAGE = "model.diffusion_model.", "model_ema.diffusion_model", "first_stage_model."
RESIDUAL = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
    "op": "conv",  # of a downsampling layer
    "conv": "conv",  # of an upsampling layer
    "norm": "group_norm",
    "proj_out": "to_out.0",
}
"""Names of the parts of the UNet's blocks: CompVis' name to diffusers' name."""

STAGE_PATTERNS = (
    (r"\.down\.(\d+)\.block\.", r".down_blocks.\1.resnets."),
    (r"\.down\.(\d+)\.downsample\.", r".down_blocks.\1.downsamplers.0."),
    (r"\.up\.(\d+)\.block\.", r".up_blocks.\1.resnets."),
    (r"\.up\.(\d+)\.upsample\.", r".up_blocks.\1.upsamplers.0."),
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"\.mid\.attn_1\.norm\.", ".mid_block.attentions.0.group_norm."),
    (r"\.mid\.attn_1\.([qkv])\.", r".mid_block.attentions.0.to_\1."),
    (r"\.mid\.attn_1\.proj_out\.", ".mid_block.attentions.0.to_out.0."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"\.norm_out\.", ".conv_norm_out."),
)
"""Names in the first stage (the autoencoder): a regular expression, and its replacement."""


@dataclass(frozen=True)
class Original:
    """One of CompVis' models.

    unet, stage: diffusers' configs of the UNet and of the first stage (the autoencoder). stage_class:
    diffusers' class of the first stage. beta_start, beta_end: the first and last beta of the noise schedule.
    """

    unet: Mapping[str, Any]
    stage_class: type[nn.Module]
    stage: Mapping[str, Any]
    beta_end: float
    beta_start: float = 0.0015


def stage_config(widths: tuple[int, ...], channels: int) -> dict[str, Any]:
    """The config of a first stage for 256 x 256 images.

    widths: channels of each level. channels: channels of the latents.
    """
    levels = len(widths)
    blocks = dict(
        down_block_types=["DownEncoderBlock2D"] * levels, up_block_types=["UpDecoderBlock2D"] * levels
    )
    return dict(
        blocks, block_out_channels=widths, layers_per_block=2, latent_channels=channels, sample_size=256
    )


VQ4 = dict(stage_config((128, 256, 512), 3), num_vq_embeddings=8192, vq_embed_dim=3)
ORIGINALS = {
    "ldm4-bedrooms": Original(LDM4_BEDROOMS, VQModel, VQ4, beta_end=0.0195),
    "ldm8-churches": Original(
        LDM8_CHURCHES, AutoencoderKL, stage_config((128, 256, 512, 512), 4), beta_end=0.0155
    ),
}
"""The models by preset name; numbers from lsun_beds256/config.yaml and lsun_churches256/config.yaml."""


def convert(checkpoint: str | Path, original: Original) -> LDMPipeline:
    """The diffusers pipeline of a CompVis checkpoint.

    checkpoint: a safetensors file, or a torch file, of which only tensors are read. original: the model that
    it holds, one of ``ORIGINALS``.

    Raises FileNotFoundError, and ValueError for a file that holds more than tensors, or another model.
    """
    state = read_state(Path(checkpoint))
    unet = build(original.unet)
    load_named(unet, convert_unet(unet_state(state), unet.config), "UNet")
    scale = state.get("scale_factor", torch.tensor(1.0)).item()
    stage = original.stage_class(**original.stage, scaling_factor=scale).eval()
    names = {k.removeprefix(FIRST_STAGE): v for k, v in state.items() if k.startswith(FIRST_STAGE)}
    load_named(stage, convert_stage(names, len(original.stage["block_out_channels"])), "first stage")
    scheduler = DDIMScheduler(
        beta_start=original.beta_start,
        beta_end=original.beta_end,
        beta_schedule="scaled_linear",  # what CompVis calls linear
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    return LDMPipeline(vqvae=stage, unet=unet, scheduler=scheduler)


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint, by CompVis' names.

    Raises FileNotFoundError, and ValueError for a file that is damaged or is no checkpoint.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"no checkpoint {str(path)!r}: give CompVis' model.ckpt, or a safetensors file"
        )
    try:
        safe = path.suffix == ".safetensors"
        state = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # errors of any type: torch unpickles damaged bytes too
        raise ValueError(
            f"{str(path)!r} is damaged, or it holds more than tensors, and loading the rest could run code: "
            "get it again, or where you trust it, save its state_dict as safetensors and give that file"
        ) from error
    tensors = state.get("state_dict", state) if isinstance(state, Mapping) else state
    if not isinstance(tensors, Mapping):
        raise ValueError(
            f"{str(path)!r} holds a {type(tensors).__name__}, not tensors by name: give CompVis' model.ckpt"
        )
    return {k: v for k, v in tensors.items() if isinstance(k, str) and isinstance(v, Tensor)}


def unet_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The UNet's tensors: their averages over training (EMA) where the checkpoint has them."""
    names = [name.removeprefix(UNET) for name in state if name.startswith(UNET)]
    averages = {name: AVERAGE + name.replace(".", "") for name in names}
    return {name: state.get(averages[name], state[UNET + name]) for name in names}


def convert_unet(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """A UNet's tensors under diffusers' names; attention weights of shape (C, C, 1) become (C, C).

    state: the tensors by CompVis' names. config: diffusers' config of the UNet.

    Raises ValueError for a tensor that the UNet of this config does not have.
    """
    places, converted = unet_places(config), {}
    for name, value in state.items():
        place = next((old for old in places if name.startswith(f"{old}.")), None)
        if place is None:
            raise ValueError(f"the checkpoint's UNet has {name!r}, which this model has no place for")
        part, _, field = name.removeprefix(f"{place}.").rpartition(".")
        new = places[place]
        if part == "qkv":
            heads = config.get("_heads") or len(value) // 3 // config["attention_head_dim"]
            for letter, piece in zip("qkv", split_heads(value, heads), strict=True):
                converted[f"{new}.to_{letter}.{field}"] = piece
        else:
            value = value.squeeze(-1) if part == "proj_out" and value.ndim == 3 else value
            converted[".".join(filter(None, (new, RESIDUAL.get(part, part), field)))] = value
    return converted


def split_heads(value: Tensor, heads: int) -> tuple[Tensor, ...]:
    """q, k and v, each (C, ...), of a weight (3 C, C, 1) or a bias (3 C,).

    The rows of the tensor are q, k and v of the first head, then those of the second head, and so on. The
    last axis of a weight is dropped.
    """
    parts = value.reshape(heads, 3, -1, *value.shape[1:2]).unbind(1)
    return tuple(part.flatten(0, 1) for part in parts)


def unet_places(config: Mapping[str, Any]) -> dict[str, str]:
    """The name in diffusers' UNet of each module of CompVis' UNet."""
    places = {"time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2"}
    places |= {"input_blocks.0.0": "conv_in", "out.0": "conv_norm_out", "out.2": "conv_out"}
    middle = ("resnets.0", "attentions.0", "resnets.1")
    places |= {f"middle_block.{i}": f"mid_block.{name}" for i, name in enumerate(middle)}
    layers, last = config["layers_per_block"], len(config["block_out_channels"]) - 1
    blocks: list[list[str]] = []  # diffusers' modules of each numbered CompVis block
    for level, kind in enumerate(config["down_block_types"]):
        blocks += [block_modules(f"down_blocks.{level}", i, kind) for i in range(layers)]
        blocks += [[f"down_blocks.{level}.downsamplers.0"]] * (level < last)
    places |= numbered("input_blocks", blocks, first=1)
    blocks = []
    for level, kind in enumerate(config["up_block_types"]):
        blocks += [block_modules(f"up_blocks.{level}", i, kind) for i in range(layers + 1)]
        blocks[-1] += [f"up_blocks.{level}.upsamplers.0"] * (level < last)
    return places | numbered("output_blocks", blocks, first=0)


def block_modules(block: str, i: int, kind: str) -> list[str]:
    """Names of the ``i``-th residual block and, where ``kind`` has attention, of the attention after it."""
    return [f"{block}.resnets.{i}"] + [f"{block}.attentions.{i}"] * kind.startswith("Attn")


def numbered(name: str, blocks: list[list[str]], first: int) -> dict[str, str]:
    """CompVis' names ``name.n.i``, with n counted from ``first``, to the names in ``blocks``."""
    return {f"{name}.{n}.{i}": new for n, block in enumerate(blocks, first) for i, new in enumerate(block)}


def convert_stage(state: Mapping[str, Tensor], levels: int) -> dict[str, Tensor]:
    """A first stage's tensors under diffusers' names.

    levels: the number of its levels. diffusers counts the levels of the decoder in the opposite order.
    """
    converted = {}
    for name, value in state.items():
        if name.startswith("loss."):
            continue  # the discriminator of its training
        for pattern, replacement in STAGE_PATTERNS:
            name = re.sub(pattern, replacement, name)
        name = re.sub(r"up_blocks\.(\d+)", lambda found: f"up_blocks.{levels - 1 - int(found[1])}", name)
        converted[name] = value.flatten(1) if ".attentions." in name and value.ndim == 4 else value
    return converted


def load_named(network: nn.Module, state: dict[str, Tensor], what: str) -> None:
    """Load ``state`` into ``network``; names and shapes must be the same.

    what: the network's name in errors. Raises ValueError that names the first tensor that does not fit.
    """
    expected = network.state_dict()
    for name in [*expected, *state]:
        shapes = [tuple(tensors[name].shape) if name in tensors else None for tensors in (state, expected)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"the checkpoint's {what} is of another model: {name!r} has shape {shapes[0]}, "
                f"expected {shapes[1]} (None: not there)"
            )
    network.load_state_dict(state)
