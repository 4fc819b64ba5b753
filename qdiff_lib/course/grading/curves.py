"""The figure of an answer that is a row of numbers: what it gave beside what was expected, as SVG."""

import html
from collections.abc import Sequence

from ..checks import Curve

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 480, 180, 64, 34, 10
MOST = 100  # entries that are drawn
BEYOND = 1.0  # how far outside of the expected values yours are drawn, in spans of them
YOURS = "#d55e00"


def drawn(curve: Curve) -> str:
    """An inline SVG with a sentence that describes it, and the same sentence below as a caption."""
    found, expected = curve.found[:MOST], curve.expected[:MOST]
    low, high = limits(found, expected)
    sentence = described(curve, low, high)
    parts = [
        f'<svg role="img" viewBox="0 0 {WIDTH} {HEIGHT}" width="100%" style="max-width: {WIDTH}px">',
        f"<title>{html.escape(sentence)}</title>",
        frame(curve.axis, low, high, len(found)),
        points(expected, low, high, "currentColor", "4 3"),
        points(found, low, high, YOURS, "none"),
        "</svg>",
        f"<p>{html.escape(sentence)}</p>",
    ]
    return "".join(parts)


def limits(found: Sequence[float | None], expected: Sequence[float]) -> tuple[float, float]:
    """The lowest and highest value of the figure: the expected values, and yours that are not far away."""
    low, high = min(expected), max(expected)
    span = (high - low) or abs(high) or 1.0
    near = [v for v in found if v is not None and low - BEYOND * span <= v <= high + BEYOND * span]
    low, high = min([low, *near]), max([high, *near])
    if low == high:
        low, high = low - span / 2, high + span / 2
    return low, high


def described(curve: Curve, low: float, high: float) -> str:
    """What the figure shows, in words."""
    count = len(curve.found)
    outside = sum(value is None or not low <= value <= high for value in curve.found[:MOST])
    text = f"Yours (orange line) and expected (dashed line), {count} numbers, by {curve.axis}."
    if count > MOST:
        text += f" The first {MOST} are drawn."
    return text + (f" {outside} of yours: outside of the figure." if outside else "")


def frame(axis: str, low: float, high: float, count: int) -> str:
    """The two axes with their ends and the name of the entries."""
    right, bottom = WIDTH - 10, HEIGHT - BOTTOM
    line = f'<path d="M{LEFT} {TOP}V{bottom}H{right}" fill="none" stroke="currentColor"/>'
    labels = [
        (LEFT - 6, TOP + 10, "end", f"{high:.4g}"),
        (LEFT - 6, bottom, "end", f"{low:.4g}"),
        (LEFT, bottom + 16, "middle", "0"),
        (right, bottom + 16, "end", str(count - 1)),
        ((LEFT + right) // 2, bottom + 28, "middle", axis),
    ]
    texts = [
        f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="12" fill="currentColor">'
        f"{html.escape(text)}</text>"
        for x, y, anchor, text in labels
    ]
    return "".join([line, *texts])


def points(values: Sequence[float | None], low: float, high: float, colour: str, dashes: str) -> str:
    """A line through the values, with a mark at each. What is outside of the figure lies on its edge."""
    right, bottom = WIDTH - 10, HEIGHT - BOTTOM
    places = []
    for i, value in enumerate(values):
        if value is not None:
            share = (min(max(value, low), high) - low) / (high - low)
            x = LEFT + (right - LEFT) * i / max(len(values) - 1, 1)
            places.append(f"{x:.1f},{bottom - (bottom - TOP) * share:.1f}")
    marks = "".join(
        '<circle cx="{}" cy="{}" r="2.5" fill="{}"/>'.format(*place.split(","), colour) for place in places
    )
    return (
        f'<polyline points="{" ".join(places)}" fill="none" stroke="{colour}" stroke-width="1.5" '
        f'stroke-dasharray="{dashes}"/>{marks}'
    )
