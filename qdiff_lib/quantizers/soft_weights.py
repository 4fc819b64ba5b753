"""The soft weights of all layers of a unit at once, with their gradients by hand (AdaRound).

The equations are those of ``AdaRound``, which computes one weight, and so are the results, bit for bit. Here
one operation serves a list of weights (torch's *foreach* functions, on a GPU one launch for all), and h(V)
is computed once for the weight and the regularizer. With r = sigmoid(V) (zeta - gamma) + gamma, l = floor + h
and g the gradient of the loss with respect to the weight:

    h = clip(r, 0, 1),   w~ = s clip(l, -z, 2^b - 1 - z)
    dh / dV = (zeta - gamma) sigmoid(V) (1 - sigmoid(V))    where 0 < r < 1, else 0
    gradient of V = (g s dclip / dl - 2 lambda beta |2h - 1|^(beta - 1) sign(2h - 1)) dh / dV
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from .adaround import GAMMA, ZETA, AdaRound

Tensors = Sequence[Tensor]


def soft_weights(parts: Sequence[AdaRound], beta: Sequence[Tensor | float], strength: float) -> Tensors:
    """Return the soft weight of each part. Its gradient also holds that of the regularizer.

    So the regularizer need not be added to the loss. Its value is not computed.

    Args:
        beta: the regularizer's exponent, and the exponent less 1: numbers, or tensors without dimensions, so
            that a recorded iteration can be repeated with others. Without these two: no regularizer.
        strength: lambda, the weight of the regularizer.
    """
    tensors = [
        *(part.v for part in parts),
        *(part.current_scale() for part in parts),
        *(part.floor for part in parts),
        *(part.low for part in parts),
        *(part.high for part in parts),
    ]
    exponents = beta or (0.0, 0.0)
    return SoftWeights.apply(len(parts), *exponents, strength if beta else 0.0, *tensors)


def slope_of_h(h: Tensors) -> list[Tensor]:
    """Return dh / d sigmoid: zeta - gamma where h is strictly between 0 and 1, else 0."""
    slope = torch._foreach_sub(h, torch._foreach_mul(h, h))  # above 0 only between 0 and 1
    torch._foreach_sign_(slope)
    torch._foreach_mul_(slope, ZETA - GAMMA)
    return slope


def slope_of_clip(levels: Tensors, low: Tensors, high: Tensors) -> list[Tensor]:
    """Return the derivative of clipping: 1 between the bounds, 1/2 at them, 0 beyond.

    These are the derivatives of torch's ``clamp``, from torch 2.14 on.
    """
    above = [x - bound for x, bound in zip(levels, low, strict=True)]
    below = [bound - x for x, bound in zip(levels, high, strict=True)]
    torch._foreach_sign_(above)
    torch._foreach_sign_(below)
    torch._foreach_add_(above, below)
    torch._foreach_mul_(above, 0.5)
    return above


class SoftWeights(torch.autograd.Function):
    """``soft_weights`` of n parts. The tensors are V, scale, floor, low and high of each."""

    @staticmethod
    def forward(ctx, n, beta, less, strength, *tensors):
        """Compute the soft weights, and keep what the gradients need. ``less``: beta - 1."""
        v, scales, floors, low, high = (tensors[i : i + n] for i in range(0, 5 * n, n))
        sigmoid = torch._foreach_sigmoid(v)
        h = torch._foreach_mul(sigmoid, ZETA - GAMMA)
        torch._foreach_add_(h, GAMMA)
        torch._foreach_clamp_min_(h, 0)
        torch._foreach_clamp_max_(h, 1)
        levels = torch._foreach_add(floors, h)
        slopes = slope_of_h(h), slope_of_clip(levels, low, high)
        for x, *bounds in zip(levels, low, high, strict=True):
            x.clamp_(*bounds)
        ctx.regularizer = (beta, less, strength) if strength else None
        ctx.n, ctx.learns_scale = n, any(ctx.needs_input_grad[4 + n : 4 + 2 * n])
        kept = (levels if ctx.learns_scale else (), h if strength else ())
        ctx.save_for_backward(*sigmoid, *slopes[0], *slopes[1], *scales, *kept[0], *kept[1])
        return tuple(s * x for s, x in zip(scales, levels, strict=True))

    @staticmethod
    def backward(ctx, *gradients):
        """Return the gradients of V and the scale."""
        n, saved = ctx.n, ctx.saved_tensors
        sigmoid, *slopes, scales = (saved[i : i + n] for i in range(0, 4 * n, n))
        gradients = [g.contiguous() for g in gradients]  # so that one launch serves all
        of_scales = [None] * n
        if ctx.learns_scale:
            products = [g * x for g, x in zip(gradients, saved[4 * n : 5 * n], strict=True)]
            of_scales = [x.sum_to_size(s.shape) for x, s in zip(products, scales, strict=True)]
        of_v = [g * s for g, s in zip(gradients, scales, strict=True)]
        torch._foreach_mul_(of_v, slopes[1])
        down = torch._foreach_neg(sigmoid)
        torch._foreach_add_(down, 1)
        through_h(of_v, slopes[0], down, sigmoid)
        if ctx.regularizer:
            more = regularizer_gradient(saved[-n:], *ctx.regularizer)
            torch._foreach_add_(of_v, through_h(more, slopes[0], down, sigmoid))
        return None, None, None, None, *of_v, *of_scales, *([None] * (3 * n))


def through_h(gradients: Tensors, slope: Tensors, down: Tensors, sigmoid: Tensors) -> Tensors:
    """Multiply gradients with respect to h by dh / dV, in place. ``down``: 1 - sigmoid(V)."""
    for factor in (slope, down, sigmoid):
        torch._foreach_mul_(gradients, factor)
    return gradients


def regularizer_gradient(
    h: Tensors, beta: Tensor | float, less: Tensor | float, strength: float
) -> list[Tensor]:
    """Return the gradient of ``strength sum 1 - |2h - 1|^beta`` with respect to h. ``less``: beta - 1."""
    decided = torch._foreach_mul(h, 2)
    torch._foreach_sub_(decided, 1)
    exponents = [less] * len(h) if isinstance(less, Tensor) else less
    found = torch._foreach_pow(torch._foreach_abs(decided), exponents)
    torch._foreach_mul_(found, beta)
    torch._foreach_mul_(found, -strength)
    torch._foreach_sign_(decided)
    torch._foreach_mul_(found, decided)
    torch._foreach_mul_(found, 2)
    return found
