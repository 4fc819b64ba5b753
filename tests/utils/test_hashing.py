"""Every name, type, shape and byte counts, the order of a dictionary does not."""

import pytest
import torch

from qdiff_lib.utils.hashing import sources_hash, tensors_hash

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
        {"b": torch.ones(4, dtype=torch.uint8)},
        {"a": torch.arange(4.0).view(torch.int32)},
    ],
    ids=["value", "byte", "name", "shape", "type"],
)
def test_what_counts(change):
    assert tensors_hash(BASE | change) != tensors_hash(BASE)


def test_half_precision_has_bytes_too():
    assert tensors_hash({"a": torch.ones(3, dtype=torch.bfloat16)}) != tensors_hash({"a": torch.ones(3)})


def test_settings_count_and_their_order_does_not():
    first = tensors_hash(BASE, {"seed": 0, "bits": [4, 8]})
    assert first == tensors_hash(BASE, {"bits": [4, 8], "seed": 0})
    assert len({first, tensors_hash(BASE, {"seed": 1, "bits": [4, 8]}), tensors_hash(BASE)}) == 3


def test_names_and_bytes_cannot_be_taken_for_each_other():
    joined = torch.frombuffer(bytearray(b"xb" + b"y"), dtype=torch.uint8)
    apart = {
        "a": torch.tensor([ord("x")], dtype=torch.uint8),
        "b": torch.tensor([ord("y")], dtype=torch.uint8),
    }
    assert tensors_hash({"a": joined}) != tensors_hash(apart)


def test_statements_of_sources_count_and_comments_do_not(tmp_path):
    def hashed(name, text):
        (tmp_path / name).write_text(text)
        return sources_hash([tmp_path / name])

    first = hashed("a.py", 'def f(x):\n    """Old."""\n    return x\n')
    assert hashed("b.py", 'def f(x):  # the same\n    """New."""\n    return (x)\n') == first
    assert hashed("c.py", 'def f(x):\n    """Old."""\n    return -x\n') != first
    both = [tmp_path / "a.py", tmp_path / "c.py"]
    assert len({first, sources_hash([]), sources_hash(both), sources_hash(both[::-1])}) == 4
