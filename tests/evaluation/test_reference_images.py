"""The shipped images and the reader of IDX files."""

import gzip

import pytest
import torch

from qdiff_lib.evaluation import reference_images


def test_images_and_labels_are_those_of_fashion_mnist():
    images, labels = reference_images.test_images(), reference_images.test_labels()
    assert images.shape == (10_000, 1, 32, 32) and images.dtype == torch.uint8
    assert labels.bincount().tolist() == [1000] * 10 and len(reference_images.CLASS_NAMES) == 10
    border = images.clone()
    border[:, :, 2:-2, 2:-2] = 0
    assert border.sum() == 0
    assert images.float().mean() == pytest.approx(73.147 * (28 / 32) ** 2, abs=0.01)


def test_read_idx_reads_shape_and_bytes(tmp_path):
    values = torch.arange(24, dtype=torch.uint8).reshape(2, 3, 4)
    header = b"\x00\x00\x08\x03" + b"".join(size.to_bytes(4, "big") for size in values.shape)
    (tmp_path / "a.gz").write_bytes(gzip.compress(header + values.numpy().tobytes()))
    assert torch.equal(reference_images.read_idx(tmp_path / "a.gz"), values)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x00\x00\x0d\x01\x00\x00\x00\x01\x00\x00\x00\x00", id="floats"),
        pytest.param(b"\x00\x00\x08\x03\x00\x00\x00\x02", id="header-cut"),
        pytest.param(b"\x00\x00\x08\x01\x00\x00\x00\x09abc", id="body-cut"),
    ],
)
def test_read_idx_refuses_other_files(tmp_path, content):
    (tmp_path / "a.gz").write_bytes(gzip.compress(content))
    with pytest.raises(ValueError, match="a.gz"):
        reference_images.read_idx(tmp_path / "a.gz")
