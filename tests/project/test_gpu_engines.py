"""The benchmark of GPU engines, rehearsed on the CPU: it runs and writes what it promises."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed: torch for CUDA on Linux brings it")

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu_engines.py"


def run(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, cwd=ROOT)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_tiny_network_is_measured_in_turns(tmp_path):
    done = run("--quick", "--out", tmp_path / "results.json")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "results.json").read_text())["tiny"]
    assert found["quick"] and found["measured"].keys() >= {"machine", "torch", "date", "commit", "command"}
    (result,) = found["results"]
    assert set(result["variants"]) == {"bf16", "integers"}
    for variant in result["variants"].values():
        assert len(variant["all"]) == result["rounds"] and variant["seconds_per_image"] > 0
    integers = result["variants"]["integers"]
    assert integers["layers"]["int8"] > integers["layers"]["float"] == len(integers["reasons"]) == 2


@pytest.mark.exhaustive
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_what_runs(tmp_path):
    done = run("--out", tmp_path / "results.json")
    assert done.returncode == 2 and "torch finds no NVIDIA GPU; --quick runs on the CPU" in done.stderr
