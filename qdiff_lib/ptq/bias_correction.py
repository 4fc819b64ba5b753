"""Bias correction: the last stage, which corrects the brightness of the drawn images (not in the paper).

Calibration inputs come from the full-precision sampler. So the earlier stages do not see the trajectories of
the quantized network. Errors with the same sign at many denoising steps add up, and the images become a
little too bright or too dark. Bias correction (Nagel et al., 2019, section 4.2) subtracts the mean error of a
layer's output from the layer's bias. Here the output is the drawn image. Both networks draw images from the
same noise, which no calibration input comes from. The bias of the last layer is then changed until the
typical (median) image is as bright as the full-precision one. For latents, brightness is the mean of a
channel.

The effect of the bias on the images is measured. The bias of one channel is increased a little, the images
are drawn again, and the change of brightness gives a slope; then the next channel follows. The slopes give
the change of the bias that removes the offset in brightness (the secant method). If activations have few
bits, a small increase can be lost in their rounding. Then the increase is made four times as large, up to the
last of ``NUDGES``. If none of them helps, the bias stays as it was, and the report has a note.
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
from ..graph.model_inputs import reads_class_labels
from ..io.quantization import UnitReport
from ..recipes.parts import Calibration
from .run import Run

NAME = "bias correction"  # the name in this stage's report
NUDGES = (1e-3, 4e-3, 1.6e-2, 6.4e-2)  # trial increases of a bias; predicted noise has standard deviation 1
SMALLEST_SLOPE = 0.1  # change of brightness by change of bias; below it, the bias would have to change a lot


class BiasCorrection:
    """Corrects the bias of the last layer of ``quantized`` (Nagel et al., 2019; not in the paper).

    full, quantized: the pipelines before and after quantization. inputs: the calibration set, which gives
    texts, class labels, guidance and eta. images: how many images each pipeline draws. drawing: the sampler
    and the number of denoising steps. run: the seed, and what else the stages share.

    The full-precision images are drawn when the object is made, so that errors come before long work.

    Raises ValueError for a calibration set without texts or class labels if the pipeline needs them, and for
    what ``sample`` refuses.
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
        if reads_class_labels(full.unet) and "class_labels" not in made_by:
            raise ValueError(
                f"bias_correction_images={images} are drawn from class labels, and the calibration set "
                "has none: record it with class_labels, or use bias_correction_images=0"
            )
        self.quantized, self.sampler, self.given = quantized, drawing.sampler, run
        first = max(len(inputs), FRESH_DRAWS)  # no calibration input has its noise
        self.order = dict(n=images, steps=drawing.steps, seed=run.seed, first=first, role="calibration")
        self.order |= {name: made_by.get(name, getattr(drawing, name)) for name in ("guidance", "eta")}
        self.order |= dict(prompts=made_by.get("prompts"), record=True, progress=run.progress)
        self.order |= dict(class_labels=made_by.get("class_labels"), processes=run.processes)
        self.reference = self.draw(full)

    def draw(self, pipe: DiffusionPipeline) -> Tensor:
        """Draw the images in all processes; returns x_t after the last denoising step, (N, C, H, W)."""
        found = sample(with_sampler(pipe, self.sampler), **self.order)
        return self.given.processes.agreed(found and found.trajectory[-1].clone())

    def run(self, index: int) -> UnitReport:
        """Correct the bias in place; if the brightness does not improve, keep the bias and add a note.

        index: the number of this stage, after those of the units. The error in the report is the mean squared
        error of x_t after the last denoising step.
        """
        start, unet = time.monotonic(), self.quantized.unet
        bias = last_bias(unet)
        chosen = bias.clone()
        drawn = self.draw(self.quantized)
        try:
            found, note = self.corrected(bias, brightness(drawn, self.reference))
            if found is not None:
                drawn, chosen = found, bias.clone()
            if note:
                self.say(note)
        finally:
            bias.copy_(chosen)
        error = (drawn - self.reference).square().mean().item()
        seconds = time.monotonic() - start
        return self.given.finished(UnitReport(NAME, index, error, seconds, note))

    def corrected(self, bias: Tensor, offset: Tensor) -> tuple[Tensor | None, str]:
        """Correct ``bias``, (C,), in place; returns the new images, and a note on what was not corrected.

        offset: how much too bright the images are, (C,). If no correction helped, the images are None, and
        the bias is as before.
        """
        own = bias.clone()
        for nudge in NUDGES:
            slope = self.slope(bias, offset, nudge)
            answers = torch.linalg.svdvals(slope) >= SMALLEST_SLOPE
            if nudge < NUDGES[-1] and not answers.all():
                continue  # the nudge may be lost in rounding
            bias.copy_(own + secant_step(offset, slope).to(bias.device))
            drawn = self.draw(self.quantized)
            if brightness(drawn, self.reference).norm() < offset.norm():
                lost = len(answers) - int(answers.sum())
                return drawn, f"{lost} of {len(bias)} channels do not answer to the last bias" if lost else ""
            bias.copy_(own)
        return None, f"no change of the last bias up to {NUDGES[-1]} brought the brightness nearer: it stays"

    def slope(self, bias: Tensor, offset: Tensor, nudge: float) -> Tensor:
        """Change of brightness by change of bias, (C, C): rows are image channels, columns bias channels.

        nudge: the trial increase of the bias. The bias has its old values afterwards.
        """
        own, slopes = bias.clone(), []
        for channel in range(len(bias)):
            bias[channel] += nudge
            slopes.append((brightness(self.draw(self.quantized), self.reference) - offset) / nudge)
            bias.copy_(own)
        return torch.stack(slopes, dim=1)

    def say(self, note: str) -> None:
        """Print a note to stderr if progress is shown."""
        if self.given.progress:
            print(f"{NAME}: {note}", file=sys.stderr)


def last_bias(unet: nn.Module) -> Tensor:
    """The bias, (C,), of the convolution whose output is the predicted noise, quantized or not."""
    return unet.conv_out.bias.data


def brightness(drawn: Tensor, reference: Tensor) -> Tensor:
    """How much brighter than its reference the typical (median) image is, by channel, (C,).

    drawn, reference: images or latents, (N, C, H, W).
    """
    return (drawn - reference).mean((2, 3)).quantile(0.5, dim=0)


def secant_step(offset: Tensor, slope: Tensor) -> Tensor:
    """The change of the bias, (C,), that removes an offset in brightness (the secant method).

    offset: how much too bright the images are, (C,). slope: change of brightness by change of bias, (C, C);
    rows are image channels, columns bias channels. The bias does not change in directions in which the
    brightness hardly depends on it.
    """
    return -torch.linalg.pinv(slope, atol=SMALLEST_SLOPE, rtol=0.0) @ offset
