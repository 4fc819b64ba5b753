"""The figures of the capstone."""

from collections.abc import Mapping

from matplotlib.figure import Figure
from torch import Tensor

from .pictures import grey_distance, image_rows
from .style import styled


@styled
def pictures(rows: Mapping[str, Tensor]) -> tuple[Figure, str]:
    """The images of each model, uint8 (N, C, H, W), a column from one noise; first row: original."""
    first = next(iter(rows.values()))
    figure = image_rows(rows, "Each column starts from the same noise", len(first))
    sentence = f"{len(first)} pictures of emoji from each of these models: {', '.join(rows)}."
    far = [f"{label} {grey_distance(images, first):.0f}" for label, images in list(rows.items())[1:]]
    if far:
        sentence += f" Mean difference from the first row, in levels of 255: {', '.join(far)}."
    return figure, sentence
