"""Attention with quantized products: q, k, v and the softmax, for self- and cross-attention.

The paper's experiments quantize the same tensors (Q-Diffusion, section 4). The linear layers around the
products do not change here. A large matrix of attention weights is never held as a whole: for 64 x 64 tokens
and 8 heads it takes 512 MiB for each image.
"""

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..quantizers.grid import Grid
from .activation_quantizer import ActivationQuantizer

MATRIX = 2**27  # the most attention weights held at once: 512 MiB, one image of Stable Diffusion


class QuantAttention(Attention):
    """diffusers' attention with both matrix products quantized: q, k, v and the softmax.

    The four quantizers are submodules, so they are saved, moved and copied with the attention. This module
    computes the products itself, without a processor. It refuses other processors, which would drop the
    quantizers. Slicing (``pipe.enable_attention_slicing()``) keeps the quantizers.

    The softmax lies in [0, 1]. So its grid is unsigned: asymmetric with zero point 0. It has its own bits.
    """

    SUPPORTED = (AttnProcessor, AttnProcessor2_0)

    @classmethod
    def of(cls, attention: Attention, grid: Grid, softmax_grid: Grid) -> "QuantAttention":
        """Return a quantized attention that holds the same layers. Its ranges are not set yet.

        Args:
            grid: the grid of q, k and v.
            softmax_grid: the grid of the softmax.

        Raises:
            ValueError: the softmax grid is symmetric, or the attention computes its products in another way
                than the processors in ``SUPPORTED``.
        """
        if softmax_grid.symmetric:
            raise ValueError("symmetric=True wastes half of the softmax's grid; use an asymmetric one")
        if type(attention.processor) not in cls.SUPPORTED or attention.norm_q is not None:
            raise ValueError(
                f"it uses {type(attention.processor).__name__}, whose products cannot be quantized: "
                "call unet.set_attn_processor(AttnProcessor()), or leave its name out with exclude"
            )
        quantized = cls.__new__(cls)
        quantized.__dict__ = attention.__dict__
        quantized.heads_at_once = None
        for name in ("quantize_q", "quantize_k", "quantize_v"):
            quantized.add_module(name, ActivationQuantizer(grid))
        quantized.quantize_softmax = ActivationQuantizer(softmax_grid)
        return quantized

    def set_processor(self, processor: object) -> None:
        """Refuse another processor with ValueError, because it would drop the quantizers."""
        if processor is not self.processor:
            raise ValueError(
                f"this attention is quantized, and {type(processor).__name__} would drop its quantizers: "
                "keep its processor, or quantize with quantize_attention=False"
            )

    def set_use_memory_efficient_attention_xformers(self, use: bool, *args, **kwargs) -> None:
        """Refuse xformers with ValueError: its products cannot be quantized. ``use=False`` does nothing."""
        if use:
            raise ValueError(
                "this attention is quantized, and xformers would drop its quantizers: to save memory call "
                "pipe.enable_attention_slicing(), or quantize with quantize_attention=False"
            )

    def fuse_projections(self, fuse: bool = True) -> None:
        """Refuse with ValueError, because to_q, to_k and to_v have their own grids."""
        raise ValueError("to_q, to_k and to_v are quantized with grids of their own: they cannot be fused")

    def set_attention_slice(self, slice_size: int | None) -> None:
        """Set how many heads are computed at a time. The result does not change.

        Args:
            slice_size: heads at a time; None: as many as ``MATRIX`` allows.

        Raises:
            ValueError: there are fewer heads.
        """
        if slice_size is not None and slice_size > self.sliceable_head_dim:
            raise ValueError(f"slice_size={slice_size} must be at most {self.sliceable_head_dim}")
        self.heads_at_once = slice_size

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Compute the attention as diffusers' ``AttnProcessor`` does, with quantized products.

        Args:
            hidden_states: (B, tokens, C) or (B, C, H, W).
            encoder_hidden_states: (B, tokens_k, C_k) for cross-attention; None for self-attention.

        Returns:
            A tensor of the shape of ``hidden_states``.
        """
        residual, shape = hidden_states, hidden_states.shape
        if self.spatial_norm is not None:
            hidden_states = self.spatial_norm(hidden_states, temb)
        if len(shape) == 4:
            hidden_states = self.tokens(hidden_states)
        elif self.group_norm is not None:
            hidden_states = self.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        if self.norm_cross and encoder_hidden_states is not None:
            context = self.norm_encoder_hidden_states(context)
        mask = self.prepare_attention_mask(attention_mask, context.shape[1], context.shape[0])

        query = self.quantize_q(self.head_to_batch_dim(self.to_q(hidden_states)))  # (B heads, tokens, width)
        key = self.quantize_k(self.head_to_batch_dim(self.to_k(context)))
        value = self.quantize_v(self.head_to_batch_dim(self.to_v(context)))
        out = self.batch_to_head_dim(self.attend(query, key, value, mask))

        out = self.to_out[1](self.to_out[0](out))
        if len(shape) == 4:
            out = self.image(out, shape)
        if self.residual_connection:
            out = out + residual
        return out / self.rescale_output_factor

    def tokens(self, image: Tensor) -> Tensor:
        """Return the normed tokens (B, H W, C) of an image (B, C, H, W)."""
        image = image if self.group_norm is None else self.group_norm(image)
        return image.flatten(2).transpose(1, 2)

    def image(self, tokens: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return tokens (B, H W, C) as an image of ``shape`` (B, C, H, W)."""
        return tokens.transpose(1, 2).reshape(shape)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Return the result of both products, (B heads, tokens, C / heads).

        As many heads are computed at a time as ``MATRIX`` allows. If the heads are computed in pieces, the
        matrix is not kept for the gradients but computed again.
        """
        heads = max(1, MATRIX // (query.shape[1] * key.shape[1]))
        heads = min(heads, self.heads_at_once or heads)
        if heads >= len(query):
            return self.products(query, key, value, mask)
        masks = [None] * -(-len(query) // heads) if mask is None else mask.split(heads)
        parts = zip(query.split(heads), key.split(heads), value.split(heads), masks, strict=True)
        if torch.is_grad_enabled():
            return torch.cat([checkpoint(self.products, *part, use_reentrant=False) for part in parts])
        return torch.cat([self.products(*part) for part in parts])

    def products(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Return ``Q(softmax(q k^T)) v`` of some heads, (heads, tokens, C / heads)."""
        return torch.bmm(self.quantize_softmax(self.get_attention_scores(query, key, mask)), value)
