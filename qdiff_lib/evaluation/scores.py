"""Scores of samples against real images: Frechet distance, kernel distance and inception score.

The scores are torch-fidelity's functions; features are extracted only once. With the extractor "inception"
the scores are the FID, KID and IS of the literature. With "fashion-classifier", which needs no internet
connection, they are the same formulas on other features. These scores can be compared only with each other.
"""

import math
import statistics
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

from ..utils.typed import check_type
from . import reference_images
from .features import extractor_named, stored_features

TEST_IMAGES = 10_000
REFERENCE_IMAGES = 5_000  # real images that all samples are compared with; the other 5,000 give the floor
FLOOR_GROUPS = 5  # the floor from one group of real images can be wrong by 40 %
KID_SUBSET_SIZE = 256  # KID's mean does not depend on it; the time grows with its square
SPLIT_SEED = 2023


def frechet_distance(features_a: Tensor, features_b: Tensor) -> float:
    """The Frechet distance of features (N, D) and (M, D); with Inception's "2048" features it is FID.

    ``|mu_a - mu_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))``, with means mu and covariances C.

    The distance is biased: with few samples it is too large, even between two sets of real images. The bias
    is large unless N is much larger than D. Compare only distances at the same N, and compare with the floor.

    Raises ValueError for fewer than 2 rows or different D.
    """
    check_features(features_a, features_b)
    a, b = (fid_features_to_statistics(values.double()) for values in (features_a, features_b))
    return fid_statistics_to_metric(a, b, verbose=False)[KEY_METRIC_FID]


def kernel_distance(
    features_a: Tensor, features_b: Tensor, subsets: int = 100, subset_size: int = 1000
) -> tuple[float, float]:
    """The kernel distance (KID) of features (N, D) and (M, D): mean and standard deviation over subsets.

    This is the unbiased estimate of the squared MMD with the kernel ``(x.y / D + 1)^3``. For equal
    distributions it can be slightly negative.

    subsets: number of random subsets. subset_size: rows of each side in a subset; if a side has fewer rows,
    the subsets have as many as that side. Raises ValueError as ``frechet_distance`` does.
    """
    check_features(features_a, features_b)
    size = min(subset_size, len(features_a), len(features_b))
    a, b = features_a.double(), features_b.double()
    found = kid_features_to_metric(a, b, kid_subsets=subsets, kid_subset_size=size, verbose=False)
    return found[KEY_METRIC_KID_MEAN], found[KEY_METRIC_KID_STD]


