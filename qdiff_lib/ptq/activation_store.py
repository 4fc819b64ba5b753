"""Cached activations within a memory budget: in RAM as long as they fit, otherwise in files."""

import tempfile
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

TYPES = {32: torch.float32, 16: torch.float16}
SPILL = "activations-"  # prefix of the names of folders with cached activations


class Rows:
    """An array (N, ...) that is written and read by rows, in RAM or in a file.

    Rows are float32; ``bits``: 16 keeps them in half precision. path: the file; None: RAM. To be read, a file
    is mapped into memory only during one access, so that its pages do not stay in RAM. It is not written
    through a mapping: on a full disk this would kill the process (SIGBUS), but writing to the file raises
    OSError.
    """

    def __init__(self, shape: tuple[int, ...], path: Path | None, bits: int = 32):
        self.shape, self.path, self.bits = tuple(shape), path, bits
        self.kind = TYPES[bits]
        self.data = torch.empty(self.shape, dtype=self.kind) if path is None else None
        if path is not None:
            with open(path, "wb") as file:
                file.truncate(bits // 8 * prod(self.shape))

    @property
    def ram_bytes(self) -> int:
        """Bytes that this array holds in RAM."""
        return 0 if self.data is None else self.data.nbytes

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        """A copy of the rows that ``index`` selects: a slice, or a tensor of row numbers."""
        if self.data is not None:
            rows = self.data[index].clone() if isinstance(index, slice) else self.data.index_select(0, index)
            return rows.float()
        mapped = np.memmap(self.path, f"f{self.bits // 8}", "r", shape=self.shape)
        return torch.from_numpy(
            np.array(mapped[index if isinstance(index, slice) else index.numpy()])
        ).float()

    def __setitem__(self, index: slice, rows: Tensor) -> None:
        """Overwrite the rows that ``index`` selects, which are consecutive.

        Raises OSError for a full disk, and for a file above the limit of the process. Raises ValueError for a
        value that is too large for half precision.
        """
        values = rows.cpu().to(self.kind)
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

    def move_to_file(self, path: Path) -> None:
        """Write the rows, which are in RAM, to ``path`` and free the RAM. Raises OSError for a full disk."""
        path.write_bytes(self.data.numpy())
        self.path, self.data = path, None


class RowStore:
    """Allocates ``Rows`` such that all rows in RAM together take at most ``budget`` bytes.

    When RAM is needed, the oldest rows move to files. The files are in a temporary folder below ``folder``
    (None: the system's folder of temporary files). ``close`` removes the temporary folder. bits: of each
    number, 32 or 16.

    Raises ValueError for a negative budget.
    """

    def __init__(self, budget: int, folder: Path | None = None, bits: int = 32):
        if budget < 0:
            raise ValueError(f"budget={budget!r} must be a number of bytes, 0 or more")
        self.budget, self.bits, self.made = budget, bits, 0
        self.held: list[Rows] = []
        self.folder = tempfile.TemporaryDirectory(prefix=SPILL, dir=folder)

    @property
    def ram_bytes(self) -> int:
        """Bytes that all rows hold in RAM."""
        return sum(rows.ram_bytes for rows in self.held)

    def allocate(self, shape: tuple[int, ...]) -> Rows:
        """New rows of this shape, in RAM if they fit the budget after older rows have moved to files."""
        need = self.bits // 8 * prod(shape)
        for old in [rows for rows in self.held if rows.data is not None]:
            if need > self.budget or self.ram_bytes + need <= self.budget:
                break
            old.move_to_file(self._new_path())
        fits = self.ram_bytes + need <= self.budget
        rows = Rows(shape, None if fits else self._new_path(), self.bits)
        self.held.append(rows)
        return rows

    def free(self, rows: Rows) -> None:
        """Free the rows, in RAM and on disk."""
        self.held.remove(rows)
        rows.data = None
        if rows.path is not None:
            rows.path.unlink()

    def _new_path(self) -> Path:
        self.made += 1
        return Path(self.folder.name) / f"{self.made}.bin"

    def close(self) -> None:
        """Free all rows and remove the temporary folder."""
        self.held.clear()
        self.folder.cleanup()
