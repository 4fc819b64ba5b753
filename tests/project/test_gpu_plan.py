"""The scripts for a GPU, rehearsed on the CPU at tiny size."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_models import ddpm, unet2d

ROOT = Path(__file__).resolve().parents[2]
COLOUR = dict(in_channels=3, out_channels=3)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with a tiny pipeline for colour images."""
    folder = tmp_path_factory.mktemp("model")
    ddpm(unet2d(**COLOUR)).save_pretrained(folder)
    return folder


def measured(model, out, *arguments):
    """What the script writes: its JSON, and the pixels of its sheet."""
    command = [
        sys.executable,
        ROOT / "gpu" / "measure_quantization.py",
        model,
        "--out",
        out,
        "--device",
        "cpu",
    ]
    sizes = "--steps 3 --samples 8 --iterations 2 --images 5 --compared 2 --profile tiny".split()
    done = subprocess.run([*command, *sizes, *arguments], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(out.with_suffix(".json").read_text()), np.asarray(Image.open(out.with_suffix(".webp")))


@pytest.mark.slow
@pytest.mark.parametrize("method, bits", [("none", (32, 32)), ("linear", (4, 8)), ("qdiffusion", (4, 8))])
def test_a_quantization_is_measured(model, tmp_path, method, bits):
    found, pixels = measured(model, tmp_path / "found", "--method", method, "--bits", *map(str, bits))
    assert pixels.shape == (100 * 8, 8, 3) and pixels[: 5 * 8].any() and not pixels[5 * 8 :].any()
    assert found["images"] == 5 and found["drawing_seconds"] > 0
    assert found["measured"].keys() >= {"machine", "torch", "date", "commit", "command"}
    if method != "none":
        assert len(found["trajectory_mse"]) == 3 and found["calibration_seconds"] > 0


@pytest.mark.parametrize("script", sorted((ROOT / "gpu").glob("*.sh")), ids=lambda path: path.name)
def test_each_script_is_read_by_the_shell(script):
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for line in script.read_text().splitlines():
        for word in line.split():
            if word.endswith(".py") and "/" in word and "$" not in word:
                assert (ROOT / word).is_file(), word
