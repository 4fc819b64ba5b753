"""How many bytes a calibration will cache, computed before it begins. RAM holds a part, files hold the rest.

For every calibration input, three things are cached (see ``ptq.replay``): the full-precision outputs of units
that later units need, the same outputs of the quantized network, and the arguments of the unit that is being
fitted.
"""

import shutil
import tempfile
from math import prod
from pathlib import Path

from ..graph.tracing import Trace


def cached_bytes(trace: Trace, n: int, bits: int = 32) -> list[int]:
    """The largest number of bytes cached while each unit is fitted, in RAM and files together.

    n: the number of calibration inputs. bits: of a cached number. Returns one number for each unit, in
    execution order.
    """
    held: dict[int, int] = {}  # floats of each output still needed, for one network and one input
    most = []
    for k, unit in enumerate(trace.units):
        before, output, outlet = 2 * sum(held.values()), prod(unit.shape), prod(unit.outlet_shape)
        fitting = before + 2 * output + unit.given
        most.append(bits // 8 * n * max(fitting, before + 2 * output + outlet if unit.outlet else 0))
        held[k] = outlet if unit.outlet else output
        held = {i: numbers for i, numbers in held.items() if trace.last_use(i) > k}
    return most


def cache_line(trace: Trace, n: int, memory_gb: float, bits: int = 32) -> str:
    """Say in one line how much memory and how much room in files the cached activations take at most.

    The arguments are those of ``check_disk``.
    """
    needed = max(cached_bytes(trace, n, bits))
    held = min(needed, memory_gb * 2**30)
    files = needed if needed > held else 0
    return f"caches up to {size(needed)}: {size(held)} in memory, {size(files)} in files"


def size(count: float) -> str:
    """A number of bytes as a text: in GB, or in MB or kB if it is small."""
    if 0 < count < 1e8:
        return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"
    return f"{count / 1e9:.1f} GB"


def check_disk(trace: Trace, n: int, memory_gb: float, folder: Path | None, bits: int = 32) -> None:
    """Raise ValueError if the disk of ``folder`` may be too small for the cached activations.

    n: the number of calibration inputs. memory_gb: RAM for cached activations, in units of 2^30 bytes.
    folder: None is the folder of temporary files. bits: of a cached number. If everything fits into RAM,
    nothing is written. Otherwise the disk must have room for everything: how much of it RAM holds depends on
    the order of the sizes.
    """
    needed = max(cached_bytes(trace, n, bits))
    if needed <= memory_gb * 2**30:
        return
    place = existing(Path(folder or tempfile.gettempdir()))
    free = shutil.disk_usage(place).free
    if needed > free:
        raise ValueError(
            f"memory_gb={memory_gb:g}: calibration on {n:,} inputs may write up to {size(needed)} to "
            f"{str(place)!r}, where {size(free)} are free: name a folder on a larger disk, take fewer "
            f"samples, or set memory_gb to {needed / 2**30:.2g} if the machine has that much memory"
        )


def existing(folder: Path) -> Path:
    """The folder, or its nearest parent that exists."""
    folder = folder.resolve()
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return folder
