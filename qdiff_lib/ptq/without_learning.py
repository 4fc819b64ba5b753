"""Quantization without reconstruction, as in the paper's baselines: observed ranges, rounded weights."""

import torch
from torch import nn

from ..calibration.calibration_set import CalibrationSet
from ..graph.tracing import Trace
from ..modules.activation_quantizer import activation_quantizers
from ..modules.quant_layer import quant_layers
from ..quantizers.observer import ActivationObserver
from ..recipes.parts import Rounding, StepSizes
from .replay import row_batches


@torch.no_grad()
def round_all(
    unet: nn.Module,
    trace: Trace,
    inputs: CalibrationSet,
    rounding: Rounding,
    step_sizes: StepSizes,
    seed: int,
) -> None:
    """Quantize ``unet``, in place, without learning (the baselines of Q-Diffusion, section 4).

    unet: a network with quantizers. inputs: the calibration set. seed: of the observers' random draws. The
    activation ranges are observed in full precision. Then each layer's weight is rounded on its own.
    """
    generator = torch.Generator().manual_seed(seed)
    quantizers = activation_quantizers(unet)
    for quantizer in quantizers:
        quantizer.observer = ActivationObserver(generator)
    device = next(unet.parameters()).device
    if quantizers:
        for rows in row_batches(len(inputs), trace.batch_size):
            unet(**inputs.rows(rows, device))
    for quantizer in quantizers:
        quantizer.set_observed_range(step_sizes.activation_range)
    for layer in quant_layers(unet):
        if layer.weight_grid:
            layer.find_weight_range(rounding.weight_range)
            layer.round_weight(rounding.weight_rounding)
