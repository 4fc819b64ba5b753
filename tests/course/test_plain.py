"""What an answer returns becomes plain data, and keeps its value."""

from collections import OrderedDict, namedtuple
from decimal import Decimal
from fractions import Fraction
from itertools import count

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qdiff_lib.course.plain import MOST, Other, plain


class Liar(int):
    """A number that is equal to every other."""

    def __eq__(self, other):
        return True

    def __ne__(self, other):
        return False

    def __pos__(self):
        return 42

    __hash__ = int.__hash__


class Text(str):
    def __str__(self):
        return "other"


class Sub(Tensor):
    pass


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (2**70, 2**70),
        (Liar(3), 3),
        (Text("word"), "word"),
        (np.float64(0.1), 0.1),
        (np.float32(0.5), 0.5),
        (np.int64(-3), -3),
        (np.bool_(True), True),
        (np.array(7), 7),
        (Fraction(6, 2), 3),
        (Fraction(1, 4), 0.25),
        (Decimal("2.5"), 2.5),
        (range(3), [0, 1, 2]),
        ((i for i in "ab"), ["a", "b"]),
        ({1}, [1]),
        (namedtuple("P", "x y")(1, [Liar(2)]), (1, [2])),
        (OrderedDict(a=np.int8(1)), {"a": 1}),
        (b"\x01", b"\x01"),
    ],
)
def test_values_and_types(value, expected):
    found = plain(value)
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(
    "value", [object(), nn.Linear(1, 1), len, 1j, np.array(["a"]), np.datetime64("2026-01-01")]
)
def test_what_is_no_data(value):
    assert isinstance(plain(value), Other) and plain(plain(value)) == plain(value)


def test_endless_iterables_end():
    assert plain(count()) == Other(f"count of more than {MOST:,} items")


def test_tensors_are_copies_without_gradient_and_subclass():
    value = nn.Parameter(torch.ones(2))
    found = plain(value)
    assert type(found) is Tensor and not found.requires_grad and found.data_ptr() != value.data_ptr()
    assert type(plain(torch.ones(2).as_subclass(Sub))) is Tensor
    assert torch.equal(plain(torch.eye(2).to_sparse()), torch.eye(2))
    assert isinstance(plain(torch.empty(2, device="meta")), Other)


@pytest.mark.parametrize("kind", ["u1", "i2", ">f8", "f4", "?"])
def test_arrays_keep_their_type(kind):
    found = plain(np.arange(6).astype(kind)[::-1].reshape(2, 3))
    assert found.dtype == torch.from_numpy(np.zeros(1, np.dtype(kind).newbyteorder("="))).dtype
    assert found.double().tolist() == np.arange(6).astype(kind)[::-1].reshape(2, 3).astype(float).tolist()
