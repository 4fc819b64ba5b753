"""Checks of this installation, and how to repair what fails: ``python -m qdiff_lib doctor``."""

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

from ..utils.sandbox import HELP, find_sandbox, survey

OLDEST_PYTHON = (3, 11)
DISK_NEEDED = 2e9  # bytes, for a demo, a checkpoint and its work folder
MEMORY_NEEDED = 1.5e9  # bytes, for the largest lesson and the notebook server
INSTALL = "run: python -m pip install --requirement requirements.txt"
REINSTALL_PAIR = "install both from one place: python -m pip install --force-reinstall torch torchvision"
INTEGER_INSTRUCTIONS = ("avx512_vnni", "avx_vnni", "amx_int8")  # products of 8-bit integers
KNOWN_FAILURES = {
    "operator torchvision::nms does not exist": (
        "torch and torchvision are builds for different devices (CPU and CUDA)",
        REINSTALL_PAIR,
    ),
}


@dataclass(frozen=True)
class Finding:
    """The result of one check; ``fix`` says how to repair it, and is empty if ``status`` is "ok"."""

    name: str
    status: Literal["ok", "warning", "error"]
    detail: str
    fix: str = ""


def check_environment() -> list[Finding]:
    """Check Python, packages, device, data, disk and memory.

    Returns one finding for each check. A check that raises an error gives a finding with status "error".
    """
    checks: dict[str, Callable[[], Finding]] = {
        "python": check_python,
        "torch": check_torch_pair,
        "diffusers": lambda: check_package("diffusers", "diffusers", "DDPMPipeline"),
        "torch-fidelity": lambda: check_package("torch-fidelity", "torch_fidelity", "calculate_metrics"),
        "device": check_device,
        "engines": check_engines,
        "data": check_data,
        "disk": check_disk,
        "memory": check_memory,
        "sandbox": check_sandbox,
    }
    findings = []
    for name, check in checks.items():
        try:
            findings.append(check())
        except Exception as error:  # report every failure, then continue
            findings.append(failure(name, error))
    return findings


def render(findings: list[Finding]) -> str:
    """The findings as text: one line for each finding, and its fix, if any, in the next line."""
    width = max((len(finding.name) for finding in findings), default=0)
    lines = []
    for finding in findings:
        lines.append(f"{finding.status:<7}  {finding.name:<{width}}  {finding.detail}")
        if finding.fix:
            lines.append(f"{'':<7}  {'':<{width}}  -> {finding.fix}")
    return "\n".join(lines)


def failure(name: str, error: Exception) -> Finding:
    """The finding for a check that raised ``error``; ``KNOWN_FAILURES`` explains errors of known cause."""
    for symptom, (cause, fix) in KNOWN_FAILURES.items():
        if symptom in str(error):
            return Finding(name, "error", f"{cause}: {symptom}", fix)
    return Finding(name, "error", one_line(error), INSTALL)


def one_line(error: Exception) -> str:
    """The type and the message of the error, in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def check_python() -> Finding:
    """Check that the version of Python is at least ``OLDEST_PYTHON``."""
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] >= OLDEST_PYTHON:
        return Finding("python", "ok", found)
    oldest = ".".join(map(str, OLDEST_PYTHON))
    return Finding("python", "error", f"{found} is too old", f"use Python {oldest} or later")


def check_torch_pair() -> Finding:
    """Check that torchvision can be imported and was built for the installed torch."""
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
    """Check that ``module`` and one of its attributes can be imported.

    The attribute is needed: diffusers imports most of its modules only when an attribute is used.
    """
    getattr(importlib.import_module(module), attribute)
    return Finding(name, "ok", importlib.metadata.version(name))


def check_device() -> Finding:
    """Report the GPU and its free memory, or check the number of threads on the CPU."""
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


def check_engines() -> Finding:
    """Report which engines compute integers here, and whether the CPU has fast instructions for them."""
    from ..engines.run import why_missing

    fast = [
        name
        for name in INTEGER_INSTRUCTIONS
        if importlib.import_module("torch").cpu.get_capabilities().get(name)
    ]
    found = [name for name in ("openvino", "triton") if not why_missing(name)]
    lacking = [f"{name} {why_missing(name)}" for name in ("openvino", "triton") if why_missing(name)]
    detail = (
        f"{', '.join(found) or 'only simulated'}; CPU has {', '.join(fast) or 'no fast integer instructions'}"
    )
    if why_missing("openvino"):
        return Finding(
            "engines", "warning", "; ".join([detail, *lacking]), "run: python -m pip install openvino"
        )
    return Finding("engines", "ok", "; ".join([detail, *lacking]))


def available_cores() -> int:
    """The number of cores that this process may use; a container can limit it."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_data() -> Finding:
    """Check every file of ``data/`` against its checksum in ``MANIFEST.json``."""
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
    """Check that the disk of the current folder has ``DISK_NEEDED`` bytes free."""
    free = shutil.disk_usage(Path.cwd()).free
    detail = f"{free / 1e9:.1f} GB free here"
    if free < DISK_NEEDED:
        return Finding(
            "disk", "warning", detail, f"free {DISK_NEEDED / 1e9:.0f} GB, or work in another folder"
        )
    return Finding("disk", "ok", detail)


def check_memory() -> Finding:
    """Check that ``MEMORY_NEEDED`` bytes of memory are free."""
    memory = psutil.virtual_memory()
    detail = f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB free"
    if memory.available < MEMORY_NEEDED:
        return Finding(
            "memory", "warning", detail, f"close other programs: {MEMORY_NEEDED / 1e9} GB are needed"
        )
    return Finding("memory", "ok", detail)


def check_sandbox() -> Finding:
    """Report in which sandbox the answers of learners would be graded."""
    found = find_sandbox()
    if found:
        return Finding("sandbox", "ok", f"{found.name}, for grading")
    why = "; ".join(f"{name}: {reason}" for name, reason in survey().items())
    return Finding("sandbox", "ok", f"none ({why}). Only grading needs one: {HELP}")
