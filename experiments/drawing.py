"""Images in batches, each kept in a file of its own: a row of many images goes on where it was stopped."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from cache import Cache
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor

from qdiff_lib import sample
from qdiff_lib.utils.files import atomic_path


@dataclass(frozen=True)
class Drawn:
    """images: uint8 (N, C, H, W). last: x_t after the last step, before it was rounded, (N, C, H, W)."""

    images: Tensor
    last: Tensor


@dataclass(frozen=True)
class Order:
    """n images of a noise seed in ``steps`` steps, ``batch`` at once."""

    n: int
    batch: int
    steps: int
    seed: int

    def batches(self) -> list[tuple[int, int]]:
        """First image and count of each batch."""
        return [(start, min(self.batch, self.n - start)) for start in range(0, self.n, self.batch)]


def draw(cache: Cache, made_by: dict, order: Order, pipe: Callable[[], DiffusionPipeline]) -> Drawn:
    """The images that ``made_by`` describes, besides ``order``; ``pipe()`` is called if any are missing."""
    named = {**made_by, "steps": order.steps, "seed": order.seed}
    parts = order.batches()
    paths = [
        cache.path("drawn", named | {"first": a, "count": b}).with_suffix(".safetensors") for a, b in parts
    ]
    missing = [(path, part) for path, part in zip(paths, parts, strict=True) if not path.exists()]
    start, drawer = time.monotonic(), pipe() if missing else None
    for done, (path, part) in enumerate(missing, 1):
        draw_batch(path, drawer, *part, order)
        minutes = (time.monotonic() - start) / done * (len(missing) - done) / 60
        print(f"    {sum(part)}/{order.n} images, about {minutes:.0f} min left", flush=True)
    found = [load_file(path) for path in paths]
    return Drawn(*(torch.cat([part[name] for part in found]) for name in ("images", "last")))


def draw_batch(path: Path, pipe: DiffusionPipeline, first: int, count: int, order: Order) -> None:
    """Draw ``count`` images from image ``first`` on, into a file."""
    drawn = sample(pipe, count, order.steps, order.seed, first, batch_size=count, record=True)
    with atomic_path(path) as temporary:
        save_file({"images": drawn.images, "last": drawn.trajectory[-1].contiguous()}, temporary)
