"""Calibration inputs divided among processes, and gradients added up over them.

The N inputs are cut into parts of consecutive rows, as many as run through the network at once. Each process
has some of the parts (see ``utils.processes``) and caches the activations of their rows alone. Every process
draws the same random batches as a single process would. It computes the loss of the rows that it has, and the
gradients are added up. So all processes learn the same, from the same batches as a single process, in which
only the order of the sums is another.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..calibration.calibration_set import CalibrationSet
from ..utils.processes import ALONE, Processes
from .replay import row_batches


@dataclass(frozen=True)
class Share:
    """The rows of the calibration set that this process has.

    processes: among which they are divided. n: the number of all rows. size: rows of each part; the last
    part may have fewer.
    """

    processes: Processes
    n: int
    size: int

    @classmethod
    def of(cls, processes: Processes, n: int, most: int) -> "Share":
        """Parts of at most ``most`` rows, and of fewer if some process would have none.

        Raises ValueError if there are more processes than rows.
        """
        if n < processes.count:
            raise ValueError(f"{n} calibration inputs cannot be divided among {processes.count} processes")
        return cls(processes, n, min(most, n // processes.count))

    @classmethod
    def whole(cls, n: int) -> "Share":
        """All ``n`` rows, in a single process."""
        return cls(ALONE, n, n)

    @property
    def divided(self) -> bool:
        """Whether there are other processes."""
        return self.processes.count > 1

    @property
    def most(self) -> int:
        """The most rows that a process has."""
        return sum(part.stop - part.start for part in self.parts[:: self.processes.count])

    @cached_property
    def parts(self) -> list[slice]:
        """The rows of all parts."""
        return row_batches(self.n, self.size)

    @cached_property
    def rows(self) -> Tensor:
        """The numbers of the rows that this process has, in order."""
        return torch.cat([torch.arange(self.n)[part] for part in self.processes.share(self.parts)])

    @cached_property
    def _places(self) -> Tensor:
        places = torch.full((self.n,), -1)
        places[self.rows] = torch.arange(len(self.rows))
        return places

    def inputs(self, every: CalibrationSet) -> CalibrationSet:
        """The calibration set with the rows of this process."""
        return every.part(self.rows) if self.divided else every

    def draws(self, batches: list[Tensor]) -> tuple[Sequence[Tensor], list[float | None]]:
        """The rows of each random batch that this process has, and their weight in the loss of the batch.

        batches: the numbers of the rows among all. Returns the numbers among those of this process. If it has
        none of a batch, it computes one row, with the weight 0. The weights add up to 1 over all processes.
        In a single process they are None, and the batches come as one tensor (batches, batch).
        """
        if not self.divided:
            return torch.stack(batches), [None] * len(batches)
        own = [self._places[batch] for batch in batches]
        own = [places[places >= 0] for places in own]
        weights = [len(part) / len(batch) for part, batch in zip(own, batches, strict=True)]
        return [part if len(part) else torch.zeros(1, dtype=torch.long) for part in own], weights

    def mean(self, total: Tensor) -> float:
        """The mean over all rows of a loss; total: its sum over the rows of this process."""
        return float(self.processes.added([total])[0]) / self.n

    def in_turn(self, own: list[slice], generator: torch.Generator) -> Iterator[slice]:
        """Give the parts of this process, each when all parts before it are done, in whichever process.

        own: the rows of each of them among those of this process. generator: in every process it has then
        drawn what it would have drawn in a single process.
        """
        if not self.divided:
            yield from own
            return
        ours = iter(own)
        for part in range(len(self.parts)):
            owner = self.processes.owner(part)
            if owner == self.processes.number:
                yield next(ours)
            generator.set_state(self.processes.agreed(generator.get_state(), owner))

    def all_kept(self, own: list[list[Tensor]]) -> list[list[Tensor]]:
        """What all processes have kept, for each of several lists in the order of the parts.

        own: lists of tensors on the CPU; each part has added equally many tensors to a list.
        """
        if not self.divided:
            return own
        count = len(self.processes.share(self.parts))
        each = [len(kept) // count for kept in own]  # how many tensors a part has added
        cut = [[x[i * k : (i + 1) * k] for x, k in zip(own, each, strict=True)] for i in range(count)]
        found = self.processes.agreed(dict(self.processes.gathered(cut, len(self.parts))))
        return [[x for part in sorted(found) for x in found[part][i]] for i in range(len(own))]
