"""A hook that keeps chosen rows of a UNet's inputs while its pipeline runs."""

import inspect
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..graph.model_inputs import flat_inputs

HANDLED = ("sample", "timestep", "class_labels")
PROMPTED = (
    "encoder_hidden_states",
    "added_cond_kwargs.text_embeds",
    "added_cond_kwargs.time_ids",
    "timestep_cond",
)
"""Inputs that are the same for all images of one prompt, and at all denoising steps."""


class Enough(Exception):
    """Ends a batch after its last chosen denoising step."""


@dataclass
class Kept:
    """What is kept of one batch, in the order of the calls.

    columns: rows of each input, by name. steps: the denoising step of each row. prompt_of: the number of the
    prompt of each row. prompted: the inputs in ``PROMPTED``, by the number of the prompt, of those prompts
    that the recorder meets for the first time; the number after the last one is the empty text.
    """

    columns: dict[str, list[Tensor]] = field(default_factory=dict)
    steps: list[Tensor] = field(default_factory=list)
    prompt_of: list[Tensor] = field(default_factory=list)
    prompted: dict[int, dict[str, Tensor]] = field(default_factory=dict)


class Recorder:
    """A forward pre-hook that keeps chosen rows of the UNet's inputs, call by call.

    chosen: for each denoising step, the numbers of the trajectories to keep. prompts: the number of texts;
    trajectory i has text ``i % prompts``. passes: 2 under classifier-free guidance, otherwise 1.

    A guided call has all trajectories without text, then all with their text. Both rows of a chosen
    trajectory are kept. The inputs in ``PROMPTED`` are kept once for each text. If the scheduler (PLMS) calls
    the UNet twice at one time, the first call is kept.

    A call raises ``Enough`` after the last chosen step, and ValueError for inputs that cannot be recorded.
    """

    def __init__(self, unet: nn.Module, chosen: list[Tensor], prompts: int = 0, passes: int = 1):
        self.signature = inspect.signature(unet.forward)
        self.chosen, self.prompts, self.passes = chosen, prompts, passes
        self.last = max(i for i, index in enumerate(chosen) if len(index))
        self.met: set[int] = set()  # the prompts whose inputs are kept

    def begin(self, start: int, count: int) -> None:
        """Start a batch: the next calls hold trajectories ``start`` to ``start + count - 1``.

        What is kept of them is ``kept``, a new object for each batch.
        """
        self.kept = Kept()
        self.start, self.count, self.step, self.time = start, count, -1, None

    def __call__(self, unet: nn.Module, args: tuple, kwargs: dict) -> None:
        given = flat_inputs(self.signature.bind(*args, **kwargs).arguments)
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
        self.kept.steps.append(torch.full((len(rows),), self.step))
        if given.get("class_labels") is not None:
            self.keep("class_labels", given["class_labels"], rows)
        if self.prompts:
            self.keep_prompted({k: given[k] for k in PROMPTED if given.get(k) is not None}, rows)

    def check(self, given: dict) -> None:
        """Raise ValueError for an input that is not recorded, or an unexpected number of rows."""
        handled = HANDLED + (PROMPTED if self.prompts else ())
        other = [k for k, v in given.items() if k not in handled and not (v is None or isinstance(v, bool))]
        if other:
            raise ValueError(f"the pipeline gives its UNet {other[0]!r}, which cannot be calibrated on")
        rows = len(given["sample"])
        if rows != self.passes * self.count:
            raise ValueError(
                f"the UNet got {rows} rows of 'sample' for {self.count} images in {self.passes} passes: "
                "classifier-free guidance is supported for pipelines with prompts, two rows for each image"
            )

    def keep(self, name: str, value: Tensor, rows: Tensor) -> None:
        """Keep the chosen rows of one input, on the CPU."""
        self.kept.columns.setdefault(name, []).append(value.detach().cpu()[rows])

    def keep_prompted(self, inputs: dict[str, Tensor], rows: Tensor) -> None:
        """Keep the inputs of the chosen rows' prompts that are not kept yet, and each row's prompt number.

        inputs: those in ``PROMPTED``, (rows of the call, ...). In a guided call the first half of the rows is
        without text.
        """
        numbers = (self.start + rows % self.count) % self.prompts
        if self.passes == 2:
            numbers = torch.where(rows < self.count, self.prompts, numbers)
        self.kept.prompt_of.append(numbers)
        for row, number in zip(rows.tolist(), numbers.tolist(), strict=True):
            if number not in self.met:
                self.met.add(number)
                texts = {k: value[row].detach().to("cpu", copy=True) for k, value in inputs.items()}
                self.kept.prompted[number] = texts
