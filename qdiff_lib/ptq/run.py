"""The settings that all stages of one call of ``quantize`` share, besides the recipe."""

from collections.abc import Callable
from dataclasses import dataclass

from ..io.quantization import UnitReport
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
    """

    seed: int = 0
    budget: Budget = Budget(4 * GIB)
    files: WorkFolder | None = None
    cache_bits: int = 32
    progress: bool = True
    callback: Callable[[UnitReport], None] | None = None

    def store(self) -> RowStore:
        """An empty store of activations with this budget; its files are in the work folder, if any."""
        return RowStore(self.budget, self.files and self.files.folder, self.cache_bits)

    def finished(self, report: UnitReport) -> UnitReport:
        """Call the callback with the report; returns the report."""
        if self.callback:
            self.callback(report)
        return report
