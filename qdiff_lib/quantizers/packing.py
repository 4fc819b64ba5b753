"""Packing of integer codes: b bits each, without gaps. So two 4-bit codes share a byte."""

from math import prod

import torch
from torch import Tensor

CHUNK = 2**20  # groups of codes that are packed at once: bounds the extra memory


def pack(codes: Tensor, bits: int) -> Tensor:
    """Pack codes without gaps: the first code comes first, and its lowest bit comes first.

    Args:
        codes: integers in [0, 2^bits - 1], n of them in any shape.
        bits: bits of a code.

    Returns:
        uint8, shape (ceil(n bits / 8),).

    Raises:
        ValueError: a code is negative or needs more bits.
    """
    least, most = (int(codes.min()), int(codes.max())) if codes.numel() else (0, 0)  # uint8 has no 2^8
    if least < 0 or most >= 2**bits:
        raise ValueError(f"codes from {least} to {most} do not fit into bits={bits}")
    if bits == 8:
        return codes.flatten().to(torch.uint8)
    count, per_group, group_bytes = codes.numel(), *group_size(bits)
    flat = codes.new_zeros(-(-count // per_group) * per_group)
    flat[:count] = codes.flatten()
    pieces = []
    for group in flat.view(-1, per_group).split(CHUNK):  # (groups, codes of a group)
        words = sum(code.long() << (bits * i) for i, code in enumerate(group.unbind(1)))
        pieces.append(torch.stack([(words >> 8 * i & 255).to(torch.uint8) for i in range(group_bytes)], 1))
    packed = torch.cat(pieces).flatten() if pieces else codes.new_zeros(0, dtype=torch.uint8)
    return packed[: packed_bytes(count, bits)].clone()


def unpack(packed: Tensor, bits: int, shape: tuple[int, ...]) -> Tensor:
    """Return the codes that ``pack`` packed, in the given shape: uint8 up to 8 bits, else int32.

    Raises:
        ValueError: ``packed`` has the wrong number of bytes for this shape and these bits.
    """
    count, per_group, group_bytes = prod(shape), *group_size(bits)
    if len(packed) != packed_bytes(count, bits):
        need = packed_bytes(count, bits)
        raise ValueError(f"{count} codes of {bits} bits take {need} bytes, but there are {len(packed)}")
    if bits == 8:
        return packed.view(shape).clone()
    padded = packed.new_zeros(-(-count // per_group) * group_bytes)
    padded[: len(packed)] = packed
    kind, pieces = torch.uint8 if bits <= 8 else torch.int32, []
    for group in padded.view(-1, group_bytes).split(CHUNK):  # (groups, bytes of a group)
        words = sum(byte.long() << 8 * i for i, byte in enumerate(group.unbind(1)))
        digits = [(words >> bits * i & 2**bits - 1).to(kind) for i in range(per_group)]
        pieces.append(torch.stack(digits, 1))
    codes = torch.cat(pieces).flatten() if pieces else padded.to(kind)
    return codes[:count].view(shape)


def group_size(bits: int) -> tuple[int, int]:
    """Return the smallest number of codes that fill whole bytes, and the number of these bytes.

    For 4 bits this is 2 codes in 1 byte, for 3 bits 8 codes in 3 bytes.
    """
    codes = 1
    while codes * bits % 8:
        codes *= 2
    return codes, codes * bits // 8


def packed_bytes(count: int, bits: int) -> int:
    """Return the bytes that ``count`` codes take."""
    return -(-count * bits // 8)
