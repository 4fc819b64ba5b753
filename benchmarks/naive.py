"""Block reconstruction as it is often written: the network's whole prefix again for every unit.

Three things differ from ``qdiff_lib.reconstruction``, and nothing else does:

1. for each unit, a hook stops a pass that starts at the noise: through the full-precision network for the
   unit's target outputs, through the quantized one for its inputs, on all N calibration inputs each time;
2. all that the hooks catch is stored in RAM, first as a list of batches, then as one tensor;
3. gradients of the unit's frozen parameters stay enabled, and are computed in every iteration.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from qdiff_lib.calibration.calibration_set import CalibrationSet
from qdiff_lib.graph.tracing import Trace
from qdiff_lib.modules.activation_quantizer import activation_quantizers
from qdiff_lib.ptq.fitting import UnitFitter, reconstruction_loss, unit_seed
from qdiff_lib.recipes.recipe import Recipe


class Caught(Exception):
    """The unit has been reached: the rest of the pass is not needed."""


class InRAM:
    """A tensor (N, ...) in RAM, as a column from which the library's fitter reads rows (``ptq.feed``)."""

    here = torch.device("cpu")

    def __init__(self, values: Tensor):
        self.values, self.shape = values, values.shape
        self.stored = self.read = values.dtype

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        return self.values[index]

    def select(self, index: Tensor, out: Tensor | None = None) -> Tensor:
        """The rows with these numbers."""
        return torch.index_select(self.values, 0, index, out=out)


@dataclass
class StoredInputs:
    """A unit's arguments for all N calibration inputs, in RAM; leaves without N rows are constants."""

    leaves: list
    spec: TreeSpec
    samples: int

    def batch(self, index: slice | Tensor, device: torch.device) -> tuple[tuple, dict]:
        """(args, kwargs) of the rows that ``index`` selects."""
        return self.with_rows([column[index].to(device) for column in self.columns()])

    def columns(self) -> list[InRAM]:
        """The leaves with rows."""
        return [InRAM(v) for v in self.leaves if has_rows(v, self.samples)]

    def with_rows(self, rows: Sequence[Tensor]) -> tuple[tuple, dict]:
        """(args, kwargs) with these rows of ``columns()``."""
        given = iter(rows)
        return tree_unflatten(
            [next(given) if has_rows(v, self.samples) else v for v in self.leaves], self.spec
        )


def has_rows(leaf, count: int) -> bool:
    """Whether ``leaf`` is a tensor of ``count`` rows."""
    return isinstance(leaf, Tensor) and leaf.ndim > 0 and len(leaf) == count


class FrozenGradFitter(UnitFitter):
    """The library's fitter, with gradients of the frozen parameters left enabled."""

    def minimize(self, *args, **kwargs) -> None:
        self.unit.requires_grad_(True)
        super().minimize(*args, **kwargs)
        self.unit.requires_grad_(False)

    def gradients(self, loss: Tensor, parameters: list[Tensor]) -> list[Tensor]:
        self.unit.zero_grad()
        loss.backward()
        return [parameter.grad for parameter in parameters]


class NaiveReconstruction:
    """``full`` is the original network and ``quantized`` the one that is fitted, unit by unit, in place."""

    def __init__(
        self,
        full: nn.Module,
        quantized: nn.Module,
        trace: Trace,
        inputs: CalibrationSet,
        recipe: Recipe,
        batch_size: int = 64,
    ):
        self.full, self.quantized, self.trace = full, quantized, trace
        self.inputs, self.recipe = inputs, recipe
        self.given: StoredInputs | None = None  # the arguments and the target of the current unit
        self.target: Tensor | None = None
        starts = range(0, len(inputs), batch_size)
        self.batches = [slice(i, min(i + batch_size, len(inputs))) for i in starts]

    def reconstruct_unit(self, k: int) -> None:
        """Fit unit ``k``; the units before it must be finished."""
        name = self.trace.units[k].name
        self.target = self.outputs_of(self.full, name)
        self.given = self.inputs_of(self.quantized, name)
        self.fit_unit(k)

    def outputs_of(self, model: nn.Module, name: str) -> Tensor:
        """What the unit returns for all calibration inputs."""
        kept = []

        def catch(module, args, kwargs, output):
            kept.append(output)
            raise Caught

        handle = model.get_submodule(name).register_forward_hook(catch, with_kwargs=True)
        self.run(model)
        handle.remove()
        return torch.cat(kept)

    def inputs_of(self, model: nn.Module, name: str) -> StoredInputs:
        """What the unit is called with for all calibration inputs."""
        kept = []

        def catch(module, args, kwargs):
            kept.append(tree_flatten((args, kwargs)))
            raise Caught

        handle = model.get_submodule(name).register_forward_pre_hook(catch, with_kwargs=True)
        self.run(model)
        handle.remove()
        columns = zip(*(leaves for leaves, _ in kept), strict=True)
        first = self.batches[0].stop
        leaves = [torch.cat(column) if has_rows(column[0], first) else column[0] for column in columns]
        return StoredInputs(leaves, kept[0][1], len(self.inputs))

    @torch.no_grad()
    def run(self, model: nn.Module) -> None:
        """Start a pass for every batch; a hook ends it."""
        for rows in self.batches:
            try:
                model(**self.inputs.rows(rows))
            except Caught:
                continue

    def fit_unit(self, k: int) -> None:
        """As ``qdiff_lib.ptq.reconstruction.fit_unit``: weights, then activation ranges, then their steps."""
        unit = self.quantized.get_submodule(self.trace.units[k].name)
        seed = unit_seed(self.recipe.seed, k)
        given = (unit, self.given, InRAM(self.target), self.batches)
        how = (self.recipe.rounding, self.recipe.step_sizes, seed)
        fitter = FrozenGradFitter(*given, *how, tick=lambda: None)
        fitter.find_weight_ranges()
        fitter.fit_weights()
        if activation_quantizers(unit):
            fitter.observe()
            fitter.fit_step_sizes()

    @torch.no_grad()
    def error(self, k: int) -> float:
        """The loss of unit ``k``, the one fitted last, over all calibration inputs."""
        unit, total = self.quantized.get_submodule(self.trace.units[k].name), 0.0
        for rows in self.batches:
            args, kwargs = self.given.batch(rows, "cpu")
            total += float(reconstruction_loss(unit(*args, **kwargs), self.target[rows])) * len(
                self.target[rows]
            )
        return total / len(self.target)
