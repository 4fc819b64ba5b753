"""Activation quantizers: they pass, observe, then quantize; scales are learned and stay float32."""

import torch

from qdiff_lib.modules.activation_quantizer import ActivationQuantizer
from qdiff_lib.quantizers.grid import Grid, fake_quantize
from qdiff_lib.quantizers.observer import ActivationObserver
from qdiff_lib.quantizers.range_finders import min_max


def test_quantizer_passes_then_samples_then_quantizes():
    x = torch.linspace(-1, 2, 50)
    quantizer = ActivationQuantizer(Grid(3))
    assert quantizer(x) is x
    quantizer.observer = ActivationObserver(torch.Generator().manual_seed(0), 10)
    assert quantizer(x) is x and quantizer(3 * x) is not x
    quantizer.set_observed_range("min_max")
    assert quantizer.observer is None
    assert torch.equal(quantizer(x), fake_quantize(x, *min_max(3 * x, Grid(3)), 3))
    assert len(quantizer(3 * x).unique()) == 8
