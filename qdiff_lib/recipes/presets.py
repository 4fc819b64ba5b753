"""The paper's four models: their networks, and the settings with which the paper quantizes each.

    Preset.recipe()            the paper's own numbers
    Preset.recipe(profile=...) fewer steps, inputs and iterations, the same ranges, sampler and softmax

Two differences from the paper remain. Where it tracks running minima and maxima, the range here covers all
calibration inputs, whatever their order. And its min-max and MSE ranges see every value, those here of
activations a random sample that holds each batch's extremes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .paper_networks import DDPM_CIFAR10, LDM4_BEDROOMS, LDM8_CHURCHES, SD_V1_4
from .recipe import STAGES, Recipe
from .timestep_rules import Uniform

LARGE = dict.fromkeys(STAGES, 0)  # they take a training's memory, and many runs of the sampler
SYMMETRIC = dict(activation_range="min_max", symmetric_activations=True)
ASYMMETRIC = dict(activation_range="mse_search", symmetric_activations=False)


@dataclass(frozen=True)
class Preset:
    """One model of the paper.

    unet: its network's config. sampling: how it draws, and what its size forbids, for every method. ranges:
    of Q-Diffusion alone. numbers: of the profile "paper". hub: its name there; "" where only CompVis' own
    file exists.
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
        """The recipe of this model. ``changes``: see ``Recipe.replace``."""
        settings = dict(self.sampling) | (dict(self.numbers) if profile == "paper" else {})
        if method == "qdiffusion":
            settings |= self.ranges
        if method == "ptq4dm":
            settings.pop("rule", None)  # it draws its times by a rule of its own
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
        sampling=dict(sampler="plms", guidance=7.5, softmax_bits=16, **LARGE),
        ranges=dict(weight_range="mse_search", split=True, **ASYMMETRIC),
        numbers=dict(steps=50, rule=Uniform(2), samples=25 * 128 * 2, batch_size=8),
        hub="CompVis/stable-diffusion-v1-4",
    ),
}
"""By name."""


def preset_of(model: str) -> str | None:
    """The name of the preset whose hub name this is, or None."""
    return next((name for name, preset in PRESETS.items() if preset.hub and preset.hub == model), None)
