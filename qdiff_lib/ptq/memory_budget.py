"""How many bytes a calibration caches, known before it begins: RAM holds its share, files hold the rest.

Cached are, for every calibration input, the outputs that later units still need, once of the full-precision
network and once of the quantized one, and the arguments of the unit that is being fitted (see ``replay``).
"""

import shutil
import tempfile
from math import prod
from pathlib import Path

from ..graph.tracing import Trace

FLOAT_BYTES = 4


def cached_bytes(trace: Trace, n: int) -> list[int]:
    """The most bytes cached while each unit is fitted, for ``n`` calibration inputs; in RAM and in files."""
    held: dict[int, int] = {}  # numbers of each output that is still needed, of one network and for one input
    most = []
    for k, unit in enumerate(trace.units):
        before, output, outlet = 2 * sum(held.values()), prod(unit.shape), prod(unit.outlet_shape)
        fitting = before + 2 * output + unit.given
        most.append(FLOAT_BYTES * n * max(fitting, before + 2 * output + outlet if unit.outlet else 0))
        held[k] = outlet if unit.outlet else output
        held = {i: numbers for i, numbers in held.items() if trace.last_use(i) > k}
    return most


def check_disk(trace: Trace, n: int, memory_gb: float, folder: Path | None) -> None:
    """Raise ValueError where the disk of ``folder`` (None: that of temporary files) may be too small.

    memory_gb: RAM for cached activations, in 2^30 bytes; where everything fits, nothing is written. What RAM
    saves beyond that depends on how the sizes fall, so the disk must have room for all.
    """
    needed = max(cached_bytes(trace, n))
    if needed <= memory_gb * 2**30:
        return
    place = existing(Path(folder or tempfile.gettempdir()))
    free = shutil.disk_usage(place).free
    if needed > free:
        raise ValueError(
            f"memory_gb={memory_gb:g}: calibration on {n:,} inputs may write up to {needed / 1e9:.1f} GB to "
            f"{str(place)!r}, where {free / 1e9:.1f} GB are free: name a folder on a larger disk, take fewer "
            f"samples, or set memory_gb to {needed / 2**30:.1f} if the machine has that much memory"
        )


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    folder = folder.resolve()
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return folder
