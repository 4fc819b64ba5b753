"""Results that are made once, under a hash of what made them."""

import os

import pytest
import torch
from several_processes import together

from qdiff_lib.utils.cache import Cache
from qdiff_lib.utils.processes import Lost


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


def parts_of(cache, n=5, killed=()):
    """The parts, and which of them this process made. It ends when it has to make one of ``killed``."""
    made = []

    def make(k):
        made.append(k)
        if k in killed:
            os._exit(9)
        return {"x": torch.tensor([k])}

    found = [part["x"].item() for part in cache.parts("parts", [{"k": k} for k in range(n)], lambda: make)]
    return found, made


def test_parts_are_made_once_and_only_the_missing_ones(tmp_path):
    assert parts_of(Cache(tmp_path), n=2) == ([0, 1], [0, 1])
    assert parts_of(Cache(tmp_path)) == ([0, 1, 2, 3, 4], [2, 3, 4])
    finished = Cache(tmp_path).parts("parts", [{"k": 3}], lambda: pytest.fail("nothing is missing"))
    assert [part["x"].item() for part in finished] == [3]


def shared_cache(processes, folder):
    """What a process finds in a cache: a value, a tensor, the parts, and what it made of the parts."""
    cache = Cache(folder, processes)
    for _ in range(2):  # made, and read
        value = cache.value("value", {}, lambda: processes.number)
        tensors = cache.tensors("tensors", {}, lambda: {"x": torch.tensor(processes.number)})
    return (value, tensors["x"].item(), *parts_of(cache))


def test_processes_get_what_the_main_one_has_and_divide_the_parts(tmp_path):
    answers = together(2, shared_cache, tmp_path)
    assert answers == [(0, 0, [0, 1, 2, 3, 4], made) for made in ([0, 2, 4], [1, 3])]
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 2 + 5


def interrupted(processes, folder):
    return parts_of(Cache(folder, processes), killed=[3])


def test_after_a_kill_no_more_than_one_turn_is_lost(tmp_path):
    assert isinstance(together(2, interrupted, tmp_path, silent=1)[0], Lost)
    found, made = parts_of(Cache(tmp_path))
    assert found == [0, 1, 2, 3, 4] and made == [3, 4]
