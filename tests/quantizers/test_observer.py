"""Observers: a bounded sample that holds the extremes of each batch."""

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from qdiff_lib.quantizers.grid import (
    ALLOWED_BITS,
    Grid,
)
from qdiff_lib.quantizers.observer import ActivationObserver
from qdiff_lib.quantizers.range_finders import (
    min_max,
)

some = settings(max_examples=40, deadline=None, derandomize=True)
grids = st.builds(Grid, st.sampled_from(ALLOWED_BITS), st.booleans())
seeds = st.integers(0, 2**32 - 1)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


batches = st.lists(st.integers(1, 40), min_size=1, max_size=6)


def fill(sizes, per_batch, seed):
    """An observer that has seen batches of these sizes, and the batches."""
    generator = seeded(seed)
    seen = [torch.randn(size, 2, generator=generator) * 10**i for i, size in enumerate(sizes)]
    observer = ActivationObserver(seeded(seed), per_batch)
    for batch in seen:
        observer.add(batch)
    return observer, torch.cat(seen)


@given(sizes=batches, per_batch=st.integers(0, 20), seed=seeds, grid=grids)
@some
def test_min_max_of_an_observer_is_that_of_all_batches(sizes, per_batch, seed, grid):
    observer, seen = fill(sizes, per_batch, seed)
    found, expected = min_max(observer.values(), grid), min_max(seen, grid)
    assert found.scale.item() == expected.scale.item()
    assert found.zero_point.item() == expected.zero_point.item()


@given(sizes=batches, per_batch=st.integers(0, 20), seed=seeds)
@some
def test_observer_is_bounded_drawn_from_its_batches_and_repeatable(sizes, per_batch, seed):
    observer, seen = fill(sizes, per_batch, seed)
    values = observer.values()
    assert values.shape == (sum(min(per_batch, 2 * size) + 2 for size in sizes),)
    assert torch.isin(values, seen).all()
    assert torch.equal(values, fill(sizes, per_batch, seed)[0].values())


@given(seed=seeds, other=seeds)
@some
def test_observer_follows_its_generator(seed, other):
    assume(seed != other)
    samples = []
    for s in (seed, other):
        observer = ActivationObserver(seeded(s), 100)
        observer.add(torch.arange(1000.0))
        samples.append(observer.values())
    assert not torch.equal(*samples)


def test_observer_draws_all_over_its_batch():
    # The mean of 5,000 draws from 0 to 999 is nearly normal, with deviation 289 / sqrt(5000) = 4.1.
    observer = ActivationObserver(seeded(0), 5000)
    observer.add(torch.arange(1000.0).repeat(5).view(50, 100))
    values = observer.values()
    assert abs(values[:-2].mean() - 499.5) < 5 * 4.1
    assert len(values.unique()) > 900  # 1000 (1 - e^-5) = 993 are expected


def test_observer_keeps_no_graph():
    observer = ActivationObserver(seeded(0), 4)
    observer.add(torch.ones(8, requires_grad=True) * 2)
    assert not observer.values().requires_grad
