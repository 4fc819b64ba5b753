"""The rows of random batches on the device, while the iterations of a fit use them.

Columns that are on the device already are read there. All others are gathered by a thread, one batch ahead,
into one of two buffers in RAM, and copied to the device while it computes. For a GPU the buffers are pinned:
the copy needs no pause of the processor. The rows themselves are not, as they have to be gathered anyway.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Protocol

import torch
from torch import Tensor

from .memory_budget import CPU, DEVICE, FILES, RAM


class Column(Protocol):
    """An array (N, ...) that a fit reads by rows: ``Rows``, or an input of the network (``InputRows``).

    shape: of all rows. stored, read: the type of the numbers as they are stored and read. here: the device on
    which they are; None: files.
    """

    shape: tuple[int, ...]
    stored: torch.dtype
    read: torch.dtype
    here: torch.device | None

    def select(self, index: Tensor, out: Tensor | None = None) -> Tensor:
        """The rows with these numbers, as they are stored and where they are; into ``out``."""


class Feed:
    """Gives the batches of some columns, on ``device``.

    copied: bytes copied so far from one place to another, by (from, to), of ``memory_budget.PLACES``.
    """

    def __init__(self, columns: list[Column], device: torch.device):
        self.columns, self.device = columns, device
        self.far = [column for column in columns if column.here != device]
        self.copied: Counter[tuple[str, str]] = Counter()

    def batches(self, draws: Tensor | Sequence[Tensor]) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """For each batch its row numbers, and its rows of each column, all on the device.

        draws: the row numbers of all batches, (batches, batch), on the CPU; or a list of them, if not all
        batches are equally large. The rows are valid until the next batch is asked for.
        """
        sizes = [len(index) for index in draws]
        numbers = torch.cat([*draws]).to(self.device).split(sizes)  # once, for all batches
        with ThreadPoolExecutor(1) as thread:
            buffers = [_Buffer(self.far, max(sizes), self.device) for _ in range(2)]
            ahead = thread.submit(self._fill, buffers[0], draws[0]) if self.far else None
            for i, index in enumerate(numbers):
                now, after = buffers[i % 2], buffers[(i + 1) % 2]
                if ahead:
                    ahead.result()
                    now.wait()
                if ahead and i + 1 < len(draws):
                    ahead = thread.submit(self._fill, after, draws[i + 1])
                far = (rows[: len(index)] for rows in now.rows)
                rows = [c.select(index) if c.here == self.device else next(far) for c in self.columns]
                yield index, [v.to(c.read) for c, v in zip(self.columns, rows, strict=True)]
                now.done()

    def _fill(self, buffer: "_Buffer", index: Tensor) -> None:
        """In the thread: gather one batch and send it to the device."""
        buffer.fill(index)
        for column, values in zip(self.far, buffer.gathered, strict=True):
            if column.here is None:
                self.copied[FILES, RAM] += values.nbytes
            if self.device != CPU:
                self.copied[RAM, DEVICE] += values.nbytes


class _Buffer:
    """Memory for one batch of the far columns: ``gathered`` in RAM, and ``rows`` on the device."""

    def __init__(self, columns: list[Column], batch: int, device: torch.device):
        self.columns, self.gpu = columns, device if device.type == "cuda" else None
        options = [dict(size=(batch, *column.shape[1:]), dtype=column.stored) for column in columns]
        self.gathered = [torch.empty(**each, pin_memory=bool(self.gpu)) for each in options]
        self.rows = self.gathered
        if device != CPU:
            self.rows = [torch.empty(**each, device=device) for each in options]
        if self.gpu:
            self.stream = torch.cuda.Stream(device)
            self.copied, self.used = torch.cuda.Event(), torch.cuda.Event()

    def fill(self, index: Tensor) -> None:
        """Gather the rows, and start their copy once the GPU no longer needs the ones before."""
        if self.gpu:
            self.copied.synchronize()  # this thread waits, not the one that computes
        for column, values in zip(self.columns, self.gathered, strict=True):
            column.select(index, out=values[: len(index)])
        if self.rows is self.gathered:
            return
        with torch.cuda.stream(self.stream) if self.gpu else nullcontext():
            if self.gpu:
                self.stream.wait_event(self.used)
            for values, gathered in zip(self.rows, self.gathered, strict=True):
                values.copy_(gathered, non_blocking=True)
            if self.gpu:
                self.copied.record(self.stream)

    def wait(self) -> None:
        """Let the GPU, not the processor, wait until the rows are there."""
        if self.gpu:
            torch.cuda.current_stream(self.gpu).wait_event(self.copied)

    def done(self) -> None:
        """All work that reads the rows has been given to the GPU."""
        if self.gpu:
            self.used.record(torch.cuda.current_stream(self.gpu))
