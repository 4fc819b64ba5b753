"""How a quantization is carried out: what all stages of one run share beside their part of the recipe."""

from collections.abc import Callable
from dataclasses import dataclass

from ..io.quantization import UnitReport
from .activation_store import RowStore
from .work_folder import WorkFolder


@dataclass(frozen=True)
class Run:
    """One run of ``quantize``. Of all this only the seed changes the result.

    seed: of all random draws. memory_gb: most RAM for cached activations, in 2^30 bytes; the rest goes to
    files. files: where recorded inputs and finished units are kept, and taken from; None: nowhere. progress:
    whether bars are shown. callback: called with the report of each unit, and of each stage after them.
    """

    seed: int = 0
    memory_gb: float = 4.0
    files: WorkFolder | None = None
    progress: bool = True
    callback: Callable[[UnitReport], None] | None = None

    def store(self) -> RowStore:
        """An empty store of activations within this memory; its files are in the work folder."""
        return RowStore(int(self.memory_gb * 2**30), self.files and self.files.folder)

    def finished(self, report: UnitReport) -> UnitReport:
        """Hand a report to whoever wants to see it."""
        if self.callback:
            self.callback(report)
        return report
