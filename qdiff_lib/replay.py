"""Advancing cached inputs from unit to unit, without ever running the network's prefix again.

To reach unit k the UNet's own forward runs with every earlier unit replaced by a stub that returns its cached
output; the concatenations, skips and norms between units run for real, and cost next to nothing. Unit k's
arguments are captured and the pass is broken off. Outputs that no later unit needs are freed, and attention
matrices live inside units, so none is ever cached.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from .calibration import CalibrationSet
from .store import Rows, RowStore
from .tracing import Trace


def row_batches(n: int, size: int = 64) -> list[slice]:
    """Consecutive slices of at most ``size`` rows that cover ``n`` of them."""
    return [slice(i, min(i + size, n)) for i in range(0, n, size)]


class _Reached(Exception):
    """The unit whose arguments were wanted has been called."""

    def __init__(self, arguments):
        self.arguments = arguments


@dataclass
class UnitInputs:
    """The arguments of one unit for all N calibration inputs.

    leaves: per leaf of (args, kwargs) its rows, or the constant itself. Repeated tensors share their rows.
    """

    leaves: list
    spec: TreeSpec

    def batch(self, index: slice | Tensor, device: torch.device) -> tuple[tuple, dict]:
        """(args, kwargs) of the rows that ``index`` selects."""
        leaves = [v[index].to(device) if isinstance(v, Rows) else v for v in self.leaves]
        return tree_unflatten(leaves, self.spec)

    def free(self, store: RowStore) -> None:
        """Give the rows back."""
        for rows in {id(v): v for v in self.leaves if isinstance(v, Rows)}.values():
            store.free(rows)


class Replay:
    """One UNet (full-precision or quantized) on its way through the units.

    outputs: cached output rows of each finished unit that is still needed. All loops run in batches of
    ``batch_size`` rows, in order.
    """

    def __init__(
        self, unet: nn.Module, trace: Trace, inputs: CalibrationSet, store: RowStore, batch_size: int = 64
    ):
        self.unet, self.trace, self.inputs, self.store = unet, trace, inputs, store
        self.batch_size = batch_size
        self.device = next(unet.parameters()).device
        self.modules = [unet.get_submodule(unit.name) for unit in trace.units]
        self.outputs: dict[int, Rows] = {}

    def batches(self) -> list[slice]:
        """Consecutive slices that cover all rows."""
        return row_batches(len(self.inputs), self.batch_size)

    @torch.no_grad()
    def arguments(self, k: int, rows: slice) -> tuple[tuple, dict]:
        """(args, kwargs) that unit ``k`` gets for these rows of the calibration set."""

        def reach(*args, **kwargs):
            raise _Reached((args, kwargs))

        stubs = [self._stub(i, rows) for i in range(k)] + [reach]
        for module, stub in zip(self.modules, stubs, strict=False):
            module.forward = stub
        try:
            self.unet(**self.inputs.rows(rows, self.device))
        except _Reached as reached:
            return reached.arguments
        finally:
            for module, _ in zip(self.modules, stubs, strict=False):
                del module.forward
        raise RuntimeError(f"unit {self.trace.units[k].name!r} was not reached")

    def _stub(self, i: int, rows: slice):
        count = rows.stop - rows.start

        def stub(*args, **kwargs):
            if i in self.outputs:
                return self.outputs[i][rows].to(self.device)
            return torch.zeros(1, device=self.device).expand(count, *self.trace.units[i].shape)

        return stub

    def collect(self, k: int) -> UnitInputs:
        """Unit ``k``'s arguments for all rows, in the store."""
        collected = None
        for rows in self.batches():
            leaves, spec = tree_flatten(self.arguments(k, rows))
            if collected is None:
                collected = UnitInputs(self._allocate(leaves, rows), spec)
            for kept, leaf in zip(collected.leaves, leaves, strict=True):
                if isinstance(kept, Rows):
                    kept[rows] = leaf
        return collected

    def _allocate(self, leaves: list, rows: slice) -> list:
        made: dict[int, Rows] = {}
        for leaf in leaves:
            if isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == rows.stop - rows.start:
                if id(leaf) not in made:
                    made[id(leaf)] = self.store.allocate((len(self.inputs), *leaf.shape[1:]))
        return [made.get(id(leaf), leaf) for leaf in leaves]

    @torch.no_grad()
    def advance(self, k: int, inputs: UnitInputs | None = None) -> Rows:
        """Run unit ``k`` on all rows, cache its output, and free what only it needed."""
        outputs = self.store.allocate((len(self.inputs), *self.trace.units[k].shape))
        for rows in self.batches():
            args, kwargs = inputs.batch(rows, self.device) if inputs else self.arguments(k, rows)
            outputs[rows] = self.modules[k](*args, **kwargs)
        self.outputs[k] = outputs
        return outputs

    def forget(self, k: int) -> None:
        """Free the outputs that no unit after ``k`` needs."""
        for i in [i for i in self.outputs if self.trace.last_use(i) <= k]:
            self.store.free(self.outputs.pop(i))
