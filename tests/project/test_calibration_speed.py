"""The benchmark of calibration, rehearsed on the CPU: it runs and writes what it promises."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed: torch for CUDA on Linux brings it")

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "calibration_speed.py"


def run(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True, cwd=ROOT)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_every_place_is_measured(tmp_path):
    done = run("--quick", "--out", tmp_path / "results.json", "--folder", tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["quick"] and found["measured"].keys() >= {"machine", "torch", "date", "commit", "command"}
    assert list(found["results"]) == ["arithmetic", "device", "ram", "files", "simple"]
    for result in found["results"].values():
        assert len(result["all"]) == 2 and min(result["all"]) > 0
    copied = {
        name: found["results"][name]["bytes_copied_per_iteration"] for name in ("device", "ram", "files")
    }
    row = 4 * (8 * 8 * 16 + 32 + 8 * 8 * 8)  # 16 channels of 8 x 8 pixels, the time, and 8 channels to learn
    assert copied == {"device": {}, "ram": {}, "files": {"files to RAM": found["batch"] * row}}
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.exhaustive
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_what_runs(tmp_path):
    done = run("--out", tmp_path / "results.json")
    assert done.returncode == 2 and "torch finds no NVIDIA GPU; --device cpu" in done.stderr
