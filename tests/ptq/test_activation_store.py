"""Rows within a budget: bit-exact in RAM and in files, and no file is left behind."""

import random
import subprocess
import sys

import pytest
import torch

from qdiff_lib.ptq import activation_store
from qdiff_lib.ptq.activation_store import RowStore
from qdiff_lib.ptq.memory_budget import DEVICE, FILES, PLACES, RAM, Budget

ROW = 4 * 3 * 5  # bytes of a (3, 5) row


def files_in(tmp_path):
    return [path for path in tmp_path.rglob("*") if path.is_file()]


def strange_bits(shape, seed):
    """Random bit patterns: NaN of every payload, infinities, denormals and negative zeros among them."""
    generator = torch.Generator().manual_seed(seed)
    whole = torch.randint(-(2**31), 2**31, shape, generator=generator).to(torch.int32)
    return whole.view(torch.float32)


def same_bits(a, b):
    return torch.equal(a.view(torch.int32), b.view(torch.int32))


@pytest.mark.parametrize("device", [0, 30 * ROW], ids=["ram", "device"])
@pytest.mark.parametrize("seed", range(3))
def test_the_budget_is_never_exceeded_and_every_bit_comes_back(tmp_path, seed, device):
    chance = random.Random(seed)
    budget = 20 * ROW
    store = RowStore(Budget(budget, device), tmp_path)
    alive, seen = [], set()
    for step in range(60):
        if alive and chance.random() < 0.4:
            rows, _ = alive.pop(chance.randrange(len(alive)))
            store.free(rows)
        else:
            n = chance.randrange(1, 25)
            rows, values = store.allocate((n, 3, 5)), strange_bits((n, 3, 5), step)
            cut = n // 2
            rows[slice(0, cut)], rows[slice(cut, n)] = values[:cut], values[cut:]
            alive.append((rows, values))
        held = {
            p: sum(rows.data.nbytes for rows, _ in alive if rows.place == p) for p in PLACES if p != FILES
        }
        assert store.ram_bytes == held[RAM] <= budget and store.used(DEVICE) == held[DEVICE] <= device
        on_disk = [rows for rows, _ in alive if rows.path is not None]
        assert len(files_in(tmp_path)) == len(on_disk)
        seen |= {rows.place for rows, _ in alive}
        for rows, values in alive:
            assert same_bits(rows[slice(0, len(values))], values)
    assert seen == ({DEVICE, RAM, FILES} if device else {RAM, FILES})
    store.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("budget", [0, 10 * ROW], ids=["file", "ram"])
@pytest.mark.parametrize(
    "index",
    [slice(2, 5), slice(0, 0), slice(None), torch.tensor([7, 0, 7]), torch.tensor([], dtype=torch.long)],
    ids=["slice", "empty-slice", "all", "tensor", "empty-tensor"],
)
def test_index_by_slice_and_by_tensor(tmp_path, budget, index):
    values = strange_bits((8, 3, 5), 0)
    store = RowStore(Budget(budget), tmp_path)  # its files live as long as it does
    rows = store.allocate(values.shape)
    assert (rows.path is None) == (budget > 0)
    rows[slice(0, 8)] = values
    assert rows.shape == (8, 3, 5)
    assert same_bits(rows[index], values[index])


@pytest.mark.parametrize("budget", [0, 10 * ROW], ids=["file", "ram"])
@pytest.mark.parametrize("index", [slice(0, 4), torch.arange(4)], ids=["slice", "tensor"])
def test_what_is_read_is_a_copy(tmp_path, budget, index):
    store = RowStore(Budget(budget), tmp_path)
    rows = store.allocate((4, 3, 5))
    rows[slice(0, 4)] = torch.ones(4, 3, 5)
    rows[index].zero_()
    assert rows[slice(0, 4)].eq(1).all()


def test_the_oldest_rows_move_to_files_first(tmp_path):
    store = RowStore(Budget(3 * ROW), tmp_path)
    first, second, third = (store.allocate((1, 3, 5)) for _ in range(3))
    second[slice(0, 1)] = torch.full((1, 3, 5), 2.0)
    assert not files_in(tmp_path)
    fourth = store.allocate((2, 3, 5))
    assert [rows.path is not None for rows in (first, second, third, fourth)] == [True, True, False, False]
    assert second[slice(0, 1)].eq(2).all()


def test_rows_go_from_the_device_to_ram_and_from_there_to_files(tmp_path):
    store = RowStore(Budget(2 * ROW, ROW), tmp_path)
    made = []
    for value in range(4):
        made.append(store.allocate((1, 3, 5)))
        made[-1][slice(0, 1)] = torch.full((1, 3, 5), float(value))
    assert [rows.place for rows in made] == [FILES, RAM, RAM, DEVICE]
    assert all(rows[slice(0, 1)].eq(value).all() for value, rows in enumerate(made))
    store.free(made.pop())
    assert [rows.place for rows in made] == [FILES, RAM, RAM] and store.allocate((1, 3, 5)).place == DEVICE


