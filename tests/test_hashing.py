"""Every name and every byte counts, the order of a dictionary does not."""

import pytest
import torch

from qdiff_lib.hashing import tensors_hash

BASE = {"a": torch.arange(4.0), "b": torch.ones(2, 2, dtype=torch.uint8)}


def test_order_layout_and_gradients_do_not_count():
    moved = {"b": BASE["b"].T.contiguous().T, "a": BASE["a"].clone().requires_grad_()}
    assert tensors_hash(moved) == tensors_hash(BASE)


@pytest.mark.parametrize(
    "change",
    [
        {"a": torch.tensor([0.0, 1.0, 2.0, 3.5])},
        {"b": torch.zeros(2, 2, dtype=torch.uint8)},
        {"c": torch.ones(1)},
    ],
    ids=["value", "byte", "name"],
)
def test_what_counts(change):
    assert tensors_hash(BASE | change) != tensors_hash(BASE)


def test_half_precision_has_bytes_too():
    assert tensors_hash({"a": torch.ones(3, dtype=torch.bfloat16)}) != tensors_hash({"a": torch.ones(3)})
