"""What all tests and all notebooks run under: this checkout, one thread, the tiny profile, no hub."""

import os
from pathlib import Path

import pytest

ROOT = str(Path(__file__).parent)
os.environ["HF_HUB_OFFLINE"] = "1"
# One thread, set before torch is imported: tests run side by side, and sums depend on the thread count.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("QDIFF_PROFILE", "tiny")
os.environ.setdefault("QDIFF_PROGRESS", "off")
# Triton's kernels run on the CPU. It must be set before Triton is imported. On a GPU: TRITON_INTERPRET=0.
os.environ.setdefault("TRITON_INTERPRET", "1")
# glibc keeps freed blocks of less than 32 MB: drawing then takes about a sixth less of the processor's
# time. It holds for the processes that pytest starts: its workers, kernels and commands.
os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(2**25))
os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**31))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [ROOT, os.environ.get("PYTHONPATH")]))


def pytest_collection_modifyitems(items):
    """Fast tests first, then slow ones and notebooks, each in their own order."""
    for item in items:
        if item.path.suffix == ".ipynb":
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)
