"""Recipes: everything that decides how a model is quantized, as one frozen value.

``Recipe.linear(weights=4, activations=8)`` is the paper's baseline. ``Recipe.qdiffusion(...)`` is the paper's
method. A profile sets numbers (denoising steps, samples, iterations). All profiles but "paper" also add
``EXTRAS``, which are not in the paper. The profile "laptop" adds two stages after the last unit, which are
not in the paper either. This module needs no torch.
"""

import dataclasses
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches

from ..utils.constants import LAST_SEED
from ..utils.kinds import Checked, Instance, Text, Whole, setting
from .parts import BiasCorrectionStage, Calibration, Grids, Rounding, StepSizes, WholeNetwork
from .timestep_rules import Normal, Uniform, rule_from_dict, rule_to_dict

SHORT = dict(batch_size=16, regularization=1e-3, beta=(8.0, 1.0))  # few iterations decide all roundings
PROFILES = {
    "tiny": dict(
        steps=20, samples=512, iterations=260, step_size_iterations=40, lr=3e-2, lr_step_sizes=1e-3, **SHORT
    ),
    "laptop": dict(
        steps=50,
        samples=1024,
        iterations=1200,
        step_size_iterations=200,
        network_iterations=600,
        bias_correction_images=128,
        lr=1e-2,
        **SHORT,
    ),
    "gpu": dict(steps=100, samples=2560, iterations=5_000, step_size_iterations=1_000, lr=3e-3),
    "paper": dict(second_pass=True),
}
"""The numbers of each profile: "tiny" takes seconds to minutes on a CPU, "paper" is for a GPU."""

EXTRAS = dict(rounding_start="gptq", learn_affine=True, rule=Uniform(1))
"""What every profile but "paper" adds to Q-Diffusion. The fields in ``parts`` say what they do.

Calibration inputs come from every denoising step. What is learned fits the steps of its inputs, and has
larger errors at the steps between them.
"""

STAGES = ("network_iterations", "bias_correction_images")
"""The fields that switch on the two stages after the last unit. Neither stage is in the paper."""

LEARNING = (
    "cache_bits", "rounding_start", "learn_affine", "iterations", "batch_size", "lr", "regularization",
    "beta", "warmup", "step_size_iterations", "second_pass", "lr_step_sizes", "network_iterations",
    "lr_network", "lr_codes", "bias_correction_images",
)  # fmt: skip
"""The fields that change nothing where ``rounding.learned`` is False."""

METHOD_NAMES = {"linear": "linear", "squant": "SQuant", "ptq4dm": "PTQ4DM", "qdiffusion": "Q-Diffusion"}
"""The name of each method with a recipe, as figures and tables print it."""

METHODS = tuple(METHOD_NAMES)

PARTS = {
    "grids": Grids,
    "calibration": Calibration,
    "rounding": Rounding,
    "step_sizes": StepSizes,
    "whole_network": WholeNetwork,
    "bias_correction": BiasCorrectionStage,
}
"""The parts of a recipe, in the order in which quantization needs them."""

PART_OF = {field.name: part for part, kind in PARTS.items() for field in fields(kind)}
"""The part that holds each field. No two parts have a field of the same name."""


