"""After all else: drawn images get the brightness of full precision's (not in the paper).

Calibration inputs come from the full-precision sampler, so that nothing fitted to them sees where the
quantized one leads: what is off to the same side at many steps adds up, and images come out a little too
bright or too dark. Here both networks draw the same images, from noise of which no calibration input was
made, and the bias of the last layer is moved, for each channel, until the typical image (the median) is as
bright as full precision's. In latents, brightness is the mean of a channel.

How far to move it is measured: images are drawn with a little more bias, and what this did to their
brightness tells what undoes the difference (a secant step).
"""

import time

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from .calibration import FRESH_DRAWS
from .layers import QuantLayer
from .progress import progress_bar
from .recipes import Recipe
from .request import Request
from .resume import UnitReport
from .sampling import each_step, images_at_once, run_batch, sampling_times, with_sampler

NAME = "brightness"  # of the report of this stage
NUDGE = 1e-3  # of bias, to see what it does: predicted noise has a deviation of 1
RUNS = 4  # full precision's, the quantized network's as it is, with the nudge, and at the end
LEAST_RESPONSE = 0.1  # to one unit of bias: a channel that answers less would have to be moved far


class BrightnessMatcher:
    """Draws ``recipe.brightness_images`` images with two pipelines and makes the second one's as bright.

    layer: the last one of the quantized network.
    """

    def __init__(
        self, full: DiffusionPipeline, quantized: DiffusionPipeline, recipe: Recipe, request: Request
    ):
        self.full, self.quantized = (with_sampler(pipe, recipe.sampler) for pipe in (full, quantized))
        self.recipe, self.request = recipe, request
        self.layer = last_layer(self.quantized.unet)
        self.size = images_at_once(self.full)
        self.first = max(recipe.samples, FRESH_DRAWS)  # no calibration input is of this image or a later one
        self.starts = range(self.first, self.first + recipe.brightness_images, self.size)
        self.calls = len(sampling_times(self.full, recipe.steps))

    def match(self, progress: bool) -> float:
        """Set the layer's bias; returns the mean squared error of the last x_t.

        It stays as it was where the step does not bring the brightness nearer.
        """
        bias, total = self.layer.layer.bias.data, RUNS * self.calls * len(self.starts)
        with progress_bar(total=total, desc="brightness", shown=progress) as self.bar:
            reference = self.draw(self.full)
            before = self.draw(self.quantized)
            kept, brighter = bias.clone(), brightness(before, reference)
            bias += NUDGE
            response = (brightness(self.draw(self.quantized), reference) - brighter) / NUDGE
            bias.copy_(kept + undoing(brighter, response).to(bias.device))
            after = self.draw(self.quantized)
        if not brightness(after, reference).norm() < brighter.norm():
            bias.copy_(kept)
            after = before
        return (after - reference).square().mean().item()

    def draw(self, pipe: DiffusionPipeline) -> Tensor:
        """x_t after the last step, (N, C, H, W)."""
        drawn = []

        def after_step(x: Tensor) -> None:
            self.bar.update()
            drawn[-1] = x.cpu()

        for start in self.starts:
            drawn.append(None)
            count = min(self.size, self.starts.stop - start)
            with each_step(pipe, after_step):
                run_batch(
                    pipe, start, count, self.recipe.steps, self.recipe.seed, "calibration", self.request
                )
        return torch.cat(drawn)


def last_layer(unet: nn.Module) -> QuantLayer | None:
    """The convolution that puts out the predicted noise; None where its weight is not quantized."""
    layer = unet.conv_out
    return layer if isinstance(layer, QuantLayer) and layer.weight_grid else None


def match_brightness(
    full: DiffusionPipeline,
    quantized: DiffusionPipeline,
    recipe: Recipe,
    request: Request,
    progress: bool = True,
) -> UnitReport:
    """Match the brightness of the images that ``quantized`` draws, changing its last layer's bias in place.

    full: the pipeline that was quantized. request: its texts, for pipelines that take them. The report's
    error is the mean squared error of x_t after the last step.
    """
    start, index = time.monotonic(), len(quantized.unet.quantization.trace.units)
    error = BrightnessMatcher(full, quantized, recipe, request).match(progress)
    return UnitReport(NAME, index + 1, error, time.monotonic() - start)


def brightness(drawn: Tensor, reference: Tensor) -> Tensor:
    """How much brighter the typical image is than its reference, by channel, (C,); both (N, C, H, W)."""
    return (drawn - reference).mean((2, 3)).median(dim=0).values


def undoing(brighter: Tensor, response: Tensor) -> Tensor:
    """The change of bias that undoes ``brighter``, by channel, all (C,).

    response: of the brightness to one unit of bias. What hardly has one stays.
    """
    return torch.where(response.abs() >= LEAST_RESPONSE, -brighter / response, 0.0)
