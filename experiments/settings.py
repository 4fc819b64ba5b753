"""How much work the experiments do: the recorded numbers, and small ones that only prove the path."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

from qdiff_lib import Recipe, load
from qdiff_lib.cli.demo import EDGE_BITS
from qdiff_lib.recipes.recipe import PROFILES as RECIPES

MODEL = "ddpm-fashion"
LATENT = {"sd-emoji": "sd-v1.4", "ldm-emoji": "ldm8-churches"}  # and the paper's models of their classes


def shipped_pipeline() -> DDPMPipeline:
    """The embedded model."""
    return load(MODEL)


@dataclass(frozen=True)
class Table1:
    """How much work Table 1 is.

    profile: of the recipes. n, batch: images of a row, and how many are drawn and kept at once. steps: of the
    sampler with quadratic steps. bits: weights and activations of the rows, in the order in which they are
    made. seeds: of the noise and of the recipes; the first is that of all rows. extractors: of the scores.
    """

    profile: str = "laptop"
    n: int = 1000
    batch: int = 100
    steps: int = 50
    bits: tuple[tuple[int, int], ...] = ((4, 8), (4, 32), (8, 8), (8, 32))
    seeds: tuple[int, ...] = (0, 1, 2)
    extractors: tuple[str, ...] = ("fashion-classifier", "inception")


@dataclass(frozen=True)
class Latent:
    """How much work it is.

    models: names in ``LATENT``. bits: weights and activations of the rows. steps, images: drawn of each row;
    shown: of them, in the picture. guidance: scale, for models that read a text. recipe: changes to the
    recipes' "tiny" profile.
    """

    models: tuple[str, ...] = tuple(LATENT)
    bits: tuple[tuple[int, int], ...] = ((4, 32), (4, 8))
    steps: int = 25
    images: int = 16
    shown: int = 8
    guidance: float = 5.0
    recipe: dict = field(default_factory=lambda: dict(samples=256, iterations=130, step_size_iterations=20))


@dataclass(frozen=True)
class Settings:
    """pipeline: makes the full-precision model. shipped: name of its shipped form at W4A8, if there is one.
    engine: draws in integers. recipe: changes to the recipes' "tiny" profile.

    steps, images: DDIM steps and images of every row that has scores. long_steps, trajectories: of Figure 3.
    drift_images, drift_batch: of Figure 5, and how many are drawn at once. split_inputs: of Figure 7.
    sampling_budget: changes to the recipes that compare calibration sets. shares: of the steps that the rules
    first, middle and last take. sweeps: values of each setting that is changed alone. seeds: of calibrations
    that differ in nothing else. network_iterations, bias_correction_images: of the rows that have the stages
    after the last unit. between_inputs, divergence_inputs: of the errors at every step, and of the layers'
    divergences. table1: see ``Table1``. latent: see ``Latent``.
    """

    pipeline: Callable[[], DDPMPipeline] = shipped_pipeline
    shipped: str | None = f"{MODEL}-w4a8"
    engine: str = "openvino"
    recipe: dict = field(default_factory=dict)
    steps: int = 20
    images: int = 128
    long_steps: int = 100
    trajectories: int = 64
    drift_images: int = 1000
    drift_batch: int = 50
    split_inputs: int = 256
    sampling_budget: dict = field(
        default_factory=lambda: dict(samples=256, iterations=40, step_size_iterations=10)
    )
    shares: tuple[float, ...] = (0.2, 0.1, 0.5)
    sweeps: dict[str, tuple[int, ...]] = field(
        default_factory=lambda: dict(
            calibration_interval=(1, 2, 4, 5, 10),
            calibration_inputs=(64, 128, 256, 512, 1024, 2560, 5120),
            adaround_iterations=(20, 65, 130, 260, 520, 1040),
            softmax_bits=(4, 6, 8, 16),
        )
    )
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    network_iterations: int = RECIPES["laptop"]["network_iterations"]
    bias_correction_images: int = RECIPES["laptop"]["bias_correction_images"]
    between_inputs: int = 500
    divergence_inputs: int = 320
    table1: Table1 = Table1()
    latent: Latent = Latent()

    def linear(self, weights: int, activations: int, **changes) -> Recipe:
        """The baseline's recipe at this size of work."""
        return Recipe.linear(weights, activations, "tiny", **{**self.recipe, **changes})

    def qdiffusion(self, weights: int, activations: int, **changes) -> Recipe:
        """The method's recipe at this size of work, with the first and last layer as in the demonstration."""
        changes = {"edge_bits": EDGE_BITS, **self.recipe, **changes}
        return Recipe.qdiffusion(weights, activations, "tiny", **changes)


def random_pipeline() -> DDPMPipeline:
    """A small network of random weights; it has attention, shortcuts and 32x32 images, like the embedded."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DModel(
            sample_size=32,
            in_channels=1,
            out_channels=1,
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=4,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        )
    pipe = DDPMPipeline(unet=unet, scheduler=DDPMScheduler())
    pipe.set_progress_bar_config(disable=True)
    return pipe


PROFILES = {
    "laptop": Settings(),
    "tiny": Settings(
        pipeline=random_pipeline,
        shipped=None,
        engine="reference",
        recipe=dict(steps=10, samples=12, iterations=2, step_size_iterations=1, batch_size=4),
        steps=10,
        images=8,
        long_steps=12,
        trajectories=4,
        drift_images=6,
        drift_batch=3,
        split_inputs=8,
        sampling_budget=dict(samples=8, iterations=1, step_size_iterations=1),
        shares=(0.5,),
        sweeps=dict(
            calibration_interval=(1, 5),
            calibration_inputs=(8, 12),
            adaround_iterations=(1, 2),
            softmax_bits=(4, 8),
        ),
        seeds=(0, 1),
        network_iterations=1,
        bias_correction_images=2,
        between_inputs=20,
        divergence_inputs=10,
        table1=Table1("tiny", 8, 4, 10, ((4, 8),), (0, 1), ("fashion-classifier",)),
        latent=Latent(
            models=("sd-emoji",),
            bits=((4, 8),),
            steps=3,
            images=2,
            shown=2,
            recipe=dict(
                steps=3,
                samples=4,
                iterations=1,
                step_size_iterations=1,
                batch_size=2,
                rounding_start="fraction",  # these two are quick, and the ladder has the others
                weight_range="min_max",
            ),
        ),
    ),
}
"""laptop: what is recorded. tiny: the whole path in minutes, on random weights; its numbers mean nothing."""
