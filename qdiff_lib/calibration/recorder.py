"""A hook that keeps chosen rows of what a UNet is given while its pipeline runs."""

import inspect

import torch
from torch import Tensor, nn

HANDLED = ("sample", "timestep", "encoder_hidden_states")


class Enough(Exception):
    """Every chosen step of this batch has been seen."""


class Recorder:
    """A forward pre-hook that keeps chosen rows of the UNet's inputs, call by call.

    chosen: for each step, the trajectories to keep. prompts: how many texts the trajectories go round.
    passes: 2 under classifier-free guidance, where a call holds all trajectories without and then all with
    their text; both rows of a chosen trajectory are kept. Each text is kept once. A time for which the
    scheduler asks twice (PLMS) counts once.
    """

    def __init__(self, unet: nn.Module, chosen: list[Tensor], prompts: int = 0, passes: int = 1):
        self.signature = inspect.signature(unet.forward)
        self.chosen, self.prompts, self.passes = chosen, prompts, passes
        self.last = max(i for i, index in enumerate(chosen) if len(index))
        self.kept: dict[str, list[Tensor]] = {}
        self.steps: list[Tensor] = []
        self.texts: dict[int, Tensor] = {}  # by the number of the prompt; without text: the number of prompts
        self.text_of: list[Tensor] = []

    def begin(self, start: int, count: int) -> None:
        """The next calls are about trajectories ``start`` to ``start + count - 1``."""
        self.start, self.count, self.step, self.time = start, count, -1, None

    def __call__(self, unet: nn.Module, args: tuple, kwargs: dict) -> None:
        given = self.signature.bind(*args, **kwargs).arguments
        self.check(given)
        time = torch.as_tensor(given["timestep"]).flatten()[0].item()
        if time == self.time:
            return
        self.time, self.step = time, self.step + 1
        if self.step > self.last:
            raise Enough
        chosen = self.chosen[self.step]
        here = chosen[(chosen >= self.start) & (chosen < self.start + self.count)] - self.start
        rows = torch.cat([here + i * self.count for i in range(self.passes)])
        times = torch.as_tensor(given["timestep"]).expand(self.count * self.passes)
        self.keep("sample", given["sample"], rows)
        self.keep("timestep", times, rows)
        self.steps.append(torch.full((len(rows),), self.step))
        if self.prompts:
            self.keep_texts(given["encoder_hidden_states"], rows)

    def check(self, given: dict) -> None:
        """Raise ValueError for other inputs than are recorded, and for other numbers of rows."""
        other = [k for k, v in given.items() if k not in HANDLED and not (v is None or isinstance(v, bool))]
        if not self.prompts and given.get("encoder_hidden_states") is not None:
            other.append("encoder_hidden_states")
        if other:
            raise ValueError(f"the pipeline gives its UNet {other[0]!r}, which cannot be calibrated on")
        rows = len(given["sample"])
        if rows != self.passes * self.count:
            raise ValueError(
                f"the UNet got {rows} rows of 'sample' for {self.count} images in {self.passes} passes: "
                "classifier-free guidance is supported for pipelines with prompts, two rows for each image"
            )

    def keep(self, name: str, value: Tensor, rows: Tensor) -> None:
        self.kept.setdefault(name, []).append(value.detach().cpu()[rows])

    def keep_texts(self, contexts: Tensor, rows: Tensor) -> None:
        """contexts: (rows of the call, tokens, width). In a guided call the first half is without text."""
        numbers = (self.start + rows % self.count) % self.prompts
        if self.passes == 2:
            numbers = torch.where(rows < self.count, self.prompts, numbers)
        self.text_of.append(numbers)
        for row, number in zip(rows.tolist(), numbers.tolist(), strict=True):
            if number not in self.texts:
                self.texts[number] = contexts[row].detach().cpu()
