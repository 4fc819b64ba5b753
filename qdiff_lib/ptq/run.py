"""The settings that all stages of one call of ``quantize`` share, besides the recipe."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ..io.quantization import UnitReport
from ..modules.state import quantized_state, restore_state
from ..utils.processes import ALONE, Processes
from .activation_store import RowStore
from .memory_budget import GIB, Budget
from .work_folder import WorkFolder


@dataclass(frozen=True)
class Run:
    """One run of ``quantize``. Only the seed and the bits of the cache change the result.

    seed: of all random numbers. budget: where cached activations may be. files: the work folder; None:
    nothing is kept. progress: whether progress bars are shown. cache_bits: of each cached activation, 32 or
    16.
    callback: called with the report of each unit, and of each stage after the last unit.
    processes: those that share the work. Only the main one has ``files``, a bar and a callback. spill: the
    folder for cached activations that do not fit into memory; None: that of temporary files.
    """

    seed: int = 0
    budget: Budget = Budget(4 * GIB)
    files: WorkFolder | None = None
    cache_bits: int = 32
    progress: bool = True
    callback: Callable[[UnitReport], None] | None = None
    processes: Processes = ALONE
    spill: Path | None = None

    def store(self) -> RowStore:
        """An empty store of activations with this budget; its files are in the work folder, if any."""
        folder = self.files.folder if self.files else self.spill
        return RowStore(self.budget, folder, self.cache_bits)

    def restored(self, index: int, unit: nn.Module) -> UnitReport | None:
        """The report of a unit that is finished in the work folder, or None; ``unit`` then has its state."""
        report = self.files.load_unit(index, unit) if self.files else None
        report = self.processes.agreed(report)
        if report is not None:
            self.align(unit)
        return report

    def keep(self, report: UnitReport, unit: nn.Module) -> None:
        """Write a finished unit to the work folder, if any."""
        if self.files:
            self.files.save_unit(report, unit)

    def align(self, unit: nn.Module) -> None:
        """Give every process the quantized state that the main one has."""
        if self.processes.count > 1:
            state = {name: value.cpu() for name, value in quantized_state(unit).items()}
            state = self.processes.agreed(state)
            if not self.processes.is_main:
                restore_state(unit, state)

    def finished(self, report: UnitReport) -> UnitReport:
        """Call the callback with the report; returns the report."""
        if self.callback:
            self.callback(report)
        return report
