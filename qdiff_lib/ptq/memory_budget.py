"""How many bytes a calibration will cache, computed before it begins, and where they may be.

For every calibration input, three things are cached (see ``ptq.replay``): the full-precision outputs of units
that later units need, the same outputs of the quantized network, and the arguments of the unit that is being
fitted. ``Budget`` divides them among the device, RAM and files.
"""

import shutil
import tempfile
from dataclasses import dataclass
from math import inf, prod
from pathlib import Path

import torch
from torch import nn

from ..graph.tracing import Trace

CPU = torch.device("cpu")
PLACES = DEVICE, RAM, FILES = "device", "RAM", "files"  # of cached activations, the fastest first
GIB = 2**30
LEFT_FREE = 8 * GIB  # of a GPU, for fitting a unit and for the kernels' own buffers (docs/memory.md)


@dataclass(frozen=True)
class Budget:
    """Where cached activations may be: on the device as far as they fit, then in RAM, then in files.

    ram, device: the most bytes in RAM and on the device. on: the device on which the units run. On the CPU
    both are one memory, and ``ram`` limits it. sharing: processes on this machine, each with this budget, and
    all with one disk.

    Raises ValueError for a negative number of bytes.
    """

    ram: int
    device: int = 0
    on: torch.device = CPU
    sharing: int = 1

    def __post_init__(self):
        for name in ("ram", "device"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)!r} must be a number of bytes, 0 or more")

    @classmethod
    def of(
        cls, unet: nn.Module, memory_gb: float, device_gb: float | None = None, sharing: int = 1
    ) -> "Budget":
        """The budget for calibrating ``unet`` (before its quantized copy is made) on its device.

        memory_gb, device_gb: most RAM and most memory of the device, in units of 2^30 bytes. device_gb=None:
        on a GPU, what is free beside the copy and ``LEFT_FREE``. sharing: processes on this machine; they
        share ``memory_gb`` equally, and each has a device of its own.

        Raises ValueError for a negative number, and for ``device_gb`` on the CPU.
        """
        parameters = list(unet.parameters())
        on = parameters[0].device
        if on.type == "cpu" and device_gb is not None:
            raise ValueError(
                f"device_gb={device_gb:g}: the network is on the CPU, where memory_gb limits the cache: "
                "leave device_gb out, or move the pipeline to a GPU"
            )
        if device_gb is not None:
            device = int(device_gb * GIB)
        else:
            device = max(0, free_bytes(on) - sum(value.nbytes for value in parameters) - LEFT_FREE)
        return cls(int(memory_gb * GIB) // sharing, device, on, sharing)

    def limit(self, place: str) -> float:
        """The most bytes in one of ``PLACES``; for files, infinity."""
        return {DEVICE: self.device, RAM: self.ram, FILES: inf}[place]

    def at_most(self, needed: int) -> dict[str, int]:
        """The most bytes in each place while ``needed`` bytes are cached.

        An array is never divided among places. So files may have to take what would have fitted as a sum.
        """
        ram = 0 if needed <= self.device else min(needed, self.ram)
        files = 0 if needed <= max(self.device, self.ram) else needed
        return {DEVICE: min(needed, self.device), RAM: ram, FILES: files}


def free_bytes(device: torch.device) -> int:
    """Bytes of a GPU that tensors of this process can still take; 0 for other devices."""
    if device.type != "cuda":
        return 0
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept


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


def cache_line(trace: Trace, n: int, budget: Budget, bits: int = 32) -> str:
    """Say in one line how much of each place the cached activations take at most.

    The arguments are those of ``check_disk``.
    """
    needed = max(cached_bytes(trace, n, bits))
    most = {place: size(count) for place, count in budget.at_most(needed).items()}
    device = f"{most[DEVICE]} on the device, " if budget.device else ""
    return f"caches up to {size(needed)}: {device}{most[RAM]} in memory, {most[FILES]} in files"


def size(count: float) -> str:
    """A number of bytes as a text: in GB, or in MB or kB if it is small."""
    if 0 < count < 1e8:
        return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"
    return f"{count / 1e9:.1f} GB"


def check_disk(trace: Trace, n: int, budget: Budget, folder: Path | None, bits: int = 32) -> None:
    """Raise ValueError if the disk of ``folder`` may be too small for the cached activations.

    n: the number of calibration inputs of one process. folder: None is the folder of temporary files. bits:
    of a cached number. If everything fits on the device or into RAM, nothing is written. Otherwise the disk
    must have room for everything, of all processes on this machine: how much of it RAM holds depends on the
    order of the sizes.
    """
    needed = max(cached_bytes(trace, n, bits))
    if not budget.at_most(needed)[FILES]:
        return
    needed, ram = budget.sharing * needed, budget.sharing * budget.ram
    each = f" in each of {budget.sharing} processes" if budget.sharing > 1 else ""
    place = existing(Path(folder or tempfile.gettempdir()))
    free = shutil.disk_usage(place).free
    if needed > free:
        raise ValueError(
            f"memory_gb={ram / GIB:g}: calibration on {n:,} inputs{each} may write up to {size(needed)} to "
            f"{str(place)!r}, where {size(free)} are free: name a folder on a larger disk, take fewer "
            f"samples, or set memory_gb to {needed / GIB:.2g} if the machine has that much memory"
        )


def existing(folder: Path) -> Path:
    """The folder, or its nearest parent that exists."""
    folder = folder.resolve()
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return folder
