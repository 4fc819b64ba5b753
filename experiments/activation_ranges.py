"""The range of every quantizable layer's input at every step of the full-precision sampler (Figure 5)."""

from collections.abc import Iterator
from pathlib import Path

import torch
from lab import SEED, Lab, rounded
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from qdiff_lib.diffusion.sampling import run_batch
from qdiff_lib.graph.model_inputs import example_inputs
from qdiff_lib.graph.tracing import trace
from qdiff_lib.utils.files import atomic_path

VALUES = 4096  # of each layer and step, over all batches, from which the percentiles are taken
PERCENTILES = (0.01, 0.99)
DIGITS = 4


class Watcher:
    """Forward pre-hooks that keep extremes of each layer's input and some of its values, call by call."""

    def __init__(self, unet: nn.Module, layers: list[str], values: int, generator: torch.Generator):
        self.values, self.generator = values, generator
        self.kept: dict[str, list[Tensor]] = {name: [] for name in layers}
        self.handles = [
            unet.get_submodule(name).register_forward_pre_hook(self._hook(name)) for name in layers
        ]

    def _hook(self, name: str):
        def hook(module: nn.Module, args: tuple) -> None:
            flat = args[0].detach().flatten()
            index = torch.randint(flat.numel(), (self.values,), generator=self.generator)
            self.kept[name].append(torch.cat([flat.amin()[None], flat.amax()[None], flat[index]]))

        return hook

    def close(self) -> Tensor:
        """Remove the hooks; returns (L, T, 2 + values): least, greatest, and a random sample."""
        for handle in self.handles:
            handle.remove()
        return torch.stack([torch.stack(steps) for steps in self.kept.values()])


def watched(lab: Lab, layers: list[str], start: int, count: int, steps: int, values: int) -> Path:
    """The file with one batch's ``Watcher`` result; made where it is missing."""
    made_by = lab.made_by(start=start, n=count, steps=steps, values=values, seed=SEED)
    path = lab.cache.path("activation-ranges", made_by).with_suffix(".safetensors")
    if not path.exists():
        watcher = Watcher(lab.ddim.unet, layers, values, torch.Generator().manual_seed(start))
        run_batch(lab.ddim, start, count, steps, SEED)
        with atomic_path(path) as temporary:
            save_file({"seen": watcher.close()}, temporary)
        print(f"  {start + count} images", flush=True)
    return path


def table(values: Tensor) -> list[list[float]]:
    """(L, T) as JSON."""
    return [[rounded(value, DIGITS) for value in row] for row in values.tolist()]


def run(lab: Lab) -> Iterator[dict]:
    """``min``, ``max``, ``low``, ``high``: (layers, steps); steps noisy to clean, layers as they run."""
    n, batch, steps = lab.settings.drift_images, lab.settings.drift_batch, lab.settings.long_steps
    found = trace(lab.ddim.unet, example_inputs(lab.ddim.unet))
    layers = [name for unit in found.units for name in unit.layers]
    starts = range(0, n, batch)
    values = -(-VALUES // len(starts))
    files = [watched(lab, layers, start, min(batch, n - start), steps, values) for start in starts]
    seen = [load_file(path)["seen"] for path in files]
    sampled = torch.cat([part[..., 2:] for part in seen], dim=-1)
    low, high = (torch.stack([layer.quantile(q, dim=-1) for layer in sampled]) for q in PERCENTILES)
    yield {
        "steps": steps,
        "n": n,
        "timesteps": timesteps(lab, steps),
        "layers": layers,
        "min": table(torch.stack([part[..., 0] for part in seen]).amin(0)),
        "max": table(torch.stack([part[..., 1] for part in seen]).amax(0)),
        "low": table(low),
        "high": table(high),
    }


def timesteps(lab: Lab, steps: int) -> list[int]:
    """The diffusion times of the sampler's steps."""
    lab.ddim.scheduler.set_timesteps(steps)
    return lab.ddim.scheduler.timesteps.tolist()
