"""Images in batches, each kept in a file of its own: a row of many images goes on where it was stopped."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from qdiff_lib import sample
from qdiff_lib.utils.cache import Cache
from qdiff_lib.utils.progress import progress_bar


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
    """The images that ``made_by`` describes, besides ``order``; ``pipe()`` is called if any are missing.

    The cache's processes divide the batches; each of them gets all images.
    """
    batches, named = order.batches(), {**made_by, "steps": order.steps, "seed": order.seed}

    def begin() -> Callable[[int], dict[str, Tensor]]:
        ready = pipe()
        return lambda k: draw_batch(ready, *batches[k], order)

    parts = cache.parts("drawn", [{**named, "first": i, "count": count} for i, count in batches], begin)
    shown = cache.processes.is_main
    found = list(progress_bar(parts, f"    {order.n} images", total=len(batches), shown=shown))
    return Drawn(*(torch.cat([part[name] for part in found]) for name in ("images", "last")))


def draw_batch(pipe: DiffusionPipeline, first: int, count: int, order: Order) -> dict[str, Tensor]:
    """``count`` images from image ``first`` on."""
    drawn = sample(pipe, count, order.steps, order.seed, first, batch_size=count, record=True)
    return {"images": drawn.images, "last": drawn.trajectory[-1]}
