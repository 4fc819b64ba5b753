"""Rows of drawn pictures, as several lessons show them."""

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ...evaluation.figures import image_grid


def image_rows(rows: Mapping[str, Tensor], title: str, columns: int) -> Figure:
    """A strip of the first ``columns`` images, uint8 (N, C, H, W), for each label; a column has one noise."""
    side = 6.2 / max(columns, 8)  # of an image, in inches
    figure = Figure(figsize=(1.5 + side * columns, 0.4 + (side + 0.08) * len(rows)), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.16)  # else the widest label loses some pixels
    for axis, (label, images) in zip(
        figure.subplots(len(rows), squeeze=False)[:, 0], rows.items(), strict=True
    ):
        draw_images(axis, image_grid(images[:columns], columns, zoom=1), label)
    figure.suptitle(title, fontsize=11, x=0.02, ha="left")
    return figure


def draw_images(axis: Axes, picture, label: str) -> None:
    """A strip of images without a frame."""
    axis.imshow(picture, cmap="gray", vmin=0, vmax=255)
    axis.set_ylabel(label, rotation=0, ha="right", va="center")
    axis.set(xticks=[], yticks=[])
    axis.grid(False)
    axis.spines[:].set_visible(False)


def grey_distance(images: Tensor, others: Tensor) -> float:
    """Mean absolute difference of two sets of uint8 images, in grey levels of 255."""
    return (images.float() - others.float()).abs().mean().item()
