"""The feature extractor: shapes, inputs, and the accuracy that its card states."""

import json

import pytest
import torch

from qdiff_lib.evaluation import reference_images
from qdiff_lib.evaluation.classifier import FashionClassifier, load_classifier
from qdiff_lib.io import shipped_data


@pytest.fixture(scope="module")
def model():
    return load_classifier(shipped_data.data_folder() / "models" / "fashion-classifier")


def test_size_and_shapes(model):
    assert 300_000 < sum(p.numel() for p in model.parameters()) < 600_000
    features, logits = model(torch.zeros(3, 1, 32, 32, dtype=torch.uint8))
    assert features.shape == (3, 128) and logits.shape == (3, 10)
    assert not model.training and not features.requires_grad


def test_accuracy_is_that_of_the_card(model):
    images, labels = reference_images.test_images()[:1000], reference_images.test_labels()[:1000]
    predicted = torch.cat([model(part)[1].argmax(dim=1) for part in images.split(500)])
    accuracy = 100 * (predicted == labels).double().mean().item()
    folder = shipped_data.data_folder() / "models" / "fashion-classifier"
    stated = json.loads((folder / "config.json").read_text())["test_accuracy"]
    assert stated >= 92 and f"{stated:.2f} %" in (folder / "README.md").read_text()
    assert accuracy == pytest.approx(stated, abs=3)  # 1,000 of 10,000 images: three standard errors


def test_grey_and_colour_and_batch_size_make_no_difference(model):
    images = reference_images.test_images()[:8]
    features = model(images)[0]
    torch.testing.assert_close(model(images.expand(-1, 3, -1, -1))[0], features)
    torch.testing.assert_close(model(images[:1])[0], features[:1], rtol=1e-4, atol=1e-5)


def test_other_sizes_are_resized(model):
    images = reference_images.test_images()[:64]
    doubled = images.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    agree = (model(doubled)[1].argmax(dim=1) == model(images)[1].argmax(dim=1)).float().mean()
    assert agree > 0.9


@pytest.mark.parametrize(
    "images",
    [
        pytest.param(torch.zeros(2, 1, 32, 32), id="float"),
        pytest.param(torch.zeros(2, 2, 32, 32, dtype=torch.uint8), id="two-channels"),
        pytest.param(torch.zeros(1, 32, 32, dtype=torch.uint8), id="three-dimensions"),
    ],
)
def test_wrong_images_are_refused(images):
    with pytest.raises(ValueError, match="images is"):
        FashionClassifier()(images)
