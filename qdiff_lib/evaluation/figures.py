"""Image grids and error curves, as pure functions that return an image or a figure."""

import math
from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

matplotlib.use("Agg", force=False)

OKABE_ITO = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#0072B2")
"""A palette that colour-blind readers can tell apart (Okabe and Ito, 2008)."""


def check_drawable(shape: Sequence[int]) -> None:
    """Raise ValueError unless images of this shape, (N, C, H, W) or (C, H, W), are grey (1) or RGB (3)."""
    if len(shape) not in (3, 4) or shape[-3] not in (1, 3):
        raise ValueError(
            f"images of shape {tuple(shape)} cannot be drawn: give images with 1 channel (grey) or 3 (RGB), "
            "as (N, C, H, W)"
        )


def image_grid(images: Tensor, columns: int | None = None, zoom: int = 2) -> Image.Image:
    """Put uint8 images (N, C, H, W), C = 1 or 3, into one picture, row by row.

    columns: images in a row; None makes the grid about square. zoom: each pixel becomes zoom x zoom pixels.
    Raises ValueError for other images.
    """
    if images.ndim != 4 or not len(images):
        raise ValueError(f"images of shape {tuple(images.shape)} cannot be drawn: give (N, C, H, W), N >= 1")
    check_drawable(images.shape)
    n, channels = images.shape[:2]
    canvas = images[0]
    if n > 1:
        framed = make_grid(images, columns or math.ceil(math.sqrt(n)), padding=1, pad_value=255)
        canvas = framed[:channels, 1:-1, 1:-1]  # undoes make_grid: grey as RGB, an outer frame
    picture = Image.fromarray(canvas.permute(1, 2, 0).squeeze(-1).numpy())
    return picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST)


def samples_figure(rows: dict[str, Tensor], title: str, columns: int = 16) -> Figure:
    """A figure with one row of images for each method; each column starts from the same noise.

    rows: uint8 images (N, C, H, W) by label. columns: how many images of each method are shown.
    """
    figure = Figure(figsize=(2.2 + 0.62 * columns, 0.68 * len(rows) + 0.5), layout="constrained")
    axes = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
    for axis, (label, images) in zip(axes, rows.items(), strict=True):
        axis.imshow(image_grid(images[:columns], columns, zoom=1), cmap="gray", vmin=0, vmax=255)
        axis.set_ylabel(label.replace(" W", "\nW"), rotation=0, ha="right", va="center")
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    figure.suptitle(title)
    return figure


def trajectory_figure(errors: dict[str, Tensor], title: str) -> Figure:
    """A figure of the mean squared error of each denoising step, as in the paper's Fig. 3.

    errors: by label, the errors against the full-precision trajectory, (T,). The axis is logarithmic.
    """
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axis = figure.subplots()
    for colour, (label, error) in zip(OKABE_ITO[1:], errors.items(), strict=False):
        axis.plot(range(1, len(error) + 1), error, marker=".", color=colour, label=label)
    axis.set(xlabel="denoising step (noisy to clean)", ylabel="mean squared error of x_t", yscale="log")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    axis.set_title(title)
    return figure
