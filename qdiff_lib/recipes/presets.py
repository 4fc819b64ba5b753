"""The paper's four models: their networks, and the settings with which the paper quantizes each.

    Preset.recipe()            the paper's own numbers
    Preset.recipe(profile=...) fewer steps, inputs and iterations; the same ranges, sampler, softmax bits

Two differences from the paper remain. The paper tracks running minima and maxima for some models; here the
range covers all calibration inputs, whatever their order. The paper's min-max and MSE ranges see every value;
here the ranges of activations see a random sample that includes the minimum and maximum of each batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .paper_networks import DDPM_CIFAR10, LDM4_BEDROOMS, LDM8_CHURCHES, SD_V1_4
from .recipe import STAGES, Recipe
from .timestep_rules import Uniform

LARGE = dict.fromkeys(STAGES, 0)  # too costly for large models: a training's memory, many sampler runs
SYMMETRIC = dict(activation_range="min_max", symmetric_activations=True)
ASYMMETRIC = dict(activation_range="mse_search", symmetric_activations=False)


@dataclass(frozen=True)
class Preset:
    """One model of the paper.

    Args:
        unet: the config of its noise network.
        sampling: settings of every method: how the sampler runs, and stages that the model is too large for.
        ranges: settings of Q-Diffusion alone.
        numbers: settings of the profile "paper".
        hub: the model's name on the Hugging Face hub; "" if only a file of CompVis exists.
    """

    unet: Mapping[str, Any]
    sampling: Mapping[str, Any]
    ranges: Mapping[str, Any]
    numbers: Mapping[str, Any] = field(default_factory=dict)
    hub: str = ""

    def recipe(
        self,
        method: str = "qdiffusion",
        weights: int = 4,
        activations: int = 8,
        profile: str = "paper",
        **changes,
    ) -> Recipe:
        """Return the recipe of this model for one method.

        The arguments and the errors are those of ``Recipe.named``. ``changes`` are fields, as in
        ``Recipe.replace``.
        """
        settings = dict(self.sampling) | (dict(self.numbers) if profile == "paper" else {})
        if method == "qdiffusion":
            settings |= self.ranges
        if method == "ptq4dm":
            settings.pop("rule", None)  # PTQ4DM has its own rule
        bits = dict(weights=weights, activations=activations)
        return Recipe.named(method, profile=profile, **{**settings, **bits, **changes})


PRESETS = {
    "ddpm-cifar10": Preset(
        DDPM_CIFAR10,
        sampling=dict(sampler="ddim-quadratic", softmax_bits=8),
        ranges=dict(weight_range="min_max", split=True, **SYMMETRIC),
        numbers=dict(steps=100, rule=Uniform(5), samples=20 * 256),
        hub="google/ddpm-cifar10-32",
    ),
    "ldm4-bedrooms": Preset(
        LDM4_BEDROOMS,
        sampling=dict(sampler="ddim", eta=1.0, softmax_bits=8, **LARGE),
        ranges=dict(weight_range="mse_search", split=False, **SYMMETRIC),
        numbers=dict(steps=200, rule=Uniform(10), samples=20 * 256),
    ),
    "ldm8-churches": Preset(
        LDM8_CHURCHES,
        sampling=dict(sampler="ddim", eta=0.0, softmax_bits=8, **LARGE),
        ranges=dict(weight_range="mse_search", split=False, **ASYMMETRIC),
        numbers=dict(steps=400, rule=Uniform(20), samples=20 * 256),
    ),
    "sd-v1.4": Preset(
        SD_V1_4,
        sampling=dict(sampler="plms", guidance=7.5, softmax_bits=16, batch_size=8, **LARGE),
        ranges=dict(weight_range="mse_search", split=True, **ASYMMETRIC),
        numbers=dict(steps=50, rule=Uniform(2), samples=25 * 128 * 2),
        hub="CompVis/stable-diffusion-v1-4",
    ),
}
"""The presets by name."""


def preset_of(model: str) -> str | None:
    """Return the name of the preset with this hub name, or None."""
    return next((name for name, preset in PRESETS.items() if preset.hub and preset.hub == model), None)
