"""Where, when and how a recorded result was made."""

import platform
import subprocess
import sys
from datetime import date
from pathlib import Path

import psutil
import torch


def provenance(command: str) -> dict:
    """The machine, the versions, the date and the commit; ``command`` is what a reader would type."""
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
    """The GPU's name where there is one, the processor's name, its cores, and torch's threads."""
    gpu = f"{torch.cuda.get_device_name()}, " if torch.cuda.is_available() else ""
    threads = torch.get_num_threads()
    return f"{gpu}{processor()}, {psutil.cpu_count()} cores, {threads} thread{'s' * (threads > 1)}"


def processor() -> str:
    """The processor's name, from Linux where it tells, else from Python."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def peak_memory() -> int:
    """The most bytes that this process has had in RAM, Python and torch among them: the system's own mark."""
    status = Path("/proc/self/status")  # on Linux, where ru_maxrss is inherited from the parent
    for line in status.read_text().splitlines() if status.exists() else []:
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def commit() -> str | None:
    """The checkout's commit, with "+changes" when the library differs from it; None outside of git."""
    try:
        head = _git("rev-parse", "--short", "HEAD")
        return head + ("+changes" if _git("status", "--porcelain", "--", "qdiff_lib") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str) -> str:
    folder = Path(__file__).resolve().parents[2]
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.check_output(command, text=True, stderr=subprocess.DEVNULL).strip()
