"""One style for all figures: the style file, the sentence that describes each, and how they are shown."""

import functools
import html
import io
from collections.abc import Callable
from pathlib import Path

import matplotlib.style
from IPython.display import Image as Shown
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from PIL import Image

STYLE = Path(__file__).with_name("course.mplstyle")
COLOURS = 255  # of a shown PNG: enough for lines and grey images, and a third of the bytes


def styled(draw: Callable[..., tuple[Figure, str]]) -> Callable[..., Figure]:
    """Draw with the course's style; the drawing function returns the figure and one sentence about it.

    The sentence becomes the figure's label: ``figure.get_label()``.
    """

    @functools.wraps(draw)
    def drawn(*args, **kwargs) -> Figure:
        with matplotlib.style.context(STYLE):
            figure, description = draw(*args, **kwargs)
        figure.set_label(description)
        return figure

    return drawn


def plain_log_ticks(axis: Axes) -> None:
    """Ticks at 1, 2 and 5 of each decade of y, as plain numbers: for logarithmic axes of few decades."""
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_locator(NullLocator())


def png(figure: Figure) -> bytes:
    """The figure as a PNG of few colours: small enough for a notebook in git."""
    raw, small = io.BytesIO(), io.BytesIO()
    with matplotlib.style.context(STYLE):
        figure.savefig(raw, format="png")
    few = Image.open(raw).convert("RGB").quantize(COLOURS, Image.Quantize.MAXCOVERAGE)
    few.save(small, format="png", optimize=True)
    return small.getvalue()


class Caption:
    """Sentences below a figure. As HTML they wrap between words, also on a phone. Else they are text."""

    def __init__(self, *sentences: str):
        self.sentences = sentences

    def _repr_html_(self) -> str:
        return f"<p>{'<br>'.join(map(html.escape, self.sentences))}</p>"

    def __repr__(self) -> str:
        return "\n".join(self.sentences)


def show(figure: Figure) -> None:
    """Show a figure and, below it, the sentence that describes it. The sentence is also its alt text."""
    display(Shown(data=png(figure), format="png", metadata={"alt": figure.get_label()}))
    display(Caption(figure.get_label()))
