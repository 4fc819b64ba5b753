"""Where, when and how a recorded result was made."""

import platform
import subprocess
import sys
from datetime import date
from pathlib import Path

import psutil
import torch

INSTRUCTIONS = ("amx_int8", "avx512_vnni", "avx_vnni", "avx512_f", "avx2")
"""Instruction sets on which the speed of integers depends, from fast to slow, as torch names them."""


def provenance(command: str) -> dict:
    """Return the machine, the memory (2^30 bytes), the versions, the date and the commit as a JSON object.

    Args:
        command: what a reader types to make the result again.
    """
    return {
        "command": command,
        "machine": machine(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": date.today().isoformat(),
        "commit": commit(),
    }


def machine() -> str:
    """Describe the GPU (if there is one), the processor, its cores, and the number of torch's threads."""
    gpu = f"{torch.cuda.get_device_name()}, " if torch.cuda.is_available() else ""
    threads = torch.get_num_threads()
    return f"{gpu}{processor()}, {psutil.cpu_count()} cores, {threads} thread{'s' * (threads > 1)}"


def processor() -> str:
    """Return the processor's name and the widest of ``INSTRUCTIONS`` that it has."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    has = torch.cpu.get_capabilities()
    return " with ".join([name, *[each for each in INSTRUCTIONS if has.get(each)][:1]])


def peak_memory() -> int:
    """Return the most bytes of RAM that this process has used so far, as the operating system counted them.

    Python and torch are included.
    """
    status = Path("/proc/self/status")  # Linux: a process inherits ru_maxrss from its parent
    for line in status.read_text().splitlines() if status.exists() else []:
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def commit() -> str | None:
    """Return the checkout's commit, with "+changes" if the library differs from it; None outside of git."""
    try:
        head = _git("rev-parse", "--short", "HEAD")
        return head + ("+changes" if _git("status", "--porcelain", "--", "qdiff_lib") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str) -> str:
    folder = Path(__file__).resolve().parents[2]
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.check_output(command, text=True, stderr=subprocess.DEVNULL).strip()
