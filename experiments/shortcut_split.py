"""How far apart the halves of each shortcut layer's input and weight are, and what splitting them buys."""

from collections.abc import Iterator

import torch
from lab import Lab, about, label, rounded
from ladder import PAPER
from torch import Tensor

from qdiff_lib.graph.hooks import watched_inputs
from qdiff_lib.graph.model_inputs import example_inputs
from qdiff_lib.graph.tracing import trace

BITS = ((4, 8), (8, 8), (4, 6))


def run(lab: Lab) -> Iterator[dict]:
    """``rows``: a row for each shortcut layer. ``ablation``: recipes with and without the split."""
    settings = lab.settings
    made_by = lab.made_by(__file__, n=settings.split_inputs)
    yield {
        "inputs": settings.split_inputs,
        "rows": lab.cache.value("shortcut_split", made_by, lambda: half_ranges(lab)),
        **ablation(lab),
    }


@torch.no_grad()
def half_ranges(lab: Lab) -> list[dict]:
    """Ranges of each shortcut layer's halves, deep and skip, in its input and in its weight."""
    unet, n = lab.ddim.unet, lab.settings.split_inputs
    found = trace(unet, example_inputs(unet)).concat_splits
    recipe = lab.settings.qdiffusion(4, 8)
    inputs, _ = lab.calibration(recipe)
    seen: dict[str, list[Tensor]] = {name: [] for name in found}
    with watched_inputs(unet, found, lambda name, x: seen[name].append(extremes(x, found[name]))):
        for start in range(0, min(n, len(inputs)), 64):
            unet(**inputs.rows(slice(start, min(start + 64, n))))
    rows = []
    for name, sizes in found.items():
        kept = torch.stack(seen[name])  # (batches, parts, 2)
        activations = kept[..., 1].amax(0) - kept[..., 0].amin(0)
        weights = extremes(unet.get_submodule(name).weight, sizes).diff().flatten()
        rows.append({"layer": name, "sizes": list(sizes), **halves("activation", activations)})
        rows[-1] |= halves("weight", weights)
    return rows


def extremes(x: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Least and greatest value of each part along axis 1, (parts, 2)."""
    return torch.stack([torch.stack([part.amin(), part.amax()]) for part in x.split(sizes, 1)])


def halves(name: str, ranges: Tensor) -> dict:
    """The ranges (greatest less least) of both halves, and their ratio deep / skip."""
    deep, skip = ranges.tolist()
    return {
        f"{name}_range": [rounded(deep), rounded(skip)],
        f"{name}_ratio": rounded(deep / skip),
    }


def ablation(lab: Lab) -> dict:
    """Rows with and without the split: linear, and the paper's method without learned step sizes."""
    make = lab.settings
    pairs = [[make.linear(*bits, split=split) for split in (False, True)] for bits in BITS]
    learned = dict(PAPER, step_size_iterations=0)
    pairs += [[make.qdiffusion(*bits, split=split, **learned) for split in (False, True)] for bits in BITS]
    rows = []
    for recipe in (recipe for pair in pairs for recipe in pair):
        name = f"{label(recipe)}, {'split' if recipe.grids.split else 'no split'}"
        print(f"  {name}", flush=True)
        rows.append({"label": name, **about(recipe), "split": recipe.grids.split, **lab.judged(recipe)})
    floor = [row.pop("floor") for row in rows][0]
    return {
        "steps": make.steps,
        "n": make.images,
        "ablation": rows,
        "floor": floor,
        "real": lab.real(make.images),
    }
