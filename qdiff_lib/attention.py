"""The attention products: q, k, v and the softmax quantized, for self- and cross-attention.

As in the paper's experiments (section 4). The products take the place of diffusers' attention processor, so
the linear layers around them stay what they are. The matrix of attention weights is never held as a whole
where it is large: at 64 x 64 tokens and 8 heads it takes 512 MiB for each image.
"""

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .grid import Grid
from .layers import ActivationQuantizer

MATRIX = 2**27  # most attention weights that are held at once: 512 MiB, one image of Stable Diffusion


class QuantAttnProcessor(nn.Module):
    """Attention whose two matrix products are quantized: q, k, v, and the softmax.

    The softmax lies in [0, 1], so its grid is unsigned: asymmetric with zero point 0. Its bits stand apart.
    """

    SUPPORTED = (AttnProcessor, AttnProcessor2_0)

    def __init__(self, grid: Grid, softmax_grid: Grid):
        super().__init__()
        if softmax_grid.symmetric:
            raise ValueError("symmetric=True wastes half of the softmax's grid; use an asymmetric one")
        self.q, self.k, self.v = (ActivationQuantizer(grid) for _ in range(3))
        self.softmax = ActivationQuantizer(softmax_grid)

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        """Spelt out because ``Attention`` reads this signature to know which arguments it may pass."""
        return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, temb)

    def forward(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        residual, shape = hidden_states, hidden_states.shape
        if attn.spatial_norm is not None:
            hidden_states = attn.spatial_norm(hidden_states, temb)
        if len(shape) == 4:
            hidden_states = hidden_states.flatten(2).transpose(1, 2)  # (B, C, H, W) -> (B, tokens, C)
        if attn.group_norm is not None:
            hidden_states = attn.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        if attn.norm_cross and encoder_hidden_states is not None:
            context = attn.norm_encoder_hidden_states(context)
        mask = attn.prepare_attention_mask(attention_mask, context.shape[1], context.shape[0])

        query = self.q(attn.head_to_batch_dim(attn.to_q(hidden_states)))  # (B heads, tokens, C / heads)
        key = self.k(attn.head_to_batch_dim(attn.to_k(context)))
        value = self.v(attn.head_to_batch_dim(attn.to_v(context)))
        out = attn.batch_to_head_dim(self.attend(attn, query, key, value, mask))

        out = attn.to_out[1](attn.to_out[0](out))
        if len(shape) == 4:
            out = out.transpose(1, 2).reshape(shape)
        if attn.residual_connection:
            out = out + residual
        return out / attn.rescale_output_factor

    def attend(
        self, attn: Attention, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Both products, (B heads, tokens, C / heads), for as many heads at a time as ``MATRIX`` allows.

        A matrix that is cut is computed a second time for the gradients rather than kept for them.
        """
        heads = max(1, MATRIX // (query.shape[1] * key.shape[1]))
        if heads >= len(query):
            return self.products(attn, query, key, value, mask)
        masks = [None] * -(-len(query) // heads) if mask is None else mask.split(heads)
        parts = zip(query.split(heads), key.split(heads), value.split(heads), masks, strict=True)
        if torch.is_grad_enabled():
            return torch.cat([checkpoint(self.products, attn, *part, use_reentrant=False) for part in parts])
        return torch.cat([self.products(attn, *part) for part in parts])

    def products(
        self, attn: Attention, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
    ) -> Tensor:
        """``Q(softmax(q k^T)) v`` of some heads."""
        return torch.bmm(self.softmax(attn.get_attention_scores(query, key, mask)), value)
