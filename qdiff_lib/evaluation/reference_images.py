"""The shipped images: the test set of Fashion-MNIST (Zalando Research, MIT licence), padded to 32x32."""

import gzip
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import pad

from ..io.shipped_data import verified

PADDING = 2  # pixels on each side: 28 -> 32, the size of the images of the paper's CIFAR-10 model
CLASS_NAMES = (
    "T-shirt",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def read_idx(path: str | Path) -> torch.Tensor:
    """Read a gzipped IDX file of bytes as a uint8 tensor of the shape that its header states.

    Raises:
        ValueError: the file is not an IDX file of unsigned bytes, or it is incomplete.
    """
    raw = gzip.decompress(Path(path).read_bytes())
    if len(raw) < 4 or raw[:3] != b"\x00\x00\x08":
        raise ValueError(f"path={str(path)!r} is no IDX file of bytes: give a gzipped *-ubyte.gz file")
    rank = raw[3]
    sizes = [int.from_bytes(raw[i : i + 4], "big") for i in range(4, 4 + 4 * rank, 4)]
    body = np.frombuffer(raw, np.uint8, offset=min(len(raw), 4 + 4 * rank))
    if len(raw) < 4 + 4 * rank or body.size != np.prod(sizes):
        raise ValueError(f"path={str(path)!r} holds {body.size} bytes, its header says {sizes}: get it again")
    return torch.from_numpy(body.reshape(sizes).copy())


def pad_images(images: torch.Tensor) -> torch.Tensor:
    """Add a border of ``PADDING`` zero pixels to images: (N, 28, 28) -> (N, 1, 32, 32)."""
    return pad(images.unsqueeze(1), [PADDING] * 4)


def test_images() -> torch.Tensor:
    """The 10,000 test images, zero-padded: uint8 (10000, 1, 32, 32). Raises what ``verified`` raises."""
    return pad_images(read_idx(verified("fashion-mnist/t10k-images-idx3-ubyte.gz")))


def test_labels() -> torch.Tensor:
    """The classes of ``test_images``: int64 (10000,), indices into ``CLASS_NAMES``.

    Raises what ``verified`` raises.
    """
    return read_idx(verified("fashion-mnist/t10k-labels-idx1-ubyte.gz")).long()


def check_channels(channels: int) -> None:
    """Raise ValueError unless ``channels`` is 1, as the shipped images are grey."""
    if channels != 1:
        raise ValueError(
            f"the images have {channels} channels, those of Fashion-MNIST have 1: compare with the "
            "full-precision model's images instead, on the command line with --original"
        )
