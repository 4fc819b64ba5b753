"""Norms, residual blocks and attention in a form that stays in the memory layout of integer convolutions.

Engines compute integer convolutions with the channels last in memory. A group norm, as exporters spell it,
needs the channels first, so that two copies of each activation surround it. Here it is spelt with means over
pixels, which any layout gives. For ``ddpm-fashion`` this halves the time of the whole network.
"""

import torch
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from ..modules.attention import QuantAttention


class PixelGroupNorm(nn.Module):
    """Group norm of an image from the mean and the mean square of each channel.

    A shift (B, C) can be added to the input. It only changes the means, so the sum is never computed.
    """

    def __init__(self, norm: nn.GroupNorm):
        super().__init__()
        self.groups, self.eps = norm.num_groups, norm.eps
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, x: Tensor, shift: Tensor | None = None) -> Tensor:
        """Return the norm of ``x`` (B, C, H, W), or of ``x + shift``."""
        mean = x.mean((2, 3))
        square = torch.linalg.vector_norm(x, dim=(2, 3)) ** 2 / (x.shape[2] * x.shape[3])
        if shift is not None:
            square, mean = square + shift * (2 * mean + shift), mean + shift
        mean, square = self.of_groups(mean), self.of_groups(square)
        factor = torch.rsqrt((square - mean * mean).clamp(min=0) + self.eps) * self.weight
        offset = (-mean if shift is None else shift - mean) * factor + self.bias
        return x * factor[:, :, None, None] + offset[:, :, None, None]

    def of_groups(self, values: Tensor) -> Tensor:
        """Return the mean over each group of channels, (B, C), the same for all channels of a group."""
        grouped = values.unflatten(1, (self.groups, -1))
        return grouped.mean(2, keepdim=True).expand_as(grouped).flatten(1)


class ShiftedResnetBlock(nn.Module):
    """diffusers' residual block, in which the time embedding is a shift of the second norm."""

    def __init__(self, block: ResnetBlock2D):
        super().__init__()
        self.block = block

    def forward(self, x: Tensor, temb: Tensor | None, *args, **kwargs) -> Tensor:
        """Return the block's output, (B, C_out, H, W), for x (B, C_in, H, W) and temb (B, D)."""
        block = self.block
        hidden = block.nonlinearity(block.norm1(x))
        resample = block.upsample or block.downsample
        if resample is not None:
            x, hidden = resample(x), resample(hidden)
        shift = None
        if block.time_emb_proj is not None:
            shift = block.time_emb_proj(temb if block.skip_time_act else block.nonlinearity(temb))
        hidden = block.conv2(block.nonlinearity(block.norm2(block.conv1(hidden), shift)))
        shortcut = x if block.conv_shortcut is None else block.conv_shortcut(x)
        return (shortcut + hidden) / block.output_scale_factor


class ChannelsLastAttention(QuantAttention):
    """Quantized attention that makes tokens of an image, and an image of tokens, with the channels last."""

    def tokens(self, image: Tensor) -> Tensor:
        """Return the normed tokens (B, H W, C) of an image (B, C, H, W)."""
        image = image if self.group_norm is None else self.group_norm(image)
        return image.movedim(1, -1).flatten(1, 2)

    def image(self, tokens: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return tokens (B, H W, C) as an image of ``shape``."""
        return tokens.unflatten(1, shape[2:]).movedim(-1, 1)


def with_channels_last(network: nn.Module) -> nn.Module:
    """Replace norms, residual blocks and attention in place by the forms of this module; returns the network.

    What has another form, such as a block that scales by the time embedding, stays as it is.
    """
    for name, module in list(network.named_modules()):
        if isinstance(module, QuantAttention):
            module.__class__ = ChannelsLastAttention
        elif type(module) is nn.GroupNorm and module.affine and not in_transformer(network, name):
            network.set_submodule(name, PixelGroupNorm(module))
    for name, module in list(network.named_modules()):
        if type(module) is ResnetBlock2D and module.time_embedding_norm == "default":
            network.set_submodule(name, ShiftedResnetBlock(module))
    return network


def in_transformer(network: nn.Module, name: str) -> bool:
    """Return whether a norm belongs to an attention in floating point, which norms tokens, not images."""
    parent = network.get_submodule(name.rpartition(".")[0])
    return hasattr(parent, "to_q") and not isinstance(parent, QuantAttention)