@dataclass(frozen=True)
class Recipe(Checked):
    """How to quantize a model: one part for each stage of the method.

    ``recipe.calibration.samples`` reads a field. ``recipe.replace(samples=64)`` returns the recipe with
    another value of that field. Recipes and parts check their fields when they are made, and raise TypeError
    or ValueError.
    """

    method: str = setting("qdiffusion", Text(), "Name of the method, for reports.")
    grids: Grids = setting(Grids(), Instance(Grids), "Bits, and which tensors are quantized.")
    calibration: Calibration = setting(Calibration(), Instance(Calibration), "The calibration set.")
    rounding: Rounding = setting(Rounding(), Instance(Rounding), "Ranges and rounding of the weights.")
    step_sizes: StepSizes = setting(StepSizes(), Instance(StepSizes), "Step sizes of the activations.")
    whole_network: WholeNetwork = setting(
        WholeNetwork(), Instance(WholeNetwork), "Learning all layers together."
    )
    bias_correction: BiasCorrectionStage = setting(
        BiasCorrectionStage(), Instance(BiasCorrectionStage), "Brightness of the sampled images."
    )
    seed: int = setting(0, Whole(0, LAST_SEED), "Seed of the calibration set and of the random batches.")

    def replace(self, **changes) -> "Recipe":
        """Return the recipe with some fields changed, in whatever parts they are.

        Raises:
            TypeError: no field has this name, or a value has the wrong type.
            ValueError: a value is not allowed.
        """
        for name in changes:
            check_name(name)
        new = {name: value for name, value in changes.items() if name not in PART_OF}
        for part in PARTS:
            inside = {name: value for name, value in changes.items() if PART_OF.get(name) == part}
            if inside:
                new[part] = dataclasses.replace(getattr(self, part), **inside)
        return dataclasses.replace(self, **new)

    def flat(self) -> dict:
        """Return the values of all fields by name, without parts: what ``replace`` takes."""
        inside = {name: getattr(getattr(self, part), name) for name, part in PART_OF.items()}
        return {"method": self.method, **inside, "seed": self.seed}

    @classmethod
    def linear(cls, weights: int = 4, activations: int = 8, profile: str = "tiny", **changes) -> "Recipe":
        """Return the paper's baseline: per-channel weights rounded to nearest, min-max ranges, no split.

        Args:
            weights, activations: bits.
            profile: a key of ``PROFILES``.
            changes: fields, as in ``replace``, which also names the errors.

        Raises:
            ValueError: the profile is unknown.
        """
        plain = dict(method="linear", weight_rounding="nearest", split=False, weight_range="min_max")
        plain["symmetric_activations"] = True
        bits = dict(weights=weights, activations=activations)
        return cls().replace(**{**profile_numbers(profile), **plain, **bits, **changes})

    @classmethod
    def squant(cls, weights: int = 4, activations: int = 8, profile: str = "tiny", **changes) -> "Recipe":
        """Return SQuant (Guo et al., ICLR 2022), a baseline of the paper that rounds weights without data.

        Everything but the rounding is that of ``linear``, and so are the arguments and the errors. So
        activation ranges come from calibration inputs. SQuant itself takes them from batch normalization
        layers, which these networks do not have.
        """
        data_free = dict(method="squant", weight_rounding="squant")
        return cls.linear(weights, activations, profile, **{**data_free, **changes})

    @classmethod
    def ptq4dm(cls, weights: int = 4, activations: int = 8, profile: str = "tiny", **changes) -> "Recipe":
        """Return PTQ4DM (Shang et al., CVPR 2023), a baseline of the paper.

        As in PTQ4DM, the diffusion times of calibration inputs are drawn from a normal distribution with a
        mean below one half. Mean and deviation are those of its published command. Each layer is calibrated
        alone, its ranges have the least error, and attention products stay in floating point. Three things
        differ from PTQ4DM. The error is ``|x - x^|^2.4``, as in the whole library. The first and last layer
        have the bits of all others. The number of inputs is that of the profile. PTQ4DM's option to learn the
        rounding of each layer is left out.

        The arguments and the errors are those of ``linear``.
        """
        alone = dict(method="ptq4dm", weight_rounding="nearest", split=False, quantize_attention=False)
        alone |= dict(weight_range="mse_search", activation_range="mse_search", rule=Normal(0.4, 0.4))
        bits = dict(weights=weights, activations=activations)
        return cls().replace(**{**profile_numbers(profile), **alone, **bits, **changes})

    @classmethod
    def qdiffusion(cls, weights: int = 4, activations: int = 8, profile: str = "tiny", **changes) -> "Recipe":
        """Return the paper's method: block reconstruction with AdaRound, shortcut split, learned step sizes.

        All profiles but "paper" add ``EXTRAS``. The arguments and the errors are those of ``linear``.
        """
        numbers = profile_numbers(profile) | ({} if profile == "paper" else EXTRAS)
        return cls().replace(**{**numbers, "weights": weights, "activations": activations, **changes})

    @classmethod
    def named(cls, method: str, **options) -> "Recipe":
        """Return the recipe of a method, a name in ``METHODS``; ``options`` are the arguments of that method.

        Raises:
            ValueError: the method is unknown. The other errors are those of ``linear``.
        """
        if method not in METHODS:
            raise ValueError(f"method={method!r} is unknown; use one of {METHODS}")
        return getattr(cls, method)(**options)

    def to_dict(self) -> dict:
        """Return a JSON form with one dictionary for each part. ``from_dict`` reads it back."""
        values = asdict(self)
        values["calibration"]["rule"] = rule_to_dict(self.calibration.rule)
        return values

    @classmethod
    def from_dict(cls, values: dict) -> "Recipe":
        """Return the recipe of a JSON form that ``to_dict`` made.

        Raises:
            ValueError: a part is missing, or a value is not allowed.
            TypeError: a field is unknown, or a value has the wrong type.
        """
        missing = [name for name in PARTS if name not in values]
        if missing:
            raise ValueError(
                f"a recipe's JSON form lacks {missing}: an earlier version wrote it; quantize again"
            )
        parts = {name: dict(values[name]) for name in PARTS}
        parts["calibration"]["rule"] = rule_from_dict(parts["calibration"]["rule"])
        return cls(**{**values, **{name: kind(**parts[name]) for name, kind in PARTS.items()}})


def check_name(name: str) -> None:
    """Check that a recipe or one of its parts has a field of this name.

    Raises:
        TypeError: there is none. The message suggests the nearest names.
    """
    known = ("method", *PART_OF, "seed")
    if name in known:
        return
    near = " or ".join(map(repr, get_close_matches(name, known)))
    own = f"; its fields are {', '.join(n for n in PART_OF if PART_OF[n] == name)}" if name in PARTS else ""
    raise TypeError(f"a recipe has no field {name!r}{own or (near and f'; did you mean {near}?')}")


def profile_numbers(profile: str) -> dict:
    """Return the numbers of a profile. Raises ValueError for an unknown name."""
    if profile not in PROFILES:
        raise ValueError(f"profile={profile!r} is unknown; use one of {tuple(PROFILES)}")
    return PROFILES[profile]
