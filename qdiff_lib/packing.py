"""Packing of integer codes: b bits each, back to back, so that two 4-bit codes share a byte."""

from math import prod

import numpy as np
import torch
from torch import Tensor


def pack(codes: Tensor, bits: int) -> Tensor:
    """Codes in [0, 2^bits - 1], any shape, to uint8 (ceil(n bits / 8),); lowest bit and first code first.

    Raises ValueError for codes that need more bits.
    """
    least, most = (int(codes.min()), int(codes.max())) if codes.numel() else (0, 0)  # uint8 has no 2^8
    if least < 0 or most >= 2**bits:
        raise ValueError(f"codes from {least} to {most} do not fit into bits={bits}")
    values = codes.flatten().to(torch.int32).numpy()
    digits = (values[:, None] >> np.arange(bits)) & 1  # (n, bits)
    return torch.from_numpy(np.packbits(digits.astype(np.uint8).reshape(-1), bitorder="little"))


def unpack(packed: Tensor, bits: int, shape: tuple[int, ...]) -> Tensor:
    """The int32 codes of that shape which ``pack`` packed. Raises ValueError for a wrong number of bytes."""
    count = prod(shape)
    if len(packed) != packed_bytes(count, bits):
        need = packed_bytes(count, bits)
        raise ValueError(f"{count} codes of {bits} bits take {need} bytes, but there are {len(packed)}")
    digits = np.unpackbits(packed.numpy(), count=count * bits, bitorder="little").reshape(count, bits)
    return (
        torch.from_numpy((digits.astype(np.int32) << np.arange(bits, dtype=np.int32)).sum(1))
        .int()
        .view(shape)
    )


def packed_bytes(count: int, bits: int) -> int:
    """Bytes that ``count`` codes take."""
    return -(-count * bits // 8)
