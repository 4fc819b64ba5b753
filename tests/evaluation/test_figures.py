"""Pictures of images: grey and RGB only."""

import pytest
import torch

from qdiff_lib.evaluation.figures import check_drawable, image_grid


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("n", [1, 5])
def test_grey_and_rgb_images_are_drawn(channels, n):
    images = torch.arange(n, dtype=torch.uint8).reshape(n, 1, 1, 1).expand(n, channels, 4, 4)
    picture = image_grid(images, columns=5, zoom=1)
    assert picture.size == (5 * n - 1, 4) and picture.mode == ("L" if channels == 1 else "RGB")


@pytest.mark.parametrize("shape", [(4, 2, 8, 8), (1, 4, 8, 8), (2, 8, 8, 3), (8, 8), (0, 1, 8, 8), (1, 8, 8)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match=str(shape).replace("(", r"\(").replace(")", r"\)")):
        image_grid(torch.zeros(shape, dtype=torch.uint8))


def test_the_shape_can_be_checked_before_there_are_images():
    check_drawable((3, 64, 64))
    with pytest.raises(ValueError, match="1 channel"):
        check_drawable((4, 64, 64))