def test_rows_too_large_for_the_device_do_not_disturb_it(tmp_path):
    store = RowStore(Budget(3 * ROW, 2 * ROW), tmp_path)
    small, large, larger = (store.allocate((n, 3, 5)) for n in (2, 3, 4))
    assert [rows.place for rows in (small, large, larger)] == [DEVICE, RAM, FILES]


def test_a_file_is_mapped_again_after_many_bytes(tmp_path, monkeypatch):
    """Its pages are given back. What is read does not depend on it, also where rows are written meanwhile."""
    monkeypatch.setattr(activation_store, "STAYS_MAPPED", 5 * ROW)
    store, mappings = RowStore(Budget(0), tmp_path), []
    rows = store.allocate((4, 3, 5))
    for value in range(4):
        rows[slice(None)] = torch.full((1, 3, 5), float(value))
        assert rows[torch.tensor([0, 3])].eq(value).all() and rows[slice(1, 2)].eq(value).all()
        mappings.append(rows.mapped)
    assert [mapped is mappings[0] for mapped in mappings] == [True, True, False, False]


def test_rows_above_the_whole_budget_move_nobody(tmp_path):
    store = RowStore(Budget(3 * ROW), tmp_path)
    small = store.allocate((3, 3, 5))
    large = store.allocate((4, 3, 5))
    assert small.path is None and large.path is not None and store.ram_bytes == 3 * ROW
    assert large.path.stat().st_size == 4 * ROW


def test_freed_room_is_used_again(tmp_path):
    store = RowStore(Budget(2 * ROW), tmp_path)
    first = store.allocate((2, 3, 5))
    store.free(first)
    assert store.ram_bytes == 0
    assert store.allocate((2, 3, 5)).path is None and not files_in(tmp_path)


def test_free_and_close_remove_the_files(tmp_path):
    store = RowStore(Budget(0), tmp_path)
    first, second = store.allocate((2, 3, 5)), store.allocate((2, 3, 5))
    assert len(files_in(tmp_path)) == 2
    store.free(first)
    assert files_in(tmp_path) == [second.path]
    store.close()
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_an_error_and_the_rows_in_ram_stay(tmp_path):
    """In a process of its own, with a limit on files: writing through a mapping would kill it (SIGBUS)."""
    resource = pytest.importorskip("resource")
    program = FULL.format(folder=str(tmp_path))
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))  # noqa: E731
    ended = subprocess.run([sys.executable, "-c", program], preexec_fn=limit, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, 3 * "File too large\n"), ended.stderr
    assert not list(tmp_path.iterdir())


FULL = """
import torch
from qdiff_lib.ptq.activation_store import RowStore
from qdiff_lib.ptq.memory_budget import Budget
for change in ("allocate", "write", "move"):
    store = RowStore(Budget(8000), {folder!r})
    first = store.allocate((2, 1000))
    first[slice(0, 2)] = torch.ones(2, 1000)
    try:
        if change == "allocate":
            store.allocate((3, 1000))
        if change == "write":
            rows = store.allocate((3, 500))
            rows[slice(0, 3)] = torch.ones(3, 500)
            rows.shape = (9, 500)  # beyond the limit, as if others had filled the disk
            rows[slice(3, 9)] = torch.ones(6, 500)
        if change == "move":
            store.allocate((1, 1000))
    except OSError as error:
        print(error.strerror)
    assert change == "write" or first[slice(0, 2)].eq(1).all()
    store.close()
"""


def test_rows_in_a_file_are_written_as_rows_in_ram_are(tmp_path):
    """Steps at both ends, an open end, one row for all, another type."""
    found = []
    for budget in (0, 10**6):
        store = RowStore(Budget(budget), tmp_path)  # its files live as long as it does
        rows = store.allocate((8, 3, 5))
        rows[slice(None)] = torch.zeros(1)
        rows[slice(6, None)] = strange_bits((2, 3, 5), 0)
        rows[slice(-4, -2)] = torch.arange(15).reshape(1, 3, 5)
        rows[slice(0, 2)] = torch.ones(2, 3, 5, dtype=torch.float16)
        rows[slice(2, 4)] = torch.ones(5, 3, 2).permute(2, 1, 0) / 3  # not contiguous
        found.append(rows[slice(None)])
    assert same_bits(*found)


@pytest.mark.parametrize("budget", [0, 10_000], ids=["file", "ram"])
def test_half_precision_takes_half_of_the_bytes(budget, tmp_path):
    store = RowStore(Budget(budget), tmp_path, bits=16)
    rows, values = store.allocate((8, 5)), torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    rows[slice(0, 8)] = values
    assert torch.equal(rows[slice(2, 6)], values[2:6].half().float())
    assert torch.equal(rows[torch.tensor([7, 0])], values[[7, 0]].half().float())
    assert (store.ram_bytes or rows.path.stat().st_size) == 2 * 8 * 5
    with pytest.raises(ValueError, match="too large for cache_bits=16"):
        rows[slice(0, 1)] = torch.full((1, 5), 1e5)
    store.close()
