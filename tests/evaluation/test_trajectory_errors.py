"""Errors of trajectories and images, against sums by hand."""

import math
import subprocess
import sys

import pytest
import torch

from qdiff_lib.evaluation import trajectory_errors


def test_image_psnr():
    images = torch.full((2, 3, 4, 4), 100, dtype=torch.uint8)
    other = images.clone()
    other[:, 0] = 103  # a third of the values is 3 off: MSE 3
    assert trajectory_errors.image_psnr(images, other) == pytest.approx(10 * math.log10(255**2 / 3))
    assert trajectory_errors.image_psnr(images, images) == math.inf
    with pytest.raises(ValueError, match="give images of one shape"):
        trajectory_errors.image_psnr(images, other[:1])


def test_trajectory_mse_and_snr():
    reference = torch.ones(3, 2, 1, 4, 4)
    other = reference + torch.tensor([0.0, 0.1, 1.0]).view(3, 1, 1, 1, 1)
    torch.testing.assert_close(
        trajectory_errors.trajectory_mse(reference, other),
        torch.tensor([0, 0.01, 1]).double(),
        rtol=1e-5,
        atol=0,
    )
    found = trajectory_errors.trajectory_snr(reference, other)
    assert found[0] == math.inf and found[1:].tolist() == pytest.approx([20, 0], abs=1e-4)
    for function in (trajectory_errors.trajectory_mse, trajectory_errors.trajectory_snr):
        with pytest.raises(ValueError, match="same steps"):
            function(reference, other[:2])


PEAK = """
import torch
from qdiff_lib import trajectory_mse
from qdiff_lib.utils.provenance import peak_memory
a = torch.zeros(50, 100, 1, 100, 100)  # 200 MB
b = torch.ones_like(a)
before = peak_memory()
trajectory_mse(a, b)
print((peak_memory() - before) / a.nbytes)
"""


def test_errors_take_little_memory_beside_the_two_trajectories():
    ended = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    assert float(ended.stdout) < 0.75  # a copy of one trajectory takes 1, and their difference in float64 2
