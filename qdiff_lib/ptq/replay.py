"""Getting the inputs of one unit after the other from cached outputs, without running earlier units again.

To get the arguments of unit k, the UNet's own forward runs, but every earlier unit is replaced by a stub that
returns its cached output. Concatenations, skip connections and norms between units really run; they cost
little. When unit k is called, its arguments are captured and the pass ends.

Outputs that no later unit needs are freed. Arguments that are inputs of the network, such as the text, are
not copied. Attention matrices occur only inside units, so they are never cached.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from ..calibration.calibration_set import CalibrationSet, Shared
from ..graph.model_inputs import flat_inputs
from ..graph.tracing import Trace
from .activation_store import Rows, RowStore


def row_batches(n: int, size: int) -> list[slice]:
    """Consecutive slices of at most ``size`` rows that cover ``n`` rows."""
    return [slice(i, min(i + size, n)) for i in range(0, n, size)]


class _Reached(Exception):
    """Ends a pass that has found the arguments of a unit, or the output of an outlet."""

    def __init__(self, found):
        self.found = found


@dataclass(frozen=True)
class InputRows:
    """An argument of a unit that is an input of the network; its rows are in the calibration set.

    inputs: the calibration set. name: the column of the argument.
    """

    inputs: CalibrationSet
    name: str

    @property
    def column(self) -> Tensor | Shared:
        """All rows."""
        return self.inputs.inputs[self.name]

    @property
    def values(self) -> Tensor:
        """The different rows."""
        return self.column.values if isinstance(self.column, Shared) else self.column

    @property
    def shape(self) -> tuple[int, ...]:
        """Of all rows, as of ``Rows``."""
        return len(self.inputs), *self.values.shape[1:]

    @property
    def stored(self) -> torch.dtype:
        """The type of the numbers, which are also read in it."""
        return self.values.dtype

    read = stored

    @property
    def here(self) -> torch.device:
        """The device on which the rows are."""
        return self.values.device

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        return self.column[index]

    def select(self, index: Tensor, out: Tensor | None = None) -> Tensor:
        """The rows with these numbers; into ``out``."""
        index = self.column.index[index] if isinstance(self.column, Shared) else index
        return torch.index_select(self.values, 0, index, out=out)


@dataclass
class UnitInputs:
    """The arguments of one unit for all N calibration inputs.

    leaves: for each leaf of the tree (args, kwargs), its rows, or the value itself if it is constant. If a
    tensor occurs twice, its rows are stored once. spec: the form of the tree.
    """

    leaves: list
    spec: TreeSpec

    def batch(self, index: slice | Tensor, device: torch.device) -> tuple[tuple, dict]:
        """(args, kwargs) of the unit for the rows that ``index`` selects, on ``device``."""
        return self.with_rows([column[index].to(device) for column in self.columns()])

    def columns(self) -> list[Rows | InputRows]:
        """The leaves that have rows, each once."""
        return list({id(v): v for v in self.leaves if isinstance(v, Rows | InputRows)}.values())

    def with_rows(self, rows: Sequence[Tensor]) -> tuple[tuple, dict]:
        """(args, kwargs) of the unit, with these rows of ``columns()``."""
        found = {id(column): value for column, value in zip(self.columns(), rows, strict=True)}
        return tree_unflatten([found.get(id(v), v) for v in self.leaves], self.spec)

    def free(self, store: RowStore) -> None:
        """Free the rows in the store."""
        for column in self.columns():
            if isinstance(column, Rows):
                store.free(column)


class Replay:
    """Runs the units of one UNet, full-precision or quantized, one after the other on cached inputs.

    trace: the units. inputs: the calibration set. store: allocates the cache. batch_size: rows of each pass;
    None: as many as the trace allows. outputs: the cached outputs of finished units that later units need, by
    unit number.
    """

    def __init__(
        self,
        unet: nn.Module,
        trace: Trace,
        inputs: CalibrationSet,
        store: RowStore,
        batch_size: int | None = None,
    ):
        self.unet, self.trace, self.inputs, self.store = unet, trace, inputs, store
        self.batch_size = batch_size or trace.batch_size
        self.device = next(unet.parameters()).device
        self.modules = [unet.get_submodule(unit.name) for unit in trace.units]
        self.outputs: dict[int, Rows] = {}

    def batches(self) -> list[slice]:
        """Consecutive slices that cover all rows."""
        return row_batches(len(self.inputs), self.batch_size)

    def arguments(self, k: int, rows: slice) -> tuple[tuple, dict]:
        """(args, kwargs) of unit ``k`` for these rows of the calibration set."""
        return self._arguments(k, rows, self.inputs.rows(rows, self.device))

    def _arguments(self, k: int, rows: slice, batch: dict[str, Any]) -> tuple[tuple, dict]:
        def reach(*args, **kwargs):
            raise _Reached((args, kwargs))

        return self._until_reached({**self._stubs(k, rows), self.modules[k]: reach}, batch)

    @torch.no_grad()
    def _until_reached(self, forwards: dict[nn.Module, Callable], batch: dict[str, Any]):
        """Run the network on a batch, with other forwards for some modules, until one raises ``_Reached``."""
        own = {module: vars(module).get("forward") for module in forwards}  # some libraries set one
        for module, forward in forwards.items():
            module.forward = forward
        try:
            self.unet(**batch)
        except _Reached as reached:
            return reached.found
        finally:
            for module, forward in own.items():
                del module.forward
                if forward is not None:
                    module.forward = forward
        raise RuntimeError("the pass ended without reaching what it looked for")

    def _stubs(self, k: int, rows: slice) -> dict[nn.Module, Callable]:
        """Forwards for the first ``k`` units, which are finished; they return the cached outputs."""
        stubs = {}
        for i, unit in enumerate(self.trace.units[:k]):
            if unit.outlet:
                outlet = self.unet.get_submodule(unit.outlet)
                stubs[outlet] = self._stub(i, rows, unit.outlet_shape, lambda value: (value,))
            else:
                stubs[self.modules[i]] = self._stub(i, rows, unit.shape)
        return stubs

    def _stub(self, i: int, rows: slice, shape: tuple[int, ...], wrap: Callable = lambda value: value):
        def stub(*args, **kwargs):
            if i in self.outputs:
                return wrap(self.outputs[i][rows])
            return wrap(torch.zeros(1, device=self.device).expand(rows.stop - rows.start, *shape))

        return stub

    def collect(self, k: int) -> UnitInputs:
        """The arguments of unit ``k`` for all rows, kept in the store."""
        collected = None
        for rows in self.batches():
            batch = self.inputs.rows(rows, self.device)
            leaves, spec = tree_flatten(self._arguments(k, rows, batch))
            if collected is None:
                collected = UnitInputs(self._allocate(leaves, batch), spec)
            for kept, leaf in zip(collected.leaves, leaves, strict=True):
                if isinstance(kept, Rows):
                    kept[rows] = leaf
        return collected

    def _allocate(self, leaves: list, batch: dict[str, Any]) -> list:
        """Rows for each tensor with one row per input, except for inputs of the network."""
        given = flat_inputs(batch)
        made: dict[int, Rows | InputRows] = {id(v): InputRows(self.inputs, k) for k, v in given.items()}
        count = len(next(iter(given.values())))
        for leaf in leaves:
            if isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == count and id(leaf) not in made:
                made[id(leaf)] = self.store.allocate((len(self.inputs), *leaf.shape[1:]))
        return [made.get(id(leaf), leaf) for leaf in leaves]

    @torch.no_grad()
    def advance(self, k: int, inputs: UnitInputs | None = None) -> Rows:
        """Run unit ``k`` on all rows; returns its output, which is also cached.

        inputs: its arguments; None: compute them from the cached outputs.
        """
        outputs = self.store.allocate((len(self.inputs), *self.trace.units[k].shape))
        for rows in self.batches():
            args, kwargs = inputs.batch(rows, self.device) if inputs else self.arguments(k, rows)
            outputs[rows] = self.modules[k](*args, **kwargs)
        self.outputs[k] = outputs
        return outputs

    def finish(self, k: int) -> None:
        """Free the outputs that no unit after ``k`` needs.

        If unit ``k`` has an outlet, cache the output of the outlet in place of the output of the unit.
        """
        unit = self.trace.units[k]
        if unit.outlet:
            own, kept = self.outputs[k], self.store.allocate((len(self.inputs), *unit.outlet_shape))
            for rows in self.batches():
                kept[rows] = self._outlet_output(k, rows)
            self.outputs[k] = kept
            self.store.free(own)
        for i in [i for i in self.outputs if self.trace.last_use(i) <= k]:
            self.store.free(self.outputs.pop(i))

    def _outlet_output(self, k: int, rows: slice) -> Tensor:
        unit = self.trace.units[k]
        outlet = self.unet.get_submodule(unit.outlet)

        def reach(*args, **kwargs):
            raise _Reached(type(outlet).forward(outlet, *args, **kwargs)[0])

        forwards = {**self._stubs(k, rows), self.modules[k]: self._stub(k, rows, unit.shape), outlet: reach}
        return self._until_reached(forwards, self.inputs.rows(rows, self.device))
