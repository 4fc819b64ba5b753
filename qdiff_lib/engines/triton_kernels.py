"""GPU kernels: quantization to int8, and integer convolutions and linear layers with weights of 4 or 8 bits.

A product is an implicit matrix product: each row is an output pixel, each column an output channel, and the
sum runs over kernel positions and input channels. The input is held as int8 ``a = q_x - 128``. So its level
is ``l_x = a + d`` with ``d = 128 - z_x``, and one sum is

    sum l_x l_w = sum a l_w + d sum l_w,        l_w = q_w - z_w.

The last term is one constant for each output channel, because padding is part of the sum too: a padded input
has level 0, that is ``a = z_x - 128``. Levels of up to 7 bits fit in int8. At 8 bits the kernel multiplies
``v = q_w - 128`` instead, ``l_w = v + e``, and adds ``e sum a``.

Importing this module needs Triton. With ``TRITON_INTERPRET=1``, set before, the kernels run on the CPU.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

from .triton_blocks import briefly, configurations, worth_trying

ROUNDER = tl.constexpr(1.5 * 2**23)  # x + ROUNDER - ROUNDER is x rounded to even, for |x| < 2^22


@triton.jit
def quantize_kernel(
    x, scale, limits, out, pixels, channels, first, image_stride, channel_stride, pixel_stride,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Write ``clip(round(x / s)) + shift`` with the channels last; each part has its own s and limits."""
    pixel = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    image = tl.program_id(2).to(tl.int64)
    is_channel = channel < channels
    inside = (pixel < pixels)[:, None] & is_channel[None, :]
    part = (channel >= first).to(tl.int32)
    size = tl.load(scale + part, mask=is_channel, other=1.0)
    low = tl.load(limits + 3 * part, mask=is_channel, other=0).to(tl.float32)
    high = tl.load(limits + 3 * part + 1, mask=is_channel, other=0).to(tl.float32)
    shift = tl.load(limits + 3 * part + 2, mask=is_channel, other=0).to(tl.float32)

    offset = pixel.to(tl.int64)[:, None] * pixel_stride + channel.to(tl.int64)[None, :] * channel_stride
    value = tl.load(x + image * image_stride + offset, mask=inside, other=0.0).to(tl.float32)
    level = tl.math.div_rn(value, tl.broadcast_to(size[None, :], (BLOCK_P, BLOCK_C)))
    level = tl.minimum(tl.maximum(level, low[None, :]), high[None, :])
    level = (level + ROUNDER) - ROUNDER
    place = (image * pixels + pixel)[:, None] * channels + channel[None, :]
    tl.store(out + place, (level + shift[None, :]).to(out.dtype.element_ty), mask=inside)


