"""What RESULTS.md is made from, and how numbers are written in it."""

import hashlib
import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

GPU_SCRIPTS = {
    "gpu_calibration": "gpu/check.sh",
    "gpu_cifar10": "gpu/train.sh, then gpu/quantize.sh",
    "gpu_engines": "gpu/speeds.sh",
}


@dataclass(frozen=True)
class Recorded:
    """One file of ``data/recorded``; ``provenance``: see ``qdiff_lib.provenance``."""

    data: dict
    provenance: dict

    def digest(self) -> str:
        """A hash of the data, which the plots carry."""
        return hashlib.sha256(json.dumps(self.data, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Section:
    """A part of the page about one recorded table.

    text: from the data to markdown. plot: from the data to a figure whose label is its alt text; or none.
    """

    name: str
    title: str
    text: Callable[[dict], str]
    plot: Callable[[dict], Figure] | None = None

    @property
    def command(self) -> str:
        """What records the table."""
        return GPU_SCRIPTS.get(self.name, f"python experiments/run.py --only {self.name}")


def read(data: Path) -> dict[str, Recorded]:
    """All recorded tables below the data folder, by name."""
    found = {}
    for path in sorted((data / "recorded").glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        found[path.stem] = Recorded(content["data"], content["provenance"])
    return found


def flow(text: str) -> str:
    """A paragraph that was written over several lines, as one line."""
    return " ".join(text.split())


def table(titles: Sequence[str], rows: Iterable[Sequence[str]], texts: int = 1) -> str:
    """Markdown; the first ``texts`` columns are text, the others are numbers, aligned to the right."""
    marks = ["---"] * texts + ["---:"] * (len(titles) - texts)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [titles, marks, *rows])


def fixed(value: float | None, digits: int = 2, factor: float = 1.0) -> str:
    """The number times ``factor`` with so many decimals; empty for None."""
    return "" if value is None else f"{value * factor:.{digits}f}"


def short(value: float | None, digits: int = 3) -> str:
    """So many significant digits, in plain notation; empty for None."""
    if not value:
        return "" if value is None else "0"
    return f"{float(f'{value:.{digits}g}'):f}".rstrip("0").rstrip(".")


def spread(values: Sequence[float], own: float | None, digits: int, factor: float = 1.0) -> str:
    """Mean and standard deviation over several values; of a single one, itself and its ``own`` spread."""
    deviation = statistics.stdev(values) if len(values) > 1 else own
    text = fixed(statistics.fmean(values), digits, factor)
    return text if deviation is None else f"{text} ± {fixed(deviation, digits, factor)}"


def share(value: float) -> str:
    """A change in percent with its sign."""
    return f"{100 * value:+.1f} %"


def pair(mean_and_spread: Sequence[float | None], factor: float = 1.0) -> str:
    """``[mean, spread]`` with two decimals, as ``spread`` writes it."""
    return spread(mean_and_spread[:1], mean_and_spread[1], 2, factor)
