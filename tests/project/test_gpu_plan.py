"""The scripts for a GPU, rehearsed on the CPU at tiny size."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_models import ddpm, unet2d

ROOT = Path(__file__).resolve().parents[2]
COLOUR = dict(in_channels=3, out_channels=3)


SIZES = "--device cpu --steps 3 --samples 8 --iterations 2 --images 5 --compared 2 --profile tiny"
RUNS = {
    "full": "none",
    "linear-w4a8": "linear",
    "qdiffusion-w4a8": "qdiffusion",
    "qdiffusion-w4a32": "qdiffusion",
}


@pytest.fixture
def module(monkeypatch):
    """The Python files of the plan as modules."""
    monkeypatch.syspath_prepend(str(ROOT / "gpu"))
    return importlib.import_module


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_network_is_quantized_and_collected(module, tmp_path):
    """The script runs every recipe on a tiny network, and what it packs is unpacked again."""
    ddpm(unet2d(**COLOUR)).save_pretrained(tmp_path / "work" / "cifar10")
    (tmp_path / "out").mkdir()
    paths = {"OUT": tmp_path / "out", "W": tmp_path / "work", "CARRIED": tmp_path, "SITE": tmp_path / "none"}
    found = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {
        **os.environ,
        **{k: str(v) for k, v in paths.items()},
        "QUANTIZATION": SIZES,
        "PATH": found,
    }
    command = [ROOT / "gpu" / "quantize.sh"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0 and done.stdout.count(": exit 0 after") == len(RUNS), (
        done.stdout + done.stderr
    )
    module("collect").unpack(tmp_path / "out", tmp_path / "back")
    for name, method in RUNS.items():
        result = json.loads((tmp_path / "back" / "quantized" / f"{name}.json").read_text())
        assert result["measured"].keys() >= {"machine", "torch", "date", "commit", "command"}
        assert f"--method {method}" in result["measured"]["command"]
        assert result["images"] == 5 and result["drawing_seconds"] > 0
        assert method == "none" or len(result["trajectory_mse"]) == 3 and result["calibration_seconds"] > 0
        assert (tmp_path / "back" / "quantized" / f"{name}.webp").is_file()


def test_a_sheet_holds_all_images(module, tmp_path):
    images = torch.randint(0, 256, (103, 3, 32, 32), dtype=torch.uint8)
    module("measure_quantization").sheet(images).save(tmp_path / "sheet.webp", lossless=True)
    assert torch.equal(module("collect").images_of_sheet(tmp_path / "sheet.webp", 103), images)


def test_nothing_to_unpack_is_an_error(module, tmp_path):
    with pytest.raises(ValueError, match="has no .*tgz"):
        module("collect").unpack(tmp_path, tmp_path / "back")


def test_a_variant_that_was_ready_too_late_has_its_first_calls_from_the_log(module, tmp_path):
    measured = {"bf16": {"seconds_per_image": 0.5}}
    networks = {"small": {"results": [{"batch": 8, "variants": measured}]}}
    (tmp_path / "gpu_engines.json").write_text(json.dumps(networks))
    lines = ("bf16, batch 8: ready after 4 s; 9.00 ms", "bf16 compiled, batch 8: ready after 36 s; 17.25 ms ")
    (tmp_path / "speed-small.log").write_text("\n".join(["A warning", *lines]))
    (result,) = module("collect").engines(tmp_path)["small"]["results"]
    assert result["variants"] == measured
    assert result["first_calls"] == {"bf16 compiled": {"seconds_per_call": 0.01725, "calls": 5}}


@pytest.mark.parametrize("script", sorted((ROOT / "gpu").glob("*.sh")), ids=lambda path: path.name)
def test_each_script_is_read_by_the_shell(script):
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for line in script.read_text().splitlines():
        for word in line.replace(chr(34), " ").split():
            if word.endswith(".py") and "/" in word and "$" not in word:
                assert (ROOT / word).is_file(), word
