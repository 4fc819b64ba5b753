"""Fashion-MNIST (Zalando Research, MIT licence), both splits, for the trainings."""

from pathlib import Path

import torch

from qdiff_lib.evaluation.reference_images import PADDING, pad_images, read_idx

__all__ = ["PADDING", "find_folder", "load_split", "read_idx"]

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")


def find_folder(folder: Path | None) -> Path:
    """The folder with the four IDX files: the one given, Debian's package, or a torchvision download."""
    if folder is not None:
        return Path(folder)
    if DEBIAN_FOLDER.exists():
        return DEBIAN_FOLDER
    from torchvision.datasets import FashionMNIST

    FashionMNIST("build", download=True)
    return Path("build/FashionMNIST/raw")


def load_split(split: str, folder: Path | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Images as uint8 (N, 1, 32, 32), zero-padded, and labels (N,); ``split`` is "train" or "t10k"."""
    folder = find_folder(folder)
    images = read_idx(folder / f"{split}-images-idx3-ubyte.gz")
    labels = read_idx(folder / f"{split}-labels-idx1-ubyte.gz").long()
    return pad_images(images), labels
