"""The range of every quantizable layer's input at every step of the full-precision sampler (Figure 5)."""

from collections.abc import Iterator

import torch
from lab import SEED, Lab, rounded
from torch import Tensor

from qdiff_lib.diffusion.sampling import run_batch
from qdiff_lib.graph.hooks import watched_inputs
from qdiff_lib.graph.model_inputs import example_inputs
from qdiff_lib.graph.tracing import trace
from qdiff_lib.utils.progress import progress_bar

VALUES = 4096  # of each layer and step, over all batches, from which the percentiles are taken
PERCENTILES = (0.01, 0.99)
DIGITS = 4


def watched(lab: Lab, layers: list[str], start: int, n: int, steps: int, values: int, seed: int) -> Tensor:
    """What each layer reads at each step of one batch: random values and the extremes, (L, T, values + 2)."""
    generator = torch.Generator().manual_seed(start)
    seen: dict[str, list[Tensor]] = {layer: [] for layer in layers}

    def look(layer: str, x: Tensor) -> None:
        flat = x.detach().flatten()
        drawn = flat[torch.randint(flat.numel(), (values,), generator=generator)]
        seen[layer].append(torch.cat([drawn, flat.amin()[None], flat.amax()[None]]))

    with watched_inputs(lab.ddim.unet, layers, look):
        run_batch(lab.ddim, start, n, steps, seed)
    return torch.stack([torch.stack(kept) for kept in seen.values()])


def table(values: Tensor) -> list[list[float]]:
    """(L, T) as JSON."""
    return [[rounded(value, DIGITS) for value in row] for row in values.tolist()]


def run(lab: Lab) -> Iterator[dict]:
    """``min``, ``max``, ``low``, ``high``: (layers, steps); steps noisy to clean, layers as they run."""
    n, batch, steps = lab.settings.drift_images, lab.settings.drift_batch, lab.settings.long_steps
    found = trace(lab.ddim.unet, example_inputs(lab.ddim.unet))
    layers = [name for unit in found.units for name in unit.layers]
    starts = range(0, n, batch)
    same = {"steps": steps, "values": -(-VALUES // len(starts)), "seed": SEED}
    orders = [{"start": i, "n": min(batch, n - i), **same} for i in starts]

    def make(k: int) -> dict[str, Tensor]:
        return {"seen": watched(lab, layers, **orders[k])}

    made_by = [lab.made_by(__file__, **order) for order in orders]
    found = lab.cache.parts("activation-ranges", made_by, lambda: make)
    bar = progress_bar(found, "  batches", total=len(orders), shown=lab.processes.is_main)
    parts = [part["seen"] for part in bar]
    sampled, seen = torch.cat([part[..., :-2] for part in parts], dim=-1), torch.cat(parts, dim=-1)
    low, high = (torch.stack([layer.quantile(q, dim=-1) for layer in sampled]) for q in PERCENTILES)
    yield {
        "steps": steps,
        "n": n,
        "timesteps": timesteps(lab, steps),
        "layers": layers,
        "min": table(seen.amin(-1)),
        "max": table(seen.amax(-1)),
        "low": table(low),
        "high": table(high),
    }


def timesteps(lab: Lab, steps: int) -> list[int]:
    """The diffusion times of the sampler's steps."""
    lab.ddim.scheduler.set_timesteps(steps)
    return lab.ddim.scheduler.timesteps.tolist()
