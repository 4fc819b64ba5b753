"""Scores against formulas computed here in another way, and against images whose order is known."""

import math

import numpy as np
import pytest
import torch

from qdiff_lib.evaluation import reference_images
from qdiff_lib.evaluation import scores as module


def moments(count, mean, covariance):
    """Rows whose sample mean and sample covariance are exactly those given."""
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((count, len(mean)))
    rows -= rows.mean(axis=0)
    white = rows @ np.linalg.inv(np.linalg.cholesky(np.cov(rows, rowvar=False))).T
    return torch.from_numpy(white @ np.linalg.cholesky(covariance).T + mean)


def root(matrix):
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values)) @ vectors.T


def test_frechet_distance_of_two_gaussians_is_the_closed_form():
    mean_a, mean_b = np.array([0.0, 1.0, 2.0]), np.array([1.0, -1.0, 2.5])
    cov_a = np.array([[2.0, 0.5, 0.1], [0.5, 1.0, -0.3], [0.1, -0.3, 3.0]])
    cov_b = np.array([[1.0, -0.4, 0.0], [-0.4, 2.0, 0.6], [0.0, 0.6, 0.5]])
    half = root(cov_a)
    expected = ((mean_a - mean_b) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root(half @ cov_b @ half))
    found = module.frechet_distance(moments(40, mean_a, cov_a), moments(70, mean_b, cov_b))
    assert found == pytest.approx(expected, rel=1e-9)


def test_equal_features_have_distance_zero():
    features = torch.randn(200, 16, generator=torch.Generator().manual_seed(0))
    assert module.frechet_distance(features, features) == pytest.approx(0, abs=1e-6)
    assert abs(module.kernel_distance(features, features)[0]) < 0.2


def test_kernel_distance_is_the_unbiased_mmd():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(30, 8, generator=generator), torch.randn(30, 8, generator=generator) + 0.5
    kernel = [((x.double() @ y.double().T) / 8 + 1) ** 3 for x, y in ((a, a), (b, b), (a, b))]
    within = sum((k.sum() - k.trace()) / (30 * 29) for k in kernel[:2])
    mean, std = module.kernel_distance(a, b, subsets=3)
    assert mean == pytest.approx((within - 2 * kernel[2].mean()).item(), rel=1e-9)
    assert std == pytest.approx(0, abs=1e-9)  # each subset is the whole set


@pytest.mark.parametrize(
    ("logits", "expected"),
    [
        pytest.param(100 * torch.eye(10).repeat(30, 1), 10, id="clear-and-varied"),
        pytest.param(100 * torch.eye(10)[:1].repeat(300, 1), 1, id="one-class"),
        pytest.param(torch.zeros(300, 10), 1, id="unclear"),
    ],
)
def test_inception_score_of_extremes(logits, expected):
    assert module.inception_score(logits, splits=1)[0] == pytest.approx(expected, rel=1e-6)


def test_inception_score_splits():
    logits = torch.randn(250, 10, generator=torch.Generator().manual_seed(0))
    assert module.inception_score(logits) == module.inception_score(logits, splits=2)
    assert math.isnan(module.inception_score(logits, splits=1)[1])
    with pytest.raises(ValueError, match="at most N splits"):
        module.inception_score(logits, splits=251)


@pytest.mark.parametrize(("a", "b"), [((1, 4), (9, 4)), ((9, 4), (9, 5)), ((9,), (9, 4))])
def test_features_that_cannot_be_compared(a, b):
    for distance in (module.frechet_distance, module.kernel_distance):
        with pytest.raises(ValueError, match="features_a is"):
            distance(torch.zeros(a), torch.zeros(b))


def test_real_images_score_near_the_floor_and_noise_far_from_it(capfd):
    order = torch.randperm(10_000, generator=torch.Generator().manual_seed(1))[:400]
    real = module.score(reference_images.test_images()[order])
    generator = torch.Generator().manual_seed(0)
    noise = module.score(torch.randint(0, 256, (400, 1, 32, 32), dtype=torch.uint8, generator=generator))
    assert (real.extractor, real.n) == ("fashion-classifier", 400)
    assert 0.5 * real.floor < real.frechet < 1.5 * real.floor and 0 < real.floor_std < real.floor
    assert noise.floor == real.floor and noise.frechet > 20 * noise.floor
    assert abs(real.kid) < 3 * real.kid_std < noise.kid
    assert 7 < real.inception_score <= 10 and noise.inception_score < 3
    assert capfd.readouterr() == ("", "")


def test_the_floor_falls_with_more_images():
    floors = [module.frechet_floor("fashion-classifier", n) for n in (100, 400, 5000)]
    assert floors[0][0] > 2 * floors[1][0] > 4 * floors[2][0] > 0
    assert 0 < floors[0][1] < floors[0][0] and math.isnan(floors[2][1])  # 5,000 images make one group


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_images(n):
    with pytest.raises(ValueError, match="at least 2"):
        module.score(reference_images.test_images()[:n])


def test_coloured_images_are_not_compared_with_grey_ones():
    with pytest.raises(ValueError, match="images have 3 channels, those of Fashion-MNIST have 1: compare"):
        module.score(reference_images.test_images()[:2].expand(-1, 3, -1, -1))


def test_unknown_extractor():
    with pytest.raises(ValueError, match="'fid'.*'fashion-classifier', 'inception'"):
        module.score(reference_images.test_images()[:2], extractor="fid")


def test_real_scores_are_those_of_the_floor(tmp_path):
    found = module.real_scores(400, folder=tmp_path)
    mean, spread = module.mean_and_std([scores.frechet for scores in found])
    assert len(found) == 5 and (mean, spread) == module.frechet_floor("fashion-classifier", 400)
    assert (mean, spread) == (found[0].floor, found[0].floor_std)
    assert abs(module.mean_and_std([scores.kid for scores in found])[0]) < 0.002
    assert 7 < found[0].inception_score < 10 and found[0].inception_score_std > 0
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2  # the reference, and the groups


@pytest.mark.parametrize("n", [1, 5001])
def test_real_groups_that_there_are_not(n):
    with pytest.raises(ValueError, match=f"n={n} must be from 2 to 5000"):
        module.real_scores(n)
