"""How good samples are (Frechet and kernel distance, inception score) and how far quantization moved them.

The scores are torch-fidelity's own functions on features that are extracted once. With the extractor
"inception" they are the FID, KID and IS of the literature; with "fashion-classifier", which needs no network,
they are the same formulas in another feature space, and comparable with each other alone.
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

from . import reference_images
from .features import extractor_named, stored_features

TEST_IMAGES = 10_000
REFERENCE_IMAGES = 5_000  # real images that every set is compared with; the other 5,000 give the floor
FLOOR_GROUPS = 5  # one group of real images alone can be 40 % off
KID_SUBSET_SIZE = 256  # of a score: KID's mean does not depend on it, its time grows with the square
SPLIT_SEED = 2023


def frechet_distance(features_a: Tensor, features_b: Tensor) -> float:
    """``|mu_a - mu_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))`` of features (N, D) and (M, D).

    With Inception's "2048" features this is FID. It is biased: few samples make it too large, for two sets of
    real images as well, and much so unless N is far above D. Compare values of one N only, beside the floor.
    Raises ValueError for fewer than 2 rows or different widths.
    """
    check_features(features_a, features_b)
    a, b = (fid_features_to_statistics(values.double()) for values in (features_a, features_b))
    return fid_statistics_to_metric(a, b, verbose=False)[KEY_METRIC_FID]


def kernel_distance(
    features_a: Tensor, features_b: Tensor, subsets: int = 100, subset_size: int = 1000
) -> tuple[float, float]:
    """Mean and standard deviation of the unbiased squared MMD (KID) over random subsets.

    Kernel ``(x.y / D + 1)^3``. A subset has ``subset_size`` rows of each side, fewer where a side has fewer.
    Values slightly below 0 are right for equal distributions. Raises as ``frechet_distance`` does.
    """
    check_features(features_a, features_b)
    size = min(subset_size, len(features_a), len(features_b))
    a, b = features_a.double(), features_b.double()
    found = kid_features_to_metric(a, b, kid_subsets=subsets, kid_subset_size=size, verbose=False)
    return found[KEY_METRIC_KID_MEAN], found[KEY_METRIC_KID_STD]


def inception_score(logits: Tensor, splits: int | None = None) -> tuple[float, float]:
    """Mean and standard deviation over splits of ``exp E[KL(p(y|x) || p(y))]`` of logits (N, K); 1 to K.

    ``splits=None`` takes one split for every 100 rows, at least 1 and at most the usual 10; the deviation of
    one split is nan. Raises ValueError when a split would be empty.
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
    """What ``score`` found; lower is better for ``frechet`` and ``kid``, higher for ``inception_score``.

    ``frechet`` and ``kid`` are FID and KID for the extractor "inception" alone. ``floor`` is the mean Frechet
    distance of groups of ``n`` real images and ``floor_std`` their spread: two scores that differ by less do
    not differ (nan for one group); ``real_scores`` has the other scores of these groups. At small n look at
    ``kid`` first: the Frechet distance is biased there, KID is not. ``kid_std`` is that of KID's subsets,
    ``inception_score_std`` that of the splits (nan for one). The inception score is nan where the extractor
    gives no logits.
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
    """Compare generated uint8 images (N, 1, H, W) with the shipped test images.

    A fixed shuffle halves the 10,000 test images. The first 5,000 are the reference of every score. The floor
    compares disjoint groups of n of the others (up to five; all of them where n is larger) with the same
    reference: what a perfect model would get at this n. Real images' features are kept for the process.

    Args:
        extractor: "fashion-classifier" or "inception"; ``device``: where it runs.
        folder: where the features of all images are kept, so that they are extracted once; None: nowhere.

    Raises:
        ValueError: fewer than 2 images, a wrong type or shape, an unknown extractor, no Inception weights.
    """
    if len(images) < 2:
        raise ValueError(
            f"images has {len(images)} images: give at least 2, and for a useful score 128 or more"
        )
    if images.ndim == 4:
        reference_images.check_channels(images.shape[1])
    network = extractor_named(extractor).to(device)
    return compared(stored_features(images, network, folder), extractor, folder)


def real_scores(n: int, extractor: str = "fashion-classifier", folder: Path | None = None) -> list[Scores]:
    """The scores of each group of ``n`` real images that the floor is made of: a perfect model's.

    Raises ValueError for n below 2 or above 5,000. ``folder``: as in ``score``.
    """
    if not 2 <= n <= TEST_IMAGES - REFERENCE_IMAGES:
        raise ValueError(f"n={n!r} must be from 2 to {TEST_IMAGES - REFERENCE_IMAGES}")
    groups = real_groups(extractor, n, folder)
    return [compared(group, extractor, folder) for group in groups]


def compared(found: dict[str, Tensor], extractor: str, folder: Path | None) -> Scores:
    """The scores of images whose features are ``found``."""
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
    """The names of the extractor's features for distances and for the inception score."""
    network = extractor_named(extractor)
    return [network.get_default_feature_layer_for_metric(metric) for metric in ("fid", "isc")]


@cache
def real_features(extractor: str, start: int, stop: int, folder: Path | None = None) -> dict[str, Tensor]:
    """The features, each (stop - start, D), of a slice of the shuffled test images."""
    order = torch.randperm(TEST_IMAGES, generator=torch.Generator().manual_seed(SPLIT_SEED))
    return stored_features(
        reference_images.test_images()[order[start:stop]], extractor_named(extractor), folder
    )


def real_groups(extractor: str, n: int, folder: Path | None) -> list[dict[str, Tensor]]:
    """The features of up to five disjoint groups of n real images that the reference does not have."""
    groups = min(FLOOR_GROUPS, (TEST_IMAGES - REFERENCE_IMAGES) // n)
    real = real_features(extractor, REFERENCE_IMAGES, REFERENCE_IMAGES + groups * n, folder)
    return [{name: values[i * n : (i + 1) * n] for name, values in real.items()} for i in range(groups)]


@cache
def frechet_floor(extractor: str, n: int, folder: Path | None = None) -> tuple[float, float]:
    """Mean and standard deviation of groups of n real images' distances from the reference; n up to 5,000."""
    layer = default_layers(extractor)[0]
    reference = real_features(extractor, 0, REFERENCE_IMAGES, folder)[layer]
    distances = [frechet_distance(group[layer], reference) for group in real_groups(extractor, n, folder)]
    return mean_and_std(distances)


def mean_and_std(values: list[float]) -> tuple[float, float]:
    """Mean and standard deviation (of a sample, n - 1); the latter is nan for one value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else math.nan
