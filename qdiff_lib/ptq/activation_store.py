"""Cached activations within a budget: on the device as long as they fit, then in RAM, then in files.

``memory_budget.Budget`` says how much fits where. In the data-parallel case each process has a store of its
own, with the rows of its share of the calibration inputs.
"""

import tempfile
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .memory_budget import CPU, FILES, PLACES, RAM, Budget

TYPES = {32: torch.float32, 16: torch.float16}
SPILL = "activations-"  # prefix of the names of folders with cached activations
STAYS_MAPPED = 2**28  # bytes read from a file, after which its pages are given back to the system


class Rows:
    """An array (N, ...) that is written and read by rows, in one of ``PLACES``.

    Rows are float32; ``bits``: 16 keeps them in half precision. device: where the rows that are read arrive.
    path: the file, for rows in files. A file stays mapped into memory while it is read. Then its pages are
    given back after every ``STAYS_MAPPED`` bytes, so that they do not fill the RAM. It is not written through
    a mapping: on a full disk this would kill the process (SIGBUS), but writing to the file raises OSError.
    """

    read = torch.float32

    def __init__(
        self,
        shape: tuple[int, ...],
        place: str = RAM,
        path: Path | None = None,
        bits: int = 32,
        device: torch.device = CPU,
    ):
        self.shape, self.place, self.path, self.bits, self.device = tuple(shape), place, path, bits, device
        self.stored, self.nbytes = TYPES[bits], bits // 8 * prod(shape)
        self.data: Tensor | None = None
        self.mapped: Tensor | None = None
        self.passed = 0  # bytes read through the present mapping
        if place == FILES:
            with open(path, "wb") as file:
                file.truncate(self.nbytes)
        else:
            self.data = torch.empty(self.shape, dtype=self.stored, device=CPU if place == RAM else device)

    @property
    def here(self) -> torch.device | None:
        """The device on which the rows are; None: in a file."""
        return None if self.data is None else self.data.device

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        """A copy, on ``device``, of the rows that ``index`` selects: a slice, or a tensor of row numbers."""
        if isinstance(index, slice):
            count = len(range(*index.indices(self.shape[0])))
            return self._values(count)[index].to(self.device, self.read, copy=True)
        return self.select(index).to(self.device, self.read)

    def select(self, index: Tensor, out: Tensor | None = None) -> Tensor:
        """The rows with these numbers, (batch, ...), as they are stored and where they are; into ``out``."""
        values = self._values(len(index))
        return torch.index_select(values, 0, index.to(values.device), out=out)

    def _values(self, count: int) -> Tensor:
        """All rows, as they are stored, of which the caller reads ``count``."""
        if self.data is not None:
            return self.data
        if self.mapped is None or self.passed > STAYS_MAPPED:
            mapped = np.memmap(self.path, f"f{self.bits // 8}", "r+", shape=self.shape)
            self.mapped, self.passed = torch.from_numpy(mapped), 0
        self.passed += count * self.nbytes // self.shape[0]
        return self.mapped

    def __setitem__(self, index: slice, rows: Tensor) -> None:
        """Overwrite the rows that ``index`` selects, which are consecutive.

        Raises OSError for a full disk, and for a file above the limit of the process. Raises ValueError for a
        value that is too large for half precision.
        """
        values = rows.to(CPU if self.data is None else self.data.device, self.stored)
        if self.bits == 16 and not values.isfinite().all():
            raise ValueError("an activation is above 65,504, too large for cache_bits=16: use cache_bits=32")
        if self.data is not None:
            self.data[index] = values
        else:
            start, stop, _ = index.indices(self.shape[0])
            values = values.expand(max(stop - start, 0), *self.shape[1:]).contiguous()
            with open(self.path, "r+b") as file:
                file.seek(self.bits // 8 * prod(self.shape[1:]) * start)
                file.write(values.numpy())

    def move(self, place: str, path: Path | None) -> None:
        """Move the rows to RAM, or to the file ``path``. Raises OSError for a full disk."""
        if place == FILES:
            path.write_bytes(self.data.cpu().numpy())
        self.data = None if place == FILES else self.data.cpu()
        self.place, self.path = place, path

    def free(self) -> None:
        """Free the memory, or remove the file."""
        self.data = self.mapped = None
        if self.path is not None:
            self.path.unlink()


class RowStore:
    """Allocates ``Rows`` such that all rows together stay within ``budget``.

    New rows are the next to be read many times, so they get the fastest place in which they fit at all. For
    them the oldest rows move on: from the device to RAM, and from RAM to files. The files are in a temporary
    folder below ``folder`` (None: the system's folder of temporary files). ``close`` removes the temporary
    folder. bits: of each number, 32 or 16.
    """

    def __init__(self, budget: Budget, folder: Path | None = None, bits: int = 32):
        self.budget, self.bits, self.made = budget, bits, 0
        self.held: list[Rows] = []
        self.folder = tempfile.TemporaryDirectory(prefix=SPILL, dir=folder)

    def used(self, place: str) -> int:
        """Bytes of all rows in this place."""
        return sum(rows.nbytes for rows in self.held if rows.place == place)

    @property
    def ram_bytes(self) -> int:
        """Bytes that all rows hold in RAM."""
        return self.used(RAM)

    def allocate(self, shape: tuple[int, ...]) -> Rows:
        """New rows of this shape, in the fastest place that has room after older rows have moved on."""
        place = self._with_room(self.bits // 8 * prod(shape))
        rows = Rows(shape, place, self._path(place), self.bits, self.budget.on)
        self.held.append(rows)
        return rows

    def _with_room(self, need: int, places: tuple[str, ...] = PLACES) -> str:
        """The first of these places that can hold ``need`` bytes, after its oldest rows have moved on."""
        place, slower = places[0], places[1:]
        if need > self.budget.limit(place):
            return self._with_room(need, slower)
        for old in [rows for rows in self.held if rows.place == place]:
            if self.used(place) + need <= self.budget.limit(place):
                break
            target = self._with_room(old.nbytes, slower)
            old.move(target, self._path(target))
        return place

    def free(self, rows: Rows) -> None:
        """Free the rows, wherever they are."""
        self.held.remove(rows)
        rows.free()

    def _path(self, place: str) -> Path | None:
        if place != FILES:
            return None
        self.made += 1
        return Path(self.folder.name) / f"{self.made}.bin"

    def close(self) -> None:
        """Free all rows and remove the temporary folder."""
        for rows in self.held:
            rows.mapped = None  # some systems keep a file as long as it is mapped
        self.held.clear()
        self.folder.cleanup()
