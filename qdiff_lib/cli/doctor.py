"""What this installation can do, and how to repair what it cannot: ``python -m qdiff_lib doctor``."""

import importlib
import importlib.metadata
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

OLDEST_PYTHON = (3, 11)
DISK_NEEDED = 2e9  # bytes: a demo, a checkpoint and its work folder
MEMORY_NEEDED = 1.5e9  # bytes: the largest lesson, and the notebook server
INSTALL = "run: python -m pip install --requirement requirements.txt"
REINSTALL_PAIR = "install both from one place: python -m pip install --force-reinstall torch torchvision"
KNOWN_FAILURES = {
    "operator torchvision::nms does not exist": (
        "torch and torchvision are builds for different devices (CPU and CUDA)",
        REINSTALL_PAIR,
    ),
}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; ``fix`` is empty when ``status`` is "ok"."""

    name: str
    status: Literal["ok", "warning", "error"]
    detail: str
    fix: str = ""


def check_environment() -> list[Finding]:
    """Look at Python, packages, device, data, disk and memory; a check that breaks is a finding too."""
    checks: dict[str, Callable[[], Finding]] = {
        "python": check_python,
        "torch": check_torch_pair,
        "diffusers": lambda: check_package("diffusers", "diffusers", "DDPMPipeline"),
        "torch-fidelity": lambda: check_package("torch-fidelity", "torch_fidelity", "calculate_metrics"),
        "device": check_device,
        "data": check_data,
        "disk": check_disk,
        "memory": check_memory,
    }
    findings = []
    for name, check in checks.items():
        try:
            findings.append(check())
        except Exception as error:  # the doctor reports every failure, and goes on
            findings.append(failure(name, error))
    return findings


def render(findings: list[Finding]) -> str:
    """One line a finding, and its fix in the line below where there is one."""
    width = max((len(finding.name) for finding in findings), default=0)
    lines = []
    for finding in findings:
        lines.append(f"{finding.status:<7}  {finding.name:<{width}}  {finding.detail}")
        if finding.fix:
            lines.append(f"{'':<7}  {'':<{width}}  -> {finding.fix}")
    return "\n".join(lines)


def failure(name: str, error: Exception) -> Finding:
    """The error that stopped a check, in the words of ``KNOWN_FAILURES`` where its cause is known."""
    for symptom, (cause, fix) in KNOWN_FAILURES.items():
        if symptom in str(error):
            return Finding(name, "error", f"{cause}: {symptom}", fix)
    return Finding(name, "error", one_line(error), INSTALL)


def one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def check_python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] >= OLDEST_PYTHON:
        return Finding("python", "ok", found)
    oldest = ".".join(map(str, OLDEST_PYTHON))
    return Finding("python", "error", f"{found} is too old", f"use Python {oldest} or later")


def check_torch_pair() -> Finding:
    """Whether torchvision imports, and was built for this torch."""
    torch = importlib.import_module("torch")
    torchvision = importlib.import_module("torchvision")
    detail = f"torch {torch.__version__}, torchvision {torchvision.__version__}"
    required = importlib.metadata.requires("torchvision") or []
    pins = [found for line in required if (found := re.match(r"torch\b\D*(\d+\.\d+)", line))]
    if pins and not torch.__version__.startswith(pins[0][1] + "."):
        return Finding(
            "torch", "warning", f"{detail}, which was built for torch {pins[0][1]}", REINSTALL_PAIR
        )
    return Finding("torch", "ok", detail)


def check_package(name: str, module: str, attribute: str) -> Finding:
    """Import ``module`` and one name out of it: diffusers imports most of itself only then."""
    getattr(importlib.import_module(module), attribute)
    return Finding(name, "ok", importlib.metadata.version(name))


def check_device() -> Finding:
    torch = importlib.import_module("torch")
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        name = torch.cuda.get_device_name()
        return Finding("device", "ok", f"{name}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free")
    cores, threads = available_cores(), torch.get_num_threads()
    detail = f"CPU, {cores} cores, {threads} threads; no CUDA device"
    if threads > cores:
        return Finding("device", "warning", detail, f"set OMP_NUM_THREADS={cores}: more threads are slower")
    return Finding("device", "ok", detail)


def available_cores() -> int:
    """The cores that this process may use, which a container can limit."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_data() -> Finding:
    """Compare every file of ``data/`` with its checksum in ``MANIFEST.json``."""
    from ..io.shipped_data import data_folder, verified

    fix = "restore the files: git checkout -- data, or install qdiff_lib again"
    try:
        manifest = Path(data_folder()) / "MANIFEST.json"
        names = json.loads(manifest.read_text(encoding="utf-8"))["files"]
    except (FileNotFoundError, ValueError, KeyError) as error:
        return Finding("data", "error", f"the manifest is unreadable: {one_line(error)}", fix)
    if not names:
        return Finding("data", "error", "the manifest lists no file", fix)
    problems = []
    for name in names:
        try:
            verified(name)
        except FileNotFoundError:
            problems.append(f"{name} is missing")
        except ValueError:
            problems.append(f"{name} is damaged")
    if problems:
        return Finding("data", "error", f"{len(problems)} of {len(names)} files: {', '.join(problems)}", fix)
    return Finding("data", "ok", f"{len(names)} files, checksums match")


def check_disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    detail = f"{free / 1e9:.1f} GB free here"
    if free < DISK_NEEDED:
        return Finding(
            "disk", "warning", detail, f"free {DISK_NEEDED / 1e9:.0f} GB, or work in another folder"
        )
    return Finding("disk", "ok", detail)


def check_memory() -> Finding:
    memory = psutil.virtual_memory()
    detail = f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB free"
    if memory.available < MEMORY_NEEDED:
        return Finding(
            "memory", "warning", detail, f"close other programs: {MEMORY_NEEDED / 1e9} GB are needed"
        )
    return Finding("memory", "ok", detail)
