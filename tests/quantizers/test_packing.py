"""Packed codes: the exact bytes, and back."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qdiff_lib.quantizers import packing
from qdiff_lib.quantizers.grid import ALLOWED_BITS
from qdiff_lib.quantizers.packing import pack, packed_bytes, unpack

every_width = pytest.mark.parametrize("bits", ALLOWED_BITS, ids="{}-bit".format)


@every_width
@given(data=st.data())
@settings(max_examples=25, deadline=None, derandomize=True)
def test_codes_come_back(bits, data):
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
    codes = data.draw(hnp.arrays(np.int32, shape, elements=st.integers(0, 2**bits - 1)))
    codes = torch.from_numpy(codes)
    packed = pack(codes, bits)
    assert packed.dtype == torch.uint8
    assert packed.shape == (packed_bytes(codes.numel(), bits),)
    back = unpack(packed, bits, shape)
    assert back.dtype == (torch.uint8 if bits <= 8 else torch.int32)
    assert back.shape == codes.shape
    assert torch.equal(back.int(), codes)


@every_width
def test_every_code_comes_back(bits):
    codes = torch.arange(2**bits, dtype=torch.int32).flip(0)
    assert torch.equal(unpack(pack(codes, bits), bits, (2**bits,)).int(), codes)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64], ids=str)
def test_integer_types_pack_alike(dtype):
    codes = torch.tensor([[0, 3], [2, 1]], dtype=dtype)
    assert torch.equal(pack(codes, 2), torch.tensor([0b01_10_11_00], dtype=torch.uint8))


def test_codes_of_a_transposed_tensor_are_in_its_own_order():
    codes = torch.arange(6).view(2, 3).T
    assert torch.equal(unpack(pack(codes, 3), 3, (3, 2)).long(), codes)


@pytest.mark.parametrize(
    ("bits", "codes", "expected"),
    [
        pytest.param(4, [0x1, 0x2, 0xF, 0x8], [0x21, 0x8F], id="two-4-bit-codes-share-a-byte"),
        pytest.param(4, [0x1, 0x2, 0x3], [0x21, 0x03], id="odd-count"),
        pytest.param(2, [3, 0, 1, 2, 1], [0b10_01_00_11, 0b01], id="four-2-bit-codes-share-a-byte"),
        pytest.param(3, [0b101, 0b011, 0b110], [0b10_011_101, 0b1], id="3-bit-codes-cross-bytes"),
        pytest.param(5, [0b10001, 0b01110], [0b110_10001, 0b01], id="5-bit-codes-cross-bytes"),
        pytest.param(8, [1, 255], [1, 255], id="one-8-bit-code-a-byte"),
        pytest.param(16, [0x1234], [0x34, 0x12], id="low-byte-first"),
        pytest.param(4, [], [], id="nothing"),
    ],
)
def test_bytes(bits, codes, expected):
    packed = pack(torch.tensor(codes, dtype=torch.int32), bits)
    assert packed.tolist() == expected
    assert unpack(packed, bits, (len(codes),)).tolist() == codes


@pytest.mark.parametrize(
    ("count", "bits", "expected"),
    [(0, 4, 0), (1, 2, 1), (2, 4, 1), (3, 4, 2), (8, 3, 3), (9, 3, 4), (5, 16, 10)],
)
def test_packed_bytes(count, bits, expected):
    assert packed_bytes(count, bits) == expected


@pytest.mark.parametrize("codes", [[0, 16], [-1, 3], [2**32, 0]], ids=["above", "negative", "beyond-int32"])
def test_codes_that_do_not_fit(codes):
    message = f"codes from {min(codes)} to {max(codes)} do not fit into bits=4"
    with pytest.raises(ValueError, match=message):
        pack(torch.tensor(codes), 4)


@pytest.mark.parametrize(("count", "have"), [(5, 2), (5, 4), (0, 1)])
def test_wrong_number_of_bytes(count, have):
    need = packed_bytes(count, 4)
    with pytest.raises(ValueError, match=f"{count} codes of 4 bits take {need} bytes, but there are {have}"):
        unpack(torch.zeros(have, dtype=torch.uint8), 4, (count,))


def test_many_groups_are_shifted_in_pieces(monkeypatch):
    codes = torch.arange(101, dtype=torch.int32) % 8
    whole = pack(codes, 3)
    monkeypatch.setattr(packing, "CHUNK", 4)  # groups: 13 of 8 codes
    assert torch.equal(pack(codes, 3), whole)
    assert torch.equal(unpack(whole, 3, (101,)).int(), codes)
