"""Recorded results say where they come from."""

import mmap
import re
import subprocess

import psutil
import pytest

from qdiff_lib.utils import provenance as module


def test_every_field_says_something():
    found = module.provenance("make demo")
    assert found["command"] == "make demo"
    assert all(found[name] for name in ("machine", "memory_gib", "torch", "python", "date"))
    assert re.search(r"\b(1 thread|\d+ threads)$", found["machine"])


@pytest.mark.parametrize(
    "has, ending",
    [({"avx2": True}, " with avx2"), ({"avx2": True, "avx512_vnni": True}, " with avx512_vnni"), ({}, "")],
)
def test_the_processor_is_named_with_what_speeds_up_integers(monkeypatch, has, ending):
    plain = module.processor().partition(" with ")[0]
    monkeypatch.setattr(module.torch.cpu, "get_capabilities", lambda: has)
    assert module.processor() == plain + ending


@pytest.mark.parametrize(
    "error", [OSError(), subprocess.CalledProcessError(128, "git")], ids=["no-git", "no-repo"]
)
def test_commit_is_none_outside_of_git(monkeypatch, error):
    def fails(*arguments):
        raise error

    monkeypatch.setattr(module, "_git", fails)
    assert module.commit() is None


def test_commit_says_when_the_library_was_changed(monkeypatch):
    answers = {"rev-parse": "abc1234", "status": " M qdiff_lib/grid.py"}
    monkeypatch.setattr(module, "_git", lambda *arguments: answers[arguments[0]])
    assert module.commit() == "abc1234+changes"


def test_the_peak_of_memory_stays_when_memory_is_given_back():
    block = mmap.mmap(-1, 200 * 2**20)  # not from malloc, which may keep what is freed
    for page in range(0, len(block), mmap.PAGESIZE):
        block[page] = 1
    held = psutil.Process().memory_info().rss
    block.close()
    assert psutil.Process().memory_info().rss < held - 100 * 2**20
    # Linux counts pages in batches of each processor: the mark is exact to about 1 MB.
    assert module.peak_memory() > held - 2**21
    assert psutil.Process().memory_info().rss <= module.peak_memory() + 2**21
