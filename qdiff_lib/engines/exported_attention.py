"""Quantized attention in a form whose products engines compute in integers.

Engines multiply activations in int8 only if the second one has no zero point. So q, k and v are moved to the
middle of their codes, ``x' = s (q - 128)``, and ``x = x' + d`` with ``d = s (128 - z)``. What is missing is

    q k = q' k' + d_q sum(k') + terms that do not depend on the key,    p v = p v' + d_v sum(p)

A softmax does not change if all its inputs grow by the same number, so terms that do not depend on the key
are left out. The sum of p comes from one more column of ones beside v'.
"""

import torch
from torch import Tensor, nn

from ..modules.activation_quantizer import ActivationQuantizer
from ..modules.attention import QuantAttention
from .exported import CODE_BITS, ExportedActivation, on_uint8_grid

MIDDLE = 2 ** (CODE_BITS - 1)


class CenteredActivation(nn.Module):
    """The quantization of an activation, moved to the middle of its codes: ``s (q - 128)``.

    ``moved`` is what was taken away: the quantized value is the result plus ``moved``.
    """

    def __init__(self, quantizer: ActivationQuantizer):
        super().__init__()
        self.scale = float(quantizer.scale)
        self.moved = self.scale * (MIDDLE - int(quantizer.zero_point))
        self.top = 2**quantizer.grid.bits - 1 - MIDDLE  # the last code, minus 128

    def forward(self, x: Tensor) -> Tensor:
        """Return the centered activation, of the shape of ``x``."""
        x = x - self.moved
        if self.top < MIDDLE - 1:
            x = x.clamp(max=self.top * self.scale)
        return on_uint8_grid(x, self.scale, MIDDLE)


def export_attention(attention: QuantAttention) -> None:
    """Change a quantized attention in place, so that engines compute its products in integers.

    Products with more than 8 bits, or without ranges, are computed in floating point.
    """
    names = ("quantize_q", "quantize_k", "quantize_v", "quantize_softmax")
    quantizers = [getattr(attention, name) for name in names]
    attention.attend = attention.products  # engines divide large products themselves
    if all(q.scale is not None and q.grid.bits <= CODE_BITS for q in quantizers):
        forms = [CenteredActivation(q) for q in quantizers[:3]] + [ExportedActivation(quantizers[3])]
        attention.attend = centered_products.__get__(attention)
    else:
        forms = [nn.Identity() if q.scale is None else ExportedActivation(q) for q in quantizers]
    for name, form in zip(names, forms, strict=True):
        setattr(attention, name, form)


def centered_products(
    attention: QuantAttention, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
) -> Tensor:
    """Return ``Q(softmax(q k^T)) v``, (heads, tokens, width), from centered query, key and value."""
    of_keys = (attention.scale * attention.quantize_q.moved) * key.sum(-1)[:, None, :]
    scores = attention.get_attention_scores(query, key, of_keys if mask is None else mask + of_keys)
    form = attention.quantize_v
    ones = torch.full_like(value[..., :1], form.scale)  # of code 1
    out = torch.bmm(attention.quantize_softmax(scores), torch.cat([value, ones], dim=-1))
    return out[..., :-1] + out[..., -1:] * (form.moved / form.scale)
