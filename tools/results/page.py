"""The page: its sections in order, each from one recorded table."""

import json
from collections import Counter
from functools import partial
from io import BytesIO
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from qdiff_lib.course.figures import lesson_02, lesson_03, lesson_05
from qdiff_lib.course.figures.style import png
from qdiff_lib.utils.files import atomic_path

from . import ablations, engines, gpu, latent, plots, table1, trajectories
from .source import Recorded, Section

EARLIER = json.loads(Path(__file__).with_name("earlier.json").read_text(encoding="utf-8"))
"""By table: the commits that added rows which have no commit of their own, and how many each added."""

HEAD = """# Results

All numbers on this page come from `data/recorded/*.json` and `data/paper/*.json`. `python -m tools.results`
writes the page and its plots. `make tables` records the results, and continues after a stop
(`experiments/README.md`).

- W4A8: weights have 4 bits, and activations have 8 bits. BOPs: bit operations.
- MSE: mean squared error. SNR: signal-to-noise ratio.
- KID and Fréchet distance: the difference between drawn and real images. With the features of Inception the
  Fréchet distance is called FID. IS: the inception score.
- Larger is better for IS and SNR. Smaller is better for all others.
- Do not compare Fréchet distances or KIDs of different features, or of different n.
- Each table names the commits of the code that made it. Two of them, 803041c and ac5eaf5, are not in this
  repository's history.

[Notation and glossary](docs/notation.md) explains more terms.
"""


def ladder_plot(data: dict) -> Figure:
    return lesson_05.ladder(data["rows"], data["n"], data["floor"])


def swept(name: str, title: str) -> Section:
    """The section of one sweep."""
    return Section(name, title, partial(ablations.sweep, name), partial(plots.sweep, name))


TRAJECTORIES = (
    Section("error_per_step", "Error per step (Figure 3)", trajectories.error_per_step, trajectories.curves),
    Section(
        "activation_ranges",
        "Drift of the ranges (Figure 5)",
        trajectories.activation_ranges,
        lesson_02.heat_map,
    ),
)
CALIBRATION = (
    Section(
        "calibration_sampling",
        "Steps of the calibration inputs (Figure 4)",
        ablations.sampling,
        lesson_03.recorded_rules,
    ),
    swept("calibration_interval", "The interval of the calibration steps"),
    swept("calibration_inputs", "The number of calibration inputs"),
)
SECTIONS = (
    Section("table1", "Every method at every width (Table 1)", table1.text, plots.methods),
    Section("sensitivity", "Effect of small changes on the scores", table1.sensitivity),
    *TRAJECTORIES,
    *CALIBRATION,
    Section(
        "between_steps",
        "Steps without calibration inputs",
        trajectories.between_steps,
        plots.between_steps,
    ),
    Section("shortcut_split", "The shortcut split (Figures 6 and 7)", ablations.shortcut_split),
    Section("ladder", "What each part gains", ablations.ladder, ladder_plot),
    swept("adaround_iterations", "AdaRound's iterations"),
    swept("softmax_bits", "Bits of the softmax"),
    Section(
        "layer_divergence",
        "Divergence of the layers' outputs",
        trajectories.layer_divergence,
        plots.divergences,
    ),
    Section("integer_scores", "Images drawn in integers", engines.scores),
    Section("latent", "Latent models, with and without a text", latent.text, lesson_05.latent_errors),
    Section("gpu_cifar10", "A CIFAR-10 network on a GPU", gpu.cifar10),
    Section("gpu_engines", "Integers on a GPU", gpu.speeds),
    Section("gpu_calibration", "Calibration on a GPU", gpu.calibration),
)


def page(found: dict[str, Recorded], folder: str) -> str:
    """RESULTS.md; ``folder``: of the plots, from the page."""
    parts = [part(section, found.get(section.name), folder) for section in SECTIONS]
    return "\n\n".join([HEAD.strip(), *parts]) + "\n"


def part(section: Section, recorded: Recorded | None, folder: str) -> str:
    """One section. If its table is not recorded, the section says how to record it."""
    if recorded is None:
        missing = f"Not recorded yet: `{section.command}`."
        return f"## {section.title}\n\n{missing}"
    parts = [f"## {section.title}", section.text(recorded.data)]
    if section.plot:
        parts.append(f"![{section.plot(recorded.data).get_label()}]({folder}/{section.name}.png)")
    return "\n\n".join([*parts, source(recorded, EARLIER.get(section.name, {}))])


def source(recorded: Recorded, earlier: dict[str, int]) -> str:
    """How the numbers were made. A resumed run has rows of several days and commits.

    earlier: for rows without a commit of their own, how many of them each commit of the file added.
    """
    made = recorded.provenance
    rows = [row for name in ("seeds", "rows", "besides", "ablation") for row in recorded.data.get(name, [])]
    rows = [row for row in rows if isinstance(row, dict)]
    own = Counter(row["commit"] for row in rows if "commit" in row)
    added = f"; rows added in {counted(earlier)}" if earlier and not own else ""
    days = sorted({row.get("date", made["date"]) for row in rows} | {made["date"]})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    seeds = ", ".join(f"{name} {seed}" for name, seed in made["seeds"].items())
    code = counted(own) or made["commit"]
    return (
        f"*Recorded on {when} on {made['machine']} at {code} by `{made['command']}`; "
        f"first seeds: {seeds}{added}.*"
    )


def counted(commits: dict[str, int]) -> str:
    """The commits, each with its number of rows, such as "1a2b3c4 (1 row), 5d6e7f8 (3 rows)"."""
    return ", ".join(f"{name} ({n} row{'s' * (n != 1)})" for name, n in commits.items())


def draw(found: dict[str, Recorded], folder: Path) -> None:
    """The plots of all sections that are recorded; each file says which data it shows."""
    for section in SECTIONS:
        recorded = found.get(section.name)
        if section.plot and recorded:
            picture, shows = Image.open(BytesIO(png(section.plot(recorded.data)))), PngInfo()
            shows.add_text("Source", recorded.digest())
            with atomic_path(folder / f"{section.name}.png") as temporary:
                picture.save(temporary, optimize=True, pnginfo=shows)
