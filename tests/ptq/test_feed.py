"""Batches arrive in order and unchanged from every place, and each byte that is copied is counted."""

import pytest
import torch

from qdiff_lib.calibration.calibration_set import CalibrationSet, Shared
from qdiff_lib.ptq.activation_store import RowStore
from qdiff_lib.ptq.feed import Feed
from qdiff_lib.ptq.memory_budget import DEVICE, FILES, RAM, Budget
from qdiff_lib.ptq.replay import InputRows

N, BATCH, BATCHES = 10, 4, 7
ROW = 4 * 3 * 5
CPU, META = torch.device("cpu"), torch.device("meta")
BUDGETS = {DEVICE: Budget(0, 10**6), RAM: Budget(10**6), FILES: Budget(0)}


def draws():
    generator = torch.Generator().manual_seed(0)
    return torch.stack([torch.randperm(N, generator=generator)[:BATCH] for _ in range(BATCHES)])


def columns(store):
    """Rows in the store, an input of the network, one that is shared, and whole numbers."""
    values = torch.randn(N, 3, 5, generator=torch.Generator().manual_seed(1))
    rows = store.allocate(values.shape)
    rows[slice(None)] = values
    shared = Shared(torch.arange(6.0).view(2, 3), torch.arange(N) % 2)
    inputs = CalibrationSet(
        {"sample": values + 1, "text": shared, "step": torch.arange(N)}, torch.arange(N), {}
    )
    expected = [values, values + 1, shared.values[shared.index], torch.arange(N)]
    return [rows, *(InputRows(inputs, name) for name in inputs.inputs)], expected


@pytest.mark.parametrize("bits", [32, 16])
@pytest.mark.parametrize("place", BUDGETS)
def test_every_batch_has_its_rows(place, bits, tmp_path):
    store = RowStore(BUDGETS[place], tmp_path, bits)
    given, expected = columns(store)
    assert given[0].place == place
    expected[0] = expected[0].half().float() if bits == 16 else expected[0]
    order = draws()
    for i, (index, rows) in enumerate(Feed(given, CPU).batches(order)):
        assert torch.equal(index, order[i])
        for found, all_rows in zip(rows, expected, strict=True):
            assert found.dtype == all_rows.dtype and torch.equal(found, all_rows[index])
    assert i == BATCHES - 1


@pytest.mark.parametrize(("place", "each"), [(DEVICE, 0), (RAM, 0), (FILES, BATCH * ROW)])
def test_on_the_cpu_only_files_are_copied(place, each, tmp_path):
    """There RAM is the device's memory."""
    store = RowStore(BUDGETS[place], tmp_path)
    given, _ = columns(store)
    feed = Feed(given, CPU)
    assert len(list(feed.batches(draws()))) == BATCHES
    assert dict(feed.copied) == ({(FILES, RAM): BATCHES * each} if each else {})


@pytest.mark.parametrize("bits", [32, 16])
@pytest.mark.parametrize("place", BUDGETS)
def test_what_goes_to_another_device_is_counted(place, bits, tmp_path):
    """A device without memory stands for it. Rows that are there already are not copied."""
    budget = BUDGETS[place]
    store = RowStore(Budget(budget.ram, budget.device, META), tmp_path, bits)
    rows = store.allocate((N, 3, 5))
    if place != DEVICE:
        rows[slice(None)] = torch.ones(N, 3, 5)
    feed, each = Feed([rows], META), BATCHES * BATCH * ROW * bits // 32
    for _, (found,) in feed.batches(draws()):
        assert found.device == META and found.shape == (BATCH, 3, 5) and found.dtype == torch.float32
    expected = {DEVICE: {}, RAM: {(RAM, DEVICE): each}, FILES: {(FILES, RAM): each, (RAM, DEVICE): each}}
    assert dict(feed.copied) == expected[place]


def test_an_error_while_reading_ahead_is_raised(tmp_path):
    store = RowStore(BUDGETS[FILES], tmp_path)
    rows = store.allocate((N, 3, 5))
    order = draws()
    order[3, 0] = N
    seen = []
    with pytest.raises(IndexError):
        for index, _ in Feed([rows], CPU).batches(order):
            seen.append(index)
    assert len(seen) == 3


def test_the_thread_reads_one_batch_ahead_and_into_two_buffers(tmp_path):
    store = RowStore(BUDGETS[FILES], tmp_path)
    given, _ = columns(store)
    places = [rows[0].data_ptr() for _, rows in Feed(given[:1], CPU).batches(draws())]
    assert len(set(places)) == 2 and places == places[:2] * 3 + places[:1]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("place", BUDGETS)
def test_batches_on_a_gpu(place, tmp_path):
    """Each is read by a long kernel, so that the next copies overlap with it."""
    gpu, budget = torch.device("cuda:0"), BUDGETS[place]
    store = RowStore(Budget(budget.ram, budget.device, gpu), tmp_path)
    given, expected = columns(store)
    order = draws().repeat(20, 1)
    sums, busy = [], torch.randn(2000, 2000, device=gpu)
    for _, rows in Feed(given, gpu).batches(order):
        busy = (busy @ busy).tanh()
        sums.append([value.double().view(BATCH, -1).sum(1) for value in rows])
    for index, found in zip(order, sums, strict=True):
        for value, all_rows in zip(found, expected, strict=True):
            torch.testing.assert_close(value.cpu(), all_rows[index].double().view(BATCH, -1).sum(1))
