"""The page on many devices: its script draws what one process draws; its table follows from its formula."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_models import ddpm

from qdiff_lib import sample
from qdiff_lib.graph.cost import layer_costs
from qdiff_lib.graph.networks import build
from qdiff_lib.recipes.paper_networks import DDPM_CIFAR10

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "many_devices.md").read_text()
IMAGES, RATE = 50_000, 20e12


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_script_draws_what_one_process_draws(tmp_path):
    (tmp_path / "draw.py").write_text(re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1])
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    ddpm().save_pretrained(tmp_path / "model")
    argv = [str(tmp_path / name) for name in ("draw.py", "model", "images.npy")]
    argv[2:2] = ["70", "2"]
    without_gpus = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([*launcher, *argv], check=True, timeout=120, env=without_gpus)
    assert (np.load(tmp_path / "images.npy") == sample(ddpm(), 70, 2).images.numpy()).all()


def rows():
    """Of the table of times: (operations, hours on 1, 8 and 32 devices) of each line."""
    lines = [line.split("|")[1:-1] for line in PAGE.splitlines() if "x 10^15 |" in line]
    numbers = [[float(cell.split()[0].replace(",", "")) for cell in line[1:]] for line in lines]
    return [(operations * 1e15, hours) for operations, *hours, _ in numbers]


def test_the_hours_follow_from_the_operations():
    assert len(rows()) == 4
    for operations, hours in rows():
        expected = [operations / (devices * RATE) / 3600 for devices in (1, 8, 32)]
        assert hours == pytest.approx(expected, rel=0.15)


def test_the_operations_are_those_of_the_network():
    macs = sum(cost.macs for cost in layer_costs(build(DDPM_CIFAR10, "meta")))
    assert rows()[0][0] == pytest.approx(IMAGES * 100 * 2 * macs, rel=0.01)
