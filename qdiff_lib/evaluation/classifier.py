"""A small Fashion-MNIST classifier: a feature extractor for scores that needs no internet connection."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import interpolate

SIZE = 32  # height and width of the input in pixels


def convolution(channels_in: int, channels_out: int, kernel: int, stride: int) -> nn.Sequential:
    """Convolution, batch normalization, ReLU. The output has 1 / ``stride`` of the height and width."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


class FashionClassifier(nn.Module):
    """A classifier with 0.33 M parameters: five convolutions, a mean over positions, and a linear layer.

    The means are the features, the outputs of the linear layer the logits. widths: output channels of the
    convolutions. classes: number of logits.
    """

    def __init__(self, widths: tuple[int, ...] = (32, 64, 96, 128, 128), classes: int = 10):
        super().__init__()
        a, b, c, d, e = widths
        self.body = nn.Sequential(
            convolution(1, a, 5, 2),  # (N, 32, 16, 16)
            convolution(a, b, 3, 2),  # (N, 64, 8, 8)
            convolution(b, c, 3, 1),  # (N, 96, 8, 8)
            convolution(c, d, 3, 2),  # (N, 128, 4, 4)
            convolution(d, e, 3, 1),  # (N, 128, 4, 4)
        )
        self.head = nn.Linear(e, classes)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (N, 128) and logits (N, 10) of uint8 images (N, 1 or 3, H, W), values 0 to 255.

        Colours are averaged to grey. Images of other sizes than 32x32 are resized (bilinear, antialiased).

        Raises:
            ValueError: ``images`` is not uint8 or does not have the shape (N, 1 or 3, H, W).
        """
        features = self.body(prepare(images)).mean(dim=(2, 3))
        return features, self.head(features)


def prepare(images: torch.Tensor) -> torch.Tensor:
    """Convert uint8 images (N, 1 or 3, H, W) to grey float32 images (N, 1, 32, 32) in [-1, 1].

    Raises ValueError for another type or shape.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(
            f"images is {images.dtype} {tuple(images.shape)}: give uint8 (N, 1 or 3, H, W), values 0 to 255"
        )
    grey = images.float().mean(dim=1, keepdim=True) / 127.5 - 1
    if grey.shape[2:] != (SIZE, SIZE):
        grey = interpolate(grey, (SIZE, SIZE), mode="bilinear", antialias=True)
    return grey


def load_classifier(folder: str | Path) -> FashionClassifier:
    """Load a classifier from config.json and model.safetensors; it is in eval mode and has no gradients.

    Raises FileNotFoundError if a file is missing.
    """
    config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    model = FashionClassifier(tuple(config["widths"]), config["classes"])
    model.load_state_dict(load_file(Path(folder) / "model.safetensors"))
    return model.eval().requires_grad_(False)
