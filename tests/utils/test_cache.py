"""Results that are made once, under a hash of what made them."""

import pytest
import torch

from qdiff_lib.utils.cache import Cache


def test_a_cached_value_is_made_once(tmp_path):
    cache, calls = Cache(tmp_path), []

    def make():
        calls.append(1)
        return {"mse": [0.5, None]}

    for _ in range(2):
        assert cache.value("rows", {"n": 1, "seed": 0}, make) == {"mse": [0.5, None]}
    assert len(calls) == 1
    cache.value("rows", {"n": 2, "seed": 0}, make)
    cache.value("other", {"n": 1, "seed": 0}, make)
    assert len(calls) == 3


def test_an_interrupted_value_is_not_kept(tmp_path):
    cache = Cache(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        cache.value("rows", {}, lambda: exec("raise KeyboardInterrupt"))
    assert cache.value("rows", {}, lambda: 1) == 1


def test_cached_tensors_are_made_once(tmp_path):
    cache, made = Cache(tmp_path), torch.arange(6.0).view(2, 3)
    first = cache.tensors("kept", {"seed": 0}, lambda: {"x": made.T})
    again = Cache(tmp_path).tensors("kept", {"seed": 0}, lambda: pytest.fail("made again"))
    assert torch.equal(first["x"], made.T) and torch.equal(again["x"], made.T)
    other = cache.tensors("kept", {"seed": 1}, lambda: {"x": made})
    assert torch.equal(other["x"], made)
