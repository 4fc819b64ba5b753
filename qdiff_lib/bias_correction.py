"""After all else: bias correction, so that drawn images are as bright as full precision's (not in the paper).

Calibration inputs come from the full-precision sampler, so that nothing fitted to them sees where the
quantized one leads: errors that go the same way at many steps add up, and images come out a little too bright
or too dark. Bias correction (Nagel et al., 2019, section 4.2) takes the mean error of a layer's output out of
its bias. Here the output is the drawn image: both networks draw the same ones, from noise of which no
calibration input was made, and the bias of the last layer is moved by what makes the typical image (the
median) as bright as full precision's. In latents, brightness is the mean of a channel.

What a bias does to the images is measured: they are drawn with a little more of it in one channel, then in
the next, and the slopes found are solved for what undoes the offset (a secant step).
"""

import time

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from .calibration import FRESH_DRAWS, CalibrationSet
from .recipe_parts import Calibration
from .resume import UnitReport
from .sampling import sample, with_sampler
from .support import takes_prompts

NAME = "bias correction"  # of the report of this stage
NUDGE = 1e-3  # of a bias, to see what it does: predicted noise has a deviation of 1
SMALLEST_SLOPE = 0.1  # brightness by bias: what answers less would have to be moved far


class BiasCorrection:
    """Draws ``images`` images with both pipelines; corrects the second's last bias.

    Full precision's are drawn at once, so that what cannot be drawn is refused before long work. Texts and
    guidance are those of ``inputs``, the calibration set; all else is as ``drawing`` says.

    Raises ValueError for a set that has no texts where the pipeline needs them, and for what ``sample``
    refuses.
    """

    def __init__(
        self,
        full: DiffusionPipeline,
        quantized: DiffusionPipeline,
        inputs: CalibrationSet,
        images: int,
        drawing: Calibration,
        seed: int = 0,
        progress: bool = True,
    ):
        made_by = inputs.made_by
        if takes_prompts(full) and "prompts" not in made_by:
            raise ValueError(
                f"bias_correction_images={images} are drawn from texts, and the calibration set has none: "
                "record it with prompts, or use bias_correction_images=0"
            )
        self.quantized, self.sampler = quantized, drawing.sampler
        first = max(len(inputs), FRESH_DRAWS)  # no input is of this image or a later one
        self.order = dict(n=images, steps=drawing.steps, seed=seed, first=first, role="calibration")
        self.order |= {name: made_by.get(name, getattr(drawing, name)) for name in ("guidance", "eta")}
        self.order |= dict(prompts=made_by.get("prompts"), record=True, progress=progress)
        self.reference = self.draw(full)

    def draw(self, pipe: DiffusionPipeline) -> Tensor:
        """x_t after the last step, (N, C, H, W)."""
        return sample(with_sampler(pipe, self.sampler), **self.order).trajectory[-1].clone()

    def run(self) -> UnitReport:
        """Correct the bias in place, unless that brings the brightness no nearer.

        The report's error is the mean squared error of x_t after the last step.
        """
        start, unet = time.monotonic(), self.quantized.unet
        bias = last_bias(unet)
        own = chosen = bias.clone()
        drawn = self.draw(self.quantized)
        offset = brightness(drawn, self.reference)
        try:
            slopes = []
            for channel in range(len(bias)):
                bias.copy_(own)
                bias[channel] += NUDGE
                slopes.append((brightness(self.draw(self.quantized), self.reference) - offset) / NUDGE)
            bias.copy_(own + secant_step(offset, torch.stack(slopes, dim=1)).to(bias.device))
            corrected = self.draw(self.quantized)
            if brightness(corrected, self.reference).norm() < offset.norm():
                drawn, chosen = corrected, bias.clone()
        finally:
            bias.copy_(chosen)
        error = (drawn - self.reference).square().mean().item()
        return UnitReport(NAME, len(unet.quantization.units), error, time.monotonic() - start)


def last_bias(unet: nn.Module) -> Tensor:
    """The bias of the convolution that puts out the predicted noise, (C,), quantized or not."""
    return unet.conv_out.bias.data


def brightness(drawn: Tensor, reference: Tensor) -> Tensor:
    """How much brighter the typical image is than its reference, by channel, (C,); both (N, C, H, W)."""
    return (drawn - reference).mean((2, 3)).quantile(0.5, dim=0)


def secant_step(offset: Tensor, slope: Tensor) -> Tensor:
    """The change of bias, (C,), that undoes a brightness of ``offset``, (C,).

    slope: (C, C), of the brightness of each channel (first) by the bias of each (second). Directions in which
    it hardly changes stay.
    """
    return -torch.linalg.pinv(slope, atol=SMALLEST_SLOPE, rtol=0.0) @ offset
