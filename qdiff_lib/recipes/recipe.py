"""Recipes: everything that decides how a model is quantized, as one frozen value.

``Recipe.linear(weights=4, activations=8)`` is the paper's baseline, ``Recipe.qdiffusion(...)`` the paper's
method. A profile sets numbers (steps, samples, iterations); all but "paper" also add ``EXTRAS``, which are
not in the paper. Neither are "laptop"'s two stages after the last unit. No torch is needed here.
"""

import dataclasses
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches

from ..utils.constants import LAST_SEED
from ..utils.kinds import Checked, Instance, Text, Whole, setting
from .parts import BiasCorrectionStage, Calibration, Grids, Rounding, StepSizes, WholeNetwork
from .timestep_rules import Normal, Uniform, rule_from_dict, rule_to_dict

SHORT = dict(batch_size=16, regularization=1e-3, beta=(8.0, 1.0))  # decides all roundings in few iterations
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
    "paper": dict(),
}
"""The numbers of each profile: seconds to minutes on a CPU, up to the paper's own on a GPU."""

EXTRAS = dict(rounding_start="gptq", learn_affine=True, rule=Uniform(1))
"""What Q-Diffusion gets beyond the paper, in every profile but "paper"; the fields say what they do.

Inputs come from every step: what is learned fits the steps that it sees, and is further off at those between.
"""

STAGES = ("network_iterations", "bias_correction_images")
"""The fields that switch on what follows the last unit; neither stage is in the paper."""

METHOD_NAMES = {"linear": "linear", "squant": "SQuant", "ptq4dm": "PTQ4DM", "qdiffusion": "Q-Diffusion"}
"""What figures and tables call each method that has a recipe."""

METHODS = tuple(METHOD_NAMES)

PARTS = {
    "grids": Grids,
    "calibration": Calibration,
    "rounding": Rounding,
    "step_sizes": StepSizes,
    "whole_network": WholeNetwork,
    "bias_correction": BiasCorrectionStage,
}
"""The parts of a recipe, in the order in which quantizing needs them."""

PART_OF = {field.name: part for part, kind in PARTS.items() for field in fields(kind)}
"""The part that each field is in: no two parts have a field of the same name."""


