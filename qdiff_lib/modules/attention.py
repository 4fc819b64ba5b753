"""The attention products: q, k, v and the softmax quantized, for self- and cross-attention.

As in the paper's experiments (section 4). The linear layers around the products stay what they are. The
matrix of attention weights is never held as a whole where it is large: at 64 x 64 tokens and 8 heads it takes
512 MiB for each image.
"""

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..quantizers.grid import Grid
from .activation_quantizer import ActivationQuantizer

MATRIX = 2**27  # most attention weights that are held at once: 512 MiB, one image of Stable Diffusion


class QuantAttention(Attention):
    """diffusers' attention with both matrix products quantized: q, k, v, and the softmax.

    Its four quantizers are submodules, so that they are saved, moved and copied with it. The products are
    computed by the module itself and no longer by a processor: what would replace them is refused, and
    slicing (``pipe.enable_attention_slicing()``) keeps them.

    The softmax lies in [0, 1], so its grid is unsigned: asymmetric with zero point 0. Its bits stand apart.
    """

    SUPPORTED = (AttnProcessor, AttnProcessor2_0)

    @classmethod
    def of(cls, attention: Attention, grid: Grid, softmax_grid: Grid) -> "QuantAttention":
        """An attention made of the same layers; ranges are still unset.

        Raises ValueError for a symmetric grid of the softmax, and for an attention whose products are
        computed in another way than ``SUPPORTED`` does.
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
        """Refuse another processor with ValueError: it would drop the quantizers."""
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
        """Refuse with ValueError: to_q, to_k and to_v are quantized each with grids of their own."""
        raise ValueError("to_q, to_k and to_v are quantized with grids of their own: they cannot be fused")

    def set_attention_slice(self, slice_size: int | None) -> None:
        """Compute so many heads at a time (None: as many as ``MATRIX`` allows); the result stays the same.

        Raises ValueError for more heads than there are.
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
        """As ``AttnProcessor`` of diffusers: (B, tokens, C) or (B, C, H, W) in, and the same shape out."""
        residual, shape = hidden_states, hidden_states.shape
        if self.spatial_norm is not None:
            hidden_states = self.spatial_norm(hidden_states, temb)
        if len(shape) == 4:
            hidden_states = hidden_states.flatten(2).transpose(1, 2)  # (B, C, H, W) -> (B, tokens, C)
        if self.group_norm is not None:
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
            out = out.transpose(1, 2).reshape(shape)
        if self.residual_connection:
            out = out + residual
        return out / self.rescale_output_factor

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Both products, (B heads, tokens, C / heads), for as many heads at a time as ``MATRIX`` allows.

        A matrix that is cut is computed a second time for the gradients rather than kept for them.
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
        """``Q(softmax(q k^T)) v`` of some heads."""
        return torch.bmm(self.quantize_softmax(self.get_attention_scores(query, key, mask)), value)
