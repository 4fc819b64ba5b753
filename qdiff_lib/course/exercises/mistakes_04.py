"""What likely mistakes in the exercises of lesson 04 give, by the message for each."""

from collections.abc import Callable

import torch
from torch import Tensor

from ...quantizers.grid import Grid, fake_quantize, quantize
from ...quantizers.range_finders import min_max
from .halves_04 import Half, integer_product


def split_slips(x: Tensor, sizes: tuple[int, ...], bits: int) -> dict[str, Tensor]:
    """What likely mistakes return, by the message for each."""

    def gridded(part: Tensor) -> Tensor:
        return fake_quantize(part, *min_max(part, Grid(bits)), bits)

    parts = x.split(sizes, 1)
    codes = [quantize(part, *min_max(part, Grid(bits)), bits) for part in parts]
    return {
        "this is one grid for the whole tensor: find a scale for each part": gridded(x),
        "these are codes; return values on the grid, s (q - z): use fake_quantize or dequantize": torch.cat(
            codes, 1
        ),
        "this is x itself, not quantized: pass each part through fake_quantize": x,
        "that is one grid for each channel; sizes says which channels share one": torch.cat(
            [gridded(channel) for channel in x.split(1, 1)], 1
        ),
        "that is one grid for each image; cut along axis 1, the channels": torch.cat(
            [gridded(image) for image in x.split(1)]
        ),
        "these are equal parts: cut at `sizes`, not in two or three equal parts": torch.cat(
            [gridded(part) for part in x.chunk(len(sizes), 1)], 1
        ),
        "the parts are in another order than in x: keep the order": torch.cat(
            [gridded(part) for part in parts[::-1]], 1
        ),
    }


def product_slips(halves: tuple[Half, Half], terms: list[Tensor]) -> dict[str, Tensor]:
    """What likely mistakes return, by the message for each."""
    first, second = halves
    products = sum(integer_product(h) for h in halves)

    def joined(part: Callable[[Half], tuple[Tensor, Tensor]]) -> Tensor:
        pairs = [(h.x_scale * h.w_scale, *part(h)) for h in halves]
        return sum(scale * (x.double() @ w.double().T) for scale, x, w in pairs)

    return {
        "uint8 wraps around: 3 - 5 gives 254. Turn codes and zero points into int32 first": joined(
            lambda h: (h.x_codes - h.x_zero, h.w_codes - h.w_zero[:, None])
        ),
        "the zero points are missing: a code q stands for s (q - z)": joined(
            lambda h: (h.x_codes, h.w_codes)
        ),
        "the zero points of the weights are missing": joined(
            lambda h: (h.x_codes.int() - h.x_zero, h.w_codes)
        ),
        "the zero point of the inputs is missing": joined(
            lambda h: (h.x_codes, h.w_codes.int() - h.w_zero[:, None])
        ),
        "the integers were added before they were scaled, but the halves have different scales": products,
        "both halves were scaled with the first one's scales": first.x_scale * first.w_scale * products,
        "both halves were scaled with the second one's scales": second.x_scale * second.w_scale * products,
        "only the first half is there: add the second": terms[0],
        "only the second half is there: add the first": terms[1],
    }
