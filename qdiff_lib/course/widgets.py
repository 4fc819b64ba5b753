"""A slider that changes one figure, and the same figure as static pictures for readers without a kernel."""

import io
from collections.abc import Callable, Sequence
from html import escape

import ipywidgets
from IPython.display import Image as Shown
from IPython.display import display
from matplotlib.figure import Figure
from PIL import Image

from .figures.style import COLOURS, Caption, png

REVIVE = "If the slider above does not move the picture, run this cell."
PAGE = 1200  # pixels: what a notebook shows without shrinking it much


def slider(plot: Callable[[object], Figure], label: str, values: Sequence) -> ipywidgets.VBox:
    """A slider over ``values`` above the figure that ``plot`` makes of the chosen one."""
    whole = {"description_width": "initial"}  # the label is not cut
    room = {"width": f"{8 * len(label) + 320}px"}  # about 8 pixels a letter, the value, and 200 to slide
    knob = ipywidgets.SelectionSlider(
        options=list(values), description=label, continuous_update=False, style=whole, layout=room
    )
    own_size = {"align_self": "flex-start"}  # the box would stretch it to the width of the page
    figure = plot(knob.value)
    picture = ipywidgets.Image(format="png", value=png(figure), layout=own_size)
    words = ipywidgets.HTML(escape(figure.get_label()))  # a Label would cut it, not wrap it

    def redraw(change: dict) -> None:
        figure = plot(change["new"])
        picture.value, words.value = png(figure), escape(figure.get_label())

    knob.observe(redraw, names="value")
    return ipywidgets.VBox([knob, picture, words])


def side_by_side(figures: Sequence[Figure]) -> bytes:
    """Small multiples: the figures as one PNG, two in a row where both fit the width of a page."""
    pictures = [Image.open(io.BytesIO(png(figure))) for figure in figures]
    width, height = max(p.width for p in pictures), max(p.height for p in pictures)
    columns = 2 if 2 * width <= PAGE else 1
    rows = -(-len(pictures) // columns)
    canvas = Image.new("RGB", (width * columns, height * rows), "white")
    for i, picture in enumerate(pictures):
        canvas.paste(picture.convert("RGB"), (i % columns * width, i // columns * height))
    out = io.BytesIO()
    canvas.quantize(COLOURS, Image.Quantize.MAXCOVERAGE).save(out, format="png", optimize=True)
    return out.getvalue()


def explore(plot: Callable[[object], Figure], label: str, values: Sequence, twin: Sequence) -> None:
    """Show the slider and, below it, static pictures: the figure at the values of ``twin``."""
    figures = [plot(value) for value in twin]
    display(slider(plot, label, values))
    listed = ", ".join(map(str, twin))
    display(Caption(f"{REVIVE} Static pictures, for {label} = {listed}:"))
    words = [f"{label} = {v}: {f.get_label()}" for v, f in zip(twin, figures, strict=True)]
    display(Shown(data=side_by_side(figures), format="png", metadata={"alt": " | ".join(words)}))
    display(Caption(*words))
