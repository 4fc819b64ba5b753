"""After all else: bias correction, so that drawn images are as bright as full precision's (not in the paper).

Calibration inputs come from the full-precision sampler, so that nothing fitted to them sees where the
quantized one leads: errors that go the same way at many steps add up, and images come out a little too bright
or too dark. Bias correction (Nagel et al., 2019, section 4.2) takes the mean error of a layer's output out of
its bias. Here the output is the drawn image: both networks draw the same ones, from noise of which no
calibration input was made, and the bias of the last layer is moved by what makes the typical image (the
median) as bright as full precision's. In latents, brightness is the mean of a channel.

What a bias does to the images is measured: they are drawn with a little more of it in one channel, then in
the next, and the slopes found are solved for what undoes the offset (a secant step). With coarse activations
so little more can drown in their rounding. Then it is done again with four times as much, and again; where
none of ``NUDGES`` helps, the bias stays, and the report says so.
"""

import sys
import time

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from ..calibration.calibration_set import CalibrationSet
from ..calibration.record import FRESH_DRAWS
from ..diffusion.capabilities import takes_prompts
from ..diffusion.pipelines import with_sampler
from ..diffusion.sampling import sample
from ..io.quantization import UnitReport
from ..recipes.parts import Calibration
from .run import Run

NAME = "bias correction"  # of the report of this stage
NUDGES = (1e-3, 4e-3, 1.6e-2, 6.4e-2)  # of a bias, to see what it does: predicted noise has a deviation of 1
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
        run: Run,
    ):
        made_by = inputs.made_by
        if takes_prompts(full) and "prompts" not in made_by:
            raise ValueError(
                f"bias_correction_images={images} are drawn from texts, and the calibration set has none: "
                "record it with prompts, or use bias_correction_images=0"
            )
        self.quantized, self.sampler, self.given = quantized, drawing.sampler, run
        first = max(len(inputs), FRESH_DRAWS)  # no input is of this image or a later one
        self.order = dict(n=images, steps=drawing.steps, seed=run.seed, first=first, role="calibration")
        self.order |= {name: made_by.get(name, getattr(drawing, name)) for name in ("guidance", "eta")}
        self.order |= dict(prompts=made_by.get("prompts"), record=True, progress=run.progress)
        self.reference = self.draw(full)

    def draw(self, pipe: DiffusionPipeline) -> Tensor:
        """x_t after the last step, (N, C, H, W)."""
        return sample(with_sampler(pipe, self.sampler), **self.order).trajectory[-1].clone()

    def run(self, index: int) -> UnitReport:
        """Correct the bias in place, unless that brings the brightness no nearer: then the report has a note.

        The report's error is the mean squared error of x_t after the last step.
        """
        start, unet, note = time.monotonic(), self.quantized.unet, ""
        bias = last_bias(unet)
        chosen = bias.clone()
        drawn = self.draw(self.quantized)
        try:
            if (found := self.corrected(bias, brightness(drawn, self.reference))) is not None:
                drawn, chosen = found, bias.clone()
            else:
                note = (
                    f"no change of the last bias up to {NUDGES[-1]} brought the brightness nearer: it stays"
                )
                self.say(note)
        finally:
            bias.copy_(chosen)
        error = (drawn - self.reference).square().mean().item()
        seconds = time.monotonic() - start
        return self.given.finished(UnitReport(NAME, index, error, seconds, note))

    def corrected(self, bias: Tensor, offset: Tensor) -> Tensor | None:
        """Correct the bias of images that are ``offset`` too bright: the new ones, or None if not nearer."""
        own = bias.clone()
        for nudge in NUDGES:
            slope = self.slope(bias, offset, nudge)
            if nudge < NUDGES[-1] and torch.linalg.svdvals(slope).min() < SMALLEST_SLOPE:
                continue  # it may have drowned
            bias.copy_(own + secant_step(offset, slope).to(bias.device))
            drawn = self.draw(self.quantized)
            if brightness(drawn, self.reference).norm() < offset.norm():
                return drawn
            bias.copy_(own)
        return None

    def slope(self, bias: Tensor, offset: Tensor, nudge: float) -> Tensor:
        """Brightness by the bias of each channel, (C, C), from ``nudge`` more of it; it ends as it was."""
        own, slopes = bias.clone(), []
        for channel in range(len(bias)):
            bias[channel] += nudge
            slopes.append((brightness(self.draw(self.quantized), self.reference) - offset) / nudge)
            bias.copy_(own)
        return torch.stack(slopes, dim=1)

    def say(self, note: str) -> None:
        """Tell whoever watches the progress."""
        if self.given.progress:
            print(f"{NAME}: {note}", file=sys.stderr)


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