def inception_score(logits: Tensor, splits: int | None = None) -> tuple[float, float]:
    """The inception score of logits (N, K): mean and standard deviation over splits of the rows.

    The score is ``exp E[KL(p(y|x) || p(y))]``, from 1 to K. splits: None is one split for every 100 rows, at
    least 1 and at most 10, the usual number. With one split the standard deviation is nan.

    Raises ValueError for logits of another shape, or if a split would be empty.
    """
    splits = max(1, min(10, len(logits) // 100)) if splits is None else splits
    if logits.ndim != 2 or not 1 <= splits <= len(logits):
        raise ValueError(f"logits is {tuple(logits.shape)}, splits={splits}: give (N, K), at most N splits")
    found = isc_features_to_metric(logits, splits)
    return found[KEY_METRIC_ISC_MEAN], found[KEY_METRIC_ISC_STD] if splits > 1 else math.nan


def check_features(features_a: Tensor, features_b: Tensor) -> None:
    """Raise ValueError unless both are (at least 2, D) with the same D."""
    a, b = tuple(features_a.shape), tuple(features_b.shape)
    if len(a) != 2 or len(b) != 2 or a[1] != b[1] or min(a[0], b[0]) < 2:
        raise ValueError(f"features_a is {a}, features_b is {b}: give (N, D) and (M, D), N and M at least 2")


@dataclass(frozen=True)
class Scores:
    """The result of ``score``.

    n: number of images. frechet, kid: the Frechet and the kernel distance, lower is better; they are FID and
    KID only with the extractor "inception". At small n look at ``kid`` first: KID is not biased, the Frechet
    distance is. kid_std: standard deviation over KID's subsets. inception_score: higher is better; nan if the
    extractor has no logits. inception_score_std: standard deviation over splits; nan for one split.

    floor, floor_std: mean and standard deviation of the Frechet distances of groups of n real images; the
    second is nan for one group. If two Frechet distances differ by less than ``floor_std``, treat them as
    equal. ``real_scores`` gives the other scores of these groups.
    """

    extractor: str
    n: int
    frechet: float
    kid: float
    kid_std: float
    inception_score: float
    inception_score_std: float
    floor: float
    floor_std: float


def score(
    images: Tensor, extractor: str = "fashion-classifier", device: str = "cpu", folder: Path | None = None
) -> Scores:
    """Compare generated images with the shipped test images (metrics of Q-Diffusion, section 4).

    The 10,000 test images are shuffled with a fixed seed. The first 5,000 are the reference of every score.
    The other 5,000 give the floor, which is the score of a perfect model at this n: up to five disjoint
    groups of n of them are compared with the same reference. For n above 5,000 it is one group of 5,000. The
    features of real images are kept in memory.

    Args:
        images: uint8, (N, 1, H, W), values 0 to 255.
        extractor: "fashion-classifier" or "inception".
        device: the torch device on which the extractor runs.
        folder: where the features of all images are kept, so that they are extracted once; None: nowhere.

    Raises:
        ValueError: fewer than 2 images, a wrong type or shape, an unknown extractor, no Inception weights.
    """
    check_type("images", images, Tensor, "a tensor, such as sample(...).images")
    if len(images) < 2:
        raise ValueError(
            f"images has {len(images)} images: give at least 2, and for a useful score 128 or more"
        )
    if images.ndim == 4:
        reference_images.check_channels(images.shape[1])
    network = extractor_named(extractor).to(device)
    return compared(stored_features(images, network, folder), extractor, folder)


def real_scores(n: int, extractor: str = "fashion-classifier", folder: Path | None = None) -> list[Scores]:
    """The scores of each group of ``n`` real images in the floor, which are the scores of a perfect model.

    extractor, folder: as in ``score``. Raises ValueError for n below 2 or above 5,000.
    """
    if not 2 <= n <= TEST_IMAGES - REFERENCE_IMAGES:
        raise ValueError(f"n={n!r} must be from 2 to {TEST_IMAGES - REFERENCE_IMAGES}")
    groups = real_groups(extractor, n, folder)
    return [compared(group, extractor, folder) for group in groups]


def compared(found: dict[str, Tensor], extractor: str, folder: Path | None) -> Scores:
    """The scores of images; ``found``: their features by name, each (N, D)."""
    layer, logits = default_layers(extractor)
    reference = real_features(extractor, 0, REFERENCE_IMAGES, folder)[layer]
    n = len(found[layer])
    floor, floor_std = frechet_floor(extractor, min(n, TEST_IMAGES - REFERENCE_IMAGES), folder)
    kid, kid_std = kernel_distance(found[layer], reference, subset_size=KID_SUBSET_SIZE)
    isc, isc_std = inception_score(found[logits]) if logits in found else (math.nan, math.nan)
    return Scores(
        extractor=extractor,
        n=n,
        frechet=frechet_distance(found[layer], reference),
        kid=kid,
        kid_std=kid_std,
        inception_score=isc,
        inception_score_std=isc_std,
        floor=floor,
        floor_std=floor_std,
    )


def default_layers(extractor: str) -> list[str]:
    """The names of two features of the extractor: for distances, and for the inception score."""
    network = extractor_named(extractor)
    return [network.get_default_feature_layer_for_metric(metric) for metric in ("fid", "isc")]


@cache
def real_features(extractor: str, start: int, stop: int, folder: Path | None = None) -> dict[str, Tensor]:
    """The features of the shuffled test images from ``start`` to ``stop``, by name: (stop - start, D)."""
    order = torch.randperm(TEST_IMAGES, generator=torch.Generator().manual_seed(SPLIT_SEED))
    return stored_features(
        reference_images.test_images()[order[start:stop]], extractor_named(extractor), folder
    )


def real_groups(extractor: str, n: int, folder: Path | None) -> list[dict[str, Tensor]]:
    """The features of up to five disjoint groups of n real images that are not in the reference."""
    groups = min(FLOOR_GROUPS, (TEST_IMAGES - REFERENCE_IMAGES) // n)
    real = real_features(extractor, REFERENCE_IMAGES, REFERENCE_IMAGES + groups * n, folder)
    return [{name: values[i * n : (i + 1) * n] for name, values in real.items()} for i in range(groups)]


@cache
def frechet_floor(extractor: str, n: int, folder: Path | None = None) -> tuple[float, float]:
    """Mean and standard deviation of the Frechet distances of groups of n real images; n is at most 5,000."""
    layer = default_layers(extractor)[0]
    reference = real_features(extractor, 0, REFERENCE_IMAGES, folder)[layer]
    distances = [frechet_distance(group[layer], reference) for group in real_groups(extractor, n, folder)]
    return mean_and_std(distances)


def mean_and_std(values: list[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (divisor n - 1) of n values; the second is nan for one value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else math.nan
