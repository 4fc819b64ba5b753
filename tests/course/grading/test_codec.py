"""The format between the grader and the sandbox: it carries data, and refuses everything else."""

import json
import math

import pytest
import torch

from qdiff_lib.course.exercises.lesson_04 import Half, make_half, to_real
from qdiff_lib.course.grading import codec
from qdiff_lib.course.grading.codec import HEADER, Refused, decode, encode, frame_size
from qdiff_lib.course.plain import Other, plain


def sent(value, trusted=False):
    frame = encode(value)
    header, body = frame[: HEADER.size], frame[HEADER.size :]
    assert frame_size(header) == len(body)
    return decode(header, body, trusted)


def framed(node, raw=b"") -> tuple[bytes, bytes]:
    text = json.dumps(node).encode() if not isinstance(node, bytes) else node
    return HEADER.pack(len(text), len(raw)), text + raw


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -(2**70),
        0.1,
        -0.0,
        math.inf,
        "ü\ud800",
        b"\0\xff",
        [],
        [1, [2.5, "x"]],
        (),
        (1, (2,)),
        {},
    ]
    + [{"a": 1, 2: [3]}, [True, 1, 1.0]],
    ids=repr,
)
def test_plain_values_come_back_as_they_were(value):
    found = sent(value)
    assert found == value and type(found) is type(value)


def test_nan_comes_back():
    assert math.isnan(sent(math.nan))


@pytest.mark.parametrize("dtype", codec.DTYPES.values(), ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3)])
def test_tensors_come_back_as_they_were(dtype, shape):
    tensor = (torch.arange(math.prod(shape)).reshape(shape) % 2).to(dtype)
    found = sent(tensor.mT if tensor.ndim == 2 else tensor)
    assert found.dtype is dtype and torch.equal(found, tensor.mT if tensor.ndim == 2 else tensor)


def test_a_generator_goes_on_where_it_was():
    generator = torch.Generator().manual_seed(3)
    generator_2 = sent(generator)
    assert torch.equal(torch.rand(9, generator=generator), torch.rand(9, generator=generator_2))


def test_what_the_grader_sends_may_name_the_library_and_what_it_gets_may_not():
    half = make_half(torch.randn(2, 3), torch.randn(4, 3))
    found = sent(half, trusted=True)
    assert isinstance(found, Half) and all(map(torch.equal, found, half))
    assert sent(to_real, trusted=True) is to_real
    for value in (half, to_real):
        with pytest.raises(Refused, match="unknown kind"):
            sent(value)


def test_other_objects_come_back_as_their_name_alone():
    assert plain(sent(Other("Fraction"))) == Other("Fraction")


DEEP = [0]
for _ in range(30):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    "value",
    [object(), 2**1001, DEEP, torch.empty(1).expand(2**30), torch.ones(2).to_sparse, {1, 2}, lambda: 1],
    ids="object int deep tensor method set lambda".split(),
)
def test_what_is_refused_before_it_is_sent(value):
    with pytest.raises(Refused):
        encode(value)


@pytest.mark.parametrize(
    "node, raw",
    [
        (b"", b""),
        (b"{", b""),
        (b"\xff", b""),
        (b"[" * 100_000, b""),
        (b"1" * 5000, b""),
        ({}, b""),
        ({"named": "os:system", "items": ["x"]}, b""),
        ({"course": "os:system"}, b""),
        ({"tensor": "float32", "shape": [2], "at": [0, 4]}, b"1234"),
        ({"tensor": "float32", "shape": [-1], "at": [0, 4]}, b"1234"),
        ({"tensor": "float32", "shape": [1], "at": [4, 4]}, b"1234"),
        ({"tensor": "float32", "shape": [1], "at": [-4, 4]}, b"1234"),
        ({"tensor": "float32", "shape": [2**26] * 3, "at": [0, 4]}, b"1234"),
        ({"tensor": "float32", "shape": 1, "at": [0, 4]}, b"1234"),
        ({"tensor": "quint8", "shape": [4], "at": [0, 4]}, b"1234"),
        ({"generator": 3}, b""),
        ({"generator": {"tensor": "uint8", "shape": [5056], "at": [0, 5056]}}, b"\xff" * 5056),
        ({"dict": [[[], 1]]}, b""),
        ({"dict": [[i * (2**61 - 1), 0] for i in range(5000)]}, b""),
        ({"dict": 3}, b""),
        ([{"other": f"kind{i}"} for i in range(101)], b""),
        ({"tuple": {}}, b""),
        ([0] * (codec.MOST_ITEMS + 1), b""),
    ],
)
def test_what_is_refused_when_it_comes(node, raw):
    with pytest.raises(Refused):
        decode(*framed(node, raw))


def test_a_frame_that_is_too_long_is_refused_by_its_header():
    for sizes in ((2**32 - 1, 0), (0, 2**32 - 1)):
        with pytest.raises(Refused, match="a frame of"):
            frame_size(HEADER.pack(*sizes))


def test_a_truth_value_is_one_of_two_whatever_its_byte():
    found = decode(*framed({"tensor": "bool", "shape": [2], "at": [0, 2]}, b"\x07\x00"))
    assert found.tolist() == [True, False] and found.view(torch.uint8).tolist() == [1, 0]


def test_texts_are_cut():
    assert len(sent("x" * 10**6)) == codec.LONGEST
    assert len(sent("x" * 10**6, trusted=True)) == 10**6  # a cell of a notebook
