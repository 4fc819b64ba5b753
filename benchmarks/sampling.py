"""Sampling with *simulated* quantization against floating point.

Simulated quantization computes in floating point and rounds besides, so it is slower than the original. What
is measured here is what that simulation costs, never a speed-up: only integer execution could give one.
"""

import statistics
import time

import common

from qdiff_lib import Recipe, quantize
from qdiff_lib.diffusion.pipelines import with_sampler
from qdiff_lib.diffusion.sampling import sample

LABEL = "simulated quantization (fake-quantize in floating point): its cost, not a speed-up"


def measure(quick: bool = False) -> dict:
    """Seconds of W4A8 and of floating point, in alternating pairs, and the median of the pairs' ratios."""
    images, steps, pairs = (2, 2, 2) if quick else (32, 10, 5)
    full = common.model()
    recipe = Recipe.qdiffusion(
        4, 8, weight_rounding="nearest", samples=4 if quick else 64, steps=2 if quick else 20
    )
    quantized = quantize(full, recipe, progress=False)
    pipes = [with_sampler(pipe, "ddim") for pipe in (full, quantized)]
    for pipe in pipes:
        seconds(pipe, images, 2)
    measured = [[seconds(pipe, images, steps) for pipe in pipes] for _ in range(pairs)]
    ratios = [simulated / original for original, simulated in measured]
    return {
        "label": LABEL,
        "images": images,
        "steps": steps,
        "pairs": pairs,
        "fp_seconds": statistics.median(original for original, _ in measured),
        "w4a8_simulated_seconds": statistics.median(simulated for _, simulated in measured),
        "ratio_w4a8_to_fp": statistics.median(ratios),
        "ratios": ratios,
    }


def seconds(pipe, images: int, steps: int) -> float:
    """How long one call of ``sample`` takes."""
    start = time.perf_counter()
    sample(pipe, n=images, steps=steps, batch_size=images)
    return time.perf_counter() - start
