"""The benchmark of calibration, rehearsed on the CPU: it runs and writes what it promises."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed: torch for CUDA on Linux brings it")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run(monkeypatch):
    """Runs the benchmark with these arguments."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["calibration_speed.py", *map(str, arguments)])
        importlib.import_module("calibration_speed").main()

    return command


def test_every_place_is_measured(run, tmp_path):
    run("--quick", "--out", tmp_path / "results.json", "--folder", tmp_path)
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


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_what_runs(run, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        run("--out", tmp_path / "results.json")
    assert ended.value.code == 2 and "torch finds no NVIDIA GPU; --device cpu" in capsys.readouterr().err
