"""Quantized layers with random codes, and inputs that reach both ends of their grids."""

import os

import pytest
import torch

from qdiff_lib.modules.quant_layer import QuantLayer
from qdiff_lib.quantizers.grid import Grid
from qdiff_lib.quantizers.packing import pack

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


def zero_points(where, top, shape, generator):
    """Zero points at the lowest code, at the highest, or anywhere."""
    ends = {"low": (0, 1), "high": (top, top + 1), "any": (0, top + 1)}[where]
    return torch.randint(*ends, shape, generator=generator)


def integer_layer(layer, weight_bits=4, input_bits=8, sizes=None, zero="any", seed=0):
    """A quantized layer with random codes and zero points; its scales are not powers of two.

    zero: where zero points lie: "low", "high" or "any".
    """
    generator = torch.Generator().manual_seed(seed)
    made = QuantLayer(layer, weight_bits, Grid(input_bits), sizes or (layer.weight.shape[1],))
    grid = (made.shape[0], len(made.sizes))
    made.weight_scale = 0.01 + 0.01 * torch.rand(grid, generator=generator)
    made.weight_zero_point = zero_points(zero, 2**weight_bits - 1, grid, generator).to(torch.uint8)
    codes = torch.randint(2**weight_bits, made.shape, generator=generator, dtype=torch.uint8)
    made._keep(pack(codes, weight_bits), made.weight.dtype)
    for i, quantizer in enumerate(made.inputs):
        quantizer.set_range(
            torch.tensor(0.037 + 0.01 * i), zero_points(zero, 2**input_bits - 1, (), generator)
        )
    return made


def random_input(shape, seed=0):
    """Random values from -14 to 14 in steps of 1/64: beyond both ends of 8 bits at the scales above."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-900, 901, shape, generator=generator) / 64
