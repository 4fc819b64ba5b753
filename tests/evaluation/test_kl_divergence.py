"""KL divergence from histograms, against sums by hand and against known distributions."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qdiff_lib.evaluation import kl_divergence


def test_kl_divergence_of_two_gaussians():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(200_000, generator=generator), torch.randn(200_000, generator=generator) * 1.5 + 0.5
    expected = math.log(1.5) + (1 + 0.25) / (2 * 1.5**2) - 0.5
    assert kl_divergence.kl_divergence(a, b) == pytest.approx(expected, rel=0.03)
    assert kl_divergence.kl_divergence(a, b) != pytest.approx(kl_divergence.kl_divergence(b, a), rel=0.1)
    assert kl_divergence.kl_divergence(a, a) == 0
    assert kl_divergence.kl_divergence(a.view(100, -1), a[:100_000]) < 0.01


def test_kl_divergence_of_two_discrete_distributions():
    p, q = torch.tensor([0.0] * 6 + [1.0] * 2), torch.tensor([0.0] * 1 + [1.0] * 3)
    closed = 0.75 * math.log(0.75 / 0.25) + 0.25 * math.log(0.25 / 0.75)
    assert kl_divergence.kl_divergence(p, q, bins=2, pseudocount=1e-9) == pytest.approx(closed, rel=1e-6)
    share, other = 6.5 / 9, 1.5 / 5  # half a count for each of the two bins
    smoothed = share * math.log(share / other) + (1 - share) * math.log((1 - share) / (1 - other))
    assert kl_divergence.kl_divergence(p, q, bins=2) == pytest.approx(smoothed, rel=1e-9)


def test_histograms_are_counted_in_parts(monkeypatch):
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0)).clamp(-4, 4)
    whole = kl_divergence.histogram(values, 16, -4.0, 4.0)
    monkeypatch.setattr(kl_divergence, "COUNTED", 7)
    assert torch.equal(kl_divergence.histogram(values, 16, -4.0, 4.0), whole) and whole.sum() == 1000


@given(
    p=st.lists(st.integers(0, 10**6), min_size=5, max_size=5),
    q=st.lists(st.integers(0, 10**6), min_size=5, max_size=5),
)
@settings(max_examples=50, deadline=None, derandomize=True)
def test_kl_of_counts_is_not_negative(p, q):
    p, q = (torch.tensor(counts, dtype=torch.float64) for counts in (p, q))
    # Each of the 5 logarithms errs by 2^-52 and more by the roundings of its ratio: 4 of 2^-53 each.
    assert kl_divergence.kl_of_counts(p, q) >= -5 * 2**-51
    assert kl_divergence.kl_of_counts(p, p) == 0


def test_kl_divergence_of_disjoint_values_is_finite_and_of_constants_zero():
    assert 1 < kl_divergence.kl_divergence(torch.zeros(100), torch.ones(100)) < 10
    assert kl_divergence.kl_divergence(torch.full((9,), 5.0), torch.full((9,), 5.0)) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param((torch.ones(0), torch.ones(2)), id="empty"),
        pytest.param((torch.ones(2), torch.tensor([1.0, math.nan])), id="nan"),
        pytest.param((torch.ones(2), torch.ones(2), 0), id="bins"),
        pytest.param((torch.ones(2), torch.ones(2), 8, 0.0), id="pseudocount"),
    ],
)
def test_kl_divergence_of_wrong_arguments(arguments):
    with pytest.raises(ValueError, match="must"):
        kl_divergence.kl_divergence(*arguments)