@triton.jit
def part_sums(
    x, weight, zero, pad, row, top, left, is_pixel, column, columns, start, stop, channels, height, width,
    KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    PACKED: tl.constexpr, MOVED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Return ``sum a w`` for the lower and upper half of the outputs (int32), and ``sum a`` of each pixel."""
    low = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.int32)
    high = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.int32)
    inputs = tl.zeros((BLOCK_M,), dtype=tl.int32)
    is_column = column < columns
    if PACKED:
        low_zero = tl.load(zero + column, mask=is_column, other=0)
        high_zero = tl.load(zero + columns + column, mask=is_column, other=0)
    blocks = tl.cdiv(stop - start, BLOCK_K)
    for step in range(KERNEL_H * KERNEL_W * blocks):
        tap = step // blocks
        channel = start + (step % blocks) * BLOCK_K + tl.arange(0, BLOCK_K)
        is_channel = channel < stop
        h = top + tap // KERNEL_W * DILATION_H
        w = left + tap % KERNEL_W * DILATION_W
        inside = is_pixel & (h >= 0) & (h < height) & (w >= 0) & (w < width)
        place = (row + h * width + w)[:, None] * channels + channel[None, :]
        outside = tl.where(is_channel, pad, 0).to(tl.int8)  # the zero point's code
        a = tl.load(x + place, mask=inside[:, None] & is_channel[None, :], other=outside[None, :])
        where = (column.to(tl.int64)[None, :] * (KERNEL_H * KERNEL_W) + tap) * channels + channel[:, None]
        b = tl.load(weight + where, mask=is_channel[:, None] & is_column[None, :], other=0)
        if PACKED:
            low = tl.dot(a, (b & 15).to(tl.int8) - low_zero[None, :], acc=low, out_dtype=tl.int32)
            high = tl.dot(a, (b >> 4).to(tl.int8) - high_zero[None, :], acc=high, out_dtype=tl.int32)
        else:
            low = tl.dot(a, b, acc=low, out_dtype=tl.int32)
        if MOVED:
            inputs += tl.sum(a.to(tl.int32), axis=1)
    return low, high, inputs


@triton.jit
def corrected(sums, inputs, constant, move, column, is_column, MOVED: tl.constexpr):
    """Return the sums of levels from the sums of ``a w``, int32."""
    sums += tl.load(constant + column, mask=is_column, other=0)[None, :]
    if MOVED:
        sums += inputs[:, None] * tl.load(move + column, mask=is_column, other=0)[None, :]
    return sums


@triton.autotune(
    configurations(),
    key=["pixels", "outputs", "channels", "first", "KERNEL_H", "KERNEL_W", "STRIDE_H"],
    prune_configs_by={"early_config_prune": worth_trying},
    do_bench=briefly,
)
@triton.jit(do_not_specialize=["pixels", "height", "width", "out_height", "out_width", "pad_top", "pad_left"])
def product_kernel(
    x, weight, zero, pad, constant, move, scale, bias, out,
    pixels, outputs, columns, channels, first, height, width, out_height, out_width, pad_top, pad_left,
    KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr, PARTS: tl.constexpr, PACKED: tl.constexpr,
    MOVED: tl.constexpr, BIAS: tl.constexpr, SUMS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Compute a convolution in integers, scale it once and add the bias; or write its integer sums."""
    across = tl.cdiv(columns, BLOCK_N)
    pixel = (tl.program_id(0) // across) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = (tl.program_id(0) % across) * BLOCK_N + tl.arange(0, BLOCK_N)
    is_pixel, is_low = pixel < pixels, column < columns
    upper = columns + column
    is_high = is_low & (upper < outputs)
    place = pixel % (out_height * out_width)
    top = place // out_width * STRIDE_H - pad_top
    left = place % out_width * STRIDE_W - pad_left
    row = (pixel // (out_height * out_width)).to(tl.int64) * height * width
    low_total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    high_total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for part in tl.static_range(PARTS):
        start = part * first
        stop = first + part * (channels - first)
        low, high, inputs = part_sums(
            x, weight, zero + 2 * part * columns, tl.load(pad + part), row, top, left, is_pixel, column,
            columns, start, stop, channels, height, width, KERNEL_H, KERNEL_W, DILATION_H, DILATION_W,
            PACKED, MOVED, BLOCK_M, BLOCK_N, BLOCK_K,
        )  # fmt: skip
        own = part * outputs
        low = corrected(low, inputs, constant + own, move + own, column, is_low, MOVED)
        if PACKED:
            high = corrected(high, inputs, constant + own, move + own, upper, is_high, MOVED)
        if SUMS:
            target = out + (part * pixels + pixel).to(tl.int64)[:, None] * outputs
            tl.store(target + column[None, :], low, mask=is_pixel[:, None] & is_low[None, :])
            if PACKED:
                tl.store(target + upper[None, :], high, mask=is_pixel[:, None] & is_high[None, :])
        else:
            low_total += low.to(tl.float32) * tl.load(scale + own + column, mask=is_low, other=0)[None, :]
            if PACKED:
                factor = tl.load(scale + own + upper, mask=is_high, other=0)
                high_total += high.to(tl.float32) * factor[None, :]
    if not SUMS:
        if BIAS:
            low_total += tl.load(bias + column, mask=is_low, other=0).to(tl.float32)[None, :]
            if PACKED:
                high_total += tl.load(bias + upper, mask=is_high, other=0).to(tl.float32)[None, :]
        kind = out.dtype.element_ty
        target = out + pixel.to(tl.int64)[:, None] * outputs
        tl.store(target + column[None, :], low_total.to(kind), mask=is_pixel[:, None] & is_low[None, :])
        if PACKED:
            tl.store(target + upper[None, :], high_total.to(kind), mask=is_pixel[:, None] & is_high[None, :])


@triton_op("qdiff_lib::quantize_input", mutates_args={})
def quantize_input(x: Tensor, scale: Tensor, limits: Tensor, first: int, dtype: torch.dtype) -> Tensor:
    """Return the quantized input of a layer with its channels last: (B, P, C), of the type ``dtype``.

    Args:
        x: (B, C, P) in floating point, with any strides.
        scale: float32 (parts,).
        limits: int32 (parts, 3): the lowest level, the highest, and what is added to a level.
        first: channels of the first part.
        dtype: int8, or bfloat16, which holds all levels of 8 bits exactly.
    """
    images, channels, pixels = x.shape
    out = torch.empty((images, pixels, channels), dtype=dtype, device=x.device)
    block = 64
    grid = (triton.cdiv(pixels, block), triton.cdiv(channels, block), images)
    strides = (x.stride(0), x.stride(1), x.stride(2))
    wrap_triton(quantize_kernel)[grid](
        x, scale, limits, out, pixels, channels, first, *strides, BLOCK_P=block, BLOCK_C=block
    )
    return out


@triton_op("qdiff_lib::integer_product", mutates_args={})
def integer_product(
    x: Tensor,
    weight: Tensor,
    zero: Tensor,
    pad: Tensor,
    constant: Tensor,
    move: Tensor | None,
    scale: Tensor,
    bias: Tensor | None,
    first: int,
    geometry: list[int],
    dtype: torch.dtype,
) -> Tensor:
    """Return an integer convolution of N outputs, (B, H_out, W_out, N), scaled, in the type ``dtype``.

    Args:
        x: int8 codes minus 128, (B, H, W, C).
        weight: (columns, KH, KW, C). uint8: row n holds the codes of output n in its lower 4 bits and those
            of output ``columns + n`` in its upper ones. int8: levels, or codes minus 128 with ``move``.
        zero: int8 (parts, 2 columns): zero points of 4-bit codes.
        pad: int8 (parts,): the zero points of the input minus 128.
        constant: int32 (parts, N), added to each sum.
        move: int32 (parts, N), times the sum of the inputs of an output; or None.
        scale: float32 (parts, N).
        bias: (N,) or None.
        first: channels of the first part.
        geometry: KH, KW, stride, dilation, padding before and output size (two numbers each).
        dtype: int32 returns the integer sums instead, (parts, B, H_out, W_out, N).
    """
    (images, height, width, channels), (parts, outputs) = x.shape, scale.shape
    kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, top, left, out_h, out_w = geometry
    sums, pixels, columns = dtype == torch.int32, images * out_h * out_w, weight.shape[0]
    shape = (parts,) * sums + (images, out_h, out_w, outputs)
    out = torch.empty(shape, dtype=dtype, device=x.device)

    def grid(meta: dict) -> tuple[int]:
        return (triton.cdiv(pixels, meta["BLOCK_M"]) * triton.cdiv(columns, meta["BLOCK_N"]),)

    wrap_triton(product_kernel)[grid](
        x, weight, zero, pad, constant, constant if move is None else move, scale,
        scale if bias is None else bias, out,
        pixels, outputs, columns, channels, first, height, width, out_h, out_w, top, left,
        KERNEL_H=kernel_h, KERNEL_W=kernel_w, STRIDE_H=stride_h, STRIDE_W=stride_w,
        DILATION_H=dilation_h, DILATION_W=dilation_w, PARTS=parts, PACKED=weight.dtype == torch.uint8,
        MOVED=move is not None, BIAS=bias is not None, SUMS=sums,
    )  # fmt: skip
    return out