@dataclass(frozen=True)
class Recipe(Checked):
    """How to quantize: one part for each stage of the method.

    ``recipe.calibration.samples`` reads a field, ``recipe.replace(samples=64)`` gives the recipe with another
    value there. Parts and recipes check their fields when they are made: TypeError or ValueError.
    """

    method: str = setting("qdiffusion", Text(), "Name of the recipe, for reports.")
    grids: Grids = setting(Grids(), Instance(Grids), "Widths, and what is quantized.")
    calibration: Calibration = setting(Calibration(), Instance(Calibration), "The calibration set.")
    rounding: Rounding = setting(Rounding(), Instance(Rounding), "Codes of the weights.")
    step_sizes: StepSizes = setting(StepSizes(), Instance(StepSizes), "Step sizes of the activations.")
    whole_network: WholeNetwork = setting(
        WholeNetwork(), Instance(WholeNetwork), "Learning of all layers together."
    )
    bias_correction: BiasCorrectionStage = setting(
        BiasCorrectionStage(), Instance(BiasCorrectionStage), "Brightness of the drawn images."
    )
    seed: int = setting(0, Whole(0, LAST_SEED), "Seed of the calibration set and of the batches.")

    def replace(self, **changes) -> "Recipe":
        """The recipe with these fields, of whatever part, changed.

        Raises TypeError for a name that is none, and ValueError or TypeError for a value that is not allowed.
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
        """The value of every field, whatever its part: what ``replace`` takes."""
        inside = {name: getattr(getattr(self, part), name) for name, part in PART_OF.items()}
        return {"method": self.method, **inside, "seed": self.seed}

    @classmethod
    def linear(cls, weights: int = 4, activations: int = 8, profile: str = "tiny", **changes) -> "Recipe":
        """The paper's baseline: per-channel round-to-nearest weights, min-max ranges, no split."""
        plain = dict(method="linear", weight_rounding="nearest", split=False, weight_range="min_max")
        plain["symmetric_activations"] = True
        bits = dict(weights=weights, activations=activations)
        return cls().replace(**{**profile_numbers(profile), **plain, **bits, **changes})

    @classmethod
    def squant(cls, weights: int = 4, activations: int = 8, profile: str = "tiny", **changes) -> "Recipe":
        """SQuant (Guo et al., ICLR 2022), which rounds weights without data, as a baseline of the paper.

        All but the rounding is that of ``linear``. So activation ranges do come from calibration inputs;
        SQuant itself takes them from batch normalization layers, which these networks do not have.
        """
        data_free = dict(method="squant", weight_rounding="squant")
        return cls.linear(weights, activations, profile, **{**data_free, **changes})

    @classmethod
    def ptq4dm(cls, weights: int = 4, activations: int = 8, profile: str = "tiny", **changes) -> "Recipe":
        """PTQ4DM (Shang et al., CVPR 2023), a baseline of the paper.

        As there: the diffusion times of calibration inputs are drawn from a normal distribution whose mean
        lies below one half (mean and deviation are those of its published command), each layer is calibrated
        alone, with ranges of least error, and attention products stay in floating point. Not as there: the
        error is |x - x^|^2.4, as everywhere here, the first and last layer have the bits of all others, and
        the number of inputs is the profile's. Its option to learn each layer's rounding is left out.
        """
        alone = dict(method="ptq4dm", weight_rounding="nearest", split=False, quantize_attention=False)
        alone |= dict(weight_range="mse_search", activation_range="mse_search", rule=Normal(0.4, 0.4))
        bits = dict(weights=weights, activations=activations)
        return cls().replace(**{**profile_numbers(profile), **alone, **bits, **changes})

    @classmethod
    def qdiffusion(cls, weights: int = 4, activations: int = 8, profile: str = "tiny", **changes) -> "Recipe":
        """The paper's method: block reconstruction with AdaRound, shortcut split, learned step sizes.

        All profiles but "paper" add ``EXTRAS``.
        """
        numbers = profile_numbers(profile) | ({} if profile == "paper" else EXTRAS)
        return cls().replace(**{**numbers, "weights": weights, "activations": activations, **changes})

    @classmethod
    def named(cls, method: str, **options) -> "Recipe":
        """The recipe of that method name. Raises ValueError for a name that is not in ``METHODS``."""
        if method not in METHODS:
            raise ValueError(f"method={method!r} is unknown; use one of {METHODS}")
        return getattr(cls, method)(**options)

    def to_dict(self) -> dict:
        """A JSON form, which ``from_dict`` reads back: one dictionary for each part."""
        values = asdict(self)
        values["calibration"]["rule"] = rule_to_dict(self.calibration.rule)
        return values

    @classmethod
    def from_dict(cls, values: dict) -> "Recipe":
        """The recipe that ``to_dict`` described.

        Raises TypeError or ValueError for unknown fields, missing parts and values that are not allowed.
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
    """Raise TypeError, with the nearest names, unless a field of a recipe or of its parts has this name."""
    known = ("method", *PART_OF, "seed")
    if name in known:
        return
    near = " or ".join(map(repr, get_close_matches(name, known)))
    own = f"; its fields are {', '.join(n for n in PART_OF if PART_OF[n] == name)}" if name in PARTS else ""
    raise TypeError(f"a recipe has no field {name!r}{own or (near and f'; did you mean {near}?')}")


def profile_numbers(profile: str) -> dict:
    """The numbers of a profile. Raises ValueError for an unknown name."""
    if profile not in PROFILES:
        raise ValueError(f"profile={profile!r} is unknown; use one of {tuple(PROFILES)}")
    return PROFILES[profile]
