"""Where Triton's kernels run in tests: on the CPU under its interpreter, or on a GPU."""

import os

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
NO_GPU = "there is no NVIDIA GPU here" if not torch.cuda.is_available() else ""
WHY_NOT_CPU = "" if INTERPRETED else "on the CPU the kernels need TRITON_INTERPRET=1"
WHY_NOT_GPU = NO_GPU or ("Triton interprets: set TRITON_INTERPRET=0" if INTERPRETED else "")

on_each_device = pytest.mark.parametrize(
    "device",
    [
        pytest.param("cpu", marks=pytest.mark.skipif(bool(WHY_NOT_CPU), reason=WHY_NOT_CPU or "runs")),
        pytest.param(
            "cuda",
            marks=[pytest.mark.cuda, pytest.mark.skipif(bool(WHY_NOT_GPU), reason=WHY_NOT_GPU or "runs")],
        ),
    ],
)
