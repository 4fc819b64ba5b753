"""Recipes: everything that decides how a model is quantized, as one frozen value.

``Recipe.linear(weights=4, activations=8)`` is the paper's baseline, ``Recipe.qdiffusion(...)`` the paper's
method. A profile sets numbers (steps, samples, iterations); all but "paper" also add ``EXTRAS``, which are
not in the paper. Neither are "laptop"'s two stages after the last unit.
"""

from dataclasses import dataclass, fields

from .calibration import Normal, Rule, Uniform, rule_from_dict, rule_to_dict
from .grid import ALLOWED_BITS, FLOAT_BITS
from .ranges import RANGES
from .request import GUIDANCE, check_guidance
from .rounding import ROUNDINGS

SHORT = dict(batch_size=16, regularization=1e-3, beta=(8.0, 1.0))  # decides all roundings in few iterations
PROFILES = {
    "tiny": dict(steps=20, samples=512, iterations=260, step_iterations=40, lr=3e-2, lr_steps=1e-3, **SHORT),
    "laptop": dict(
        steps=50,
        samples=1024,
        iterations=1200,
        step_iterations=200,
        network_iterations=600,
        bias_correction_images=128,
        lr=1e-2,
        **SHORT,
    ),
    "gpu": dict(steps=100, samples=2560, iterations=5_000, step_iterations=1_000, lr=3e-3),
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


@dataclass(frozen=True)
class Recipe:
    """How to quantize. The defaults are the paper's for Q-Diffusion on CIFAR-10, but for the ranges.

    Ranges default to what the paper uses for LSUN and Stable Diffusion: searched by MSE for weights,
    asymmetric for activations. For CIFAR-10 it uses ``weight_range="min_max", symmetric_activations=True``.
    """

    method: str = "qdiffusion"
    """Name of the recipe, for reports."""
    weights: int = 4
    """Bits of the weights: 2 to 8, 16, or 32 for floating point. Per output channel, asymmetric."""
    activations: int = 8
    """Bits of the activations: 2 to 8, 16, or 32 for floating point. Per tensor."""
    softmax_bits: int | None = None
    """Bits of the attention's softmax; None: 8, but 16 in networks that read a text, as in the paper."""
    edge_bits: int | None = None
    """Least bits of the first and last convolution, weights and activations; None: like all other layers, as
    in the paper. The first reads the noisy image itself: its rounding error is noise to the network."""
    symmetric_activations: bool = False
    """Fix the zero point of activations to the middle code."""
    quantize_attention: bool = True
    """Quantize q, k, v and the softmax too; False leaves the attention products in floating point."""
    weight_range: str = "mse_search"
    """Range finder of the weights: a key of ``ranges.RANGES``."""
    activation_range: str = "min_max"
    """Range finder of the activations."""
    rounding: str = "adaround"
    """"nearest"; "squant": flipped where that makes errors cancel (see ``squant``); or "adaround": block
    reconstruction with learned rounding."""
    rounding_start: str = "fraction"
    """Where AdaRound starts: "fraction", at the full-precision weight, as in the paper; or "gptq", near the
    codes of GPTQ (see ``gptq``), which a few hundred iterations do not find on their own."""
    learn_affine: bool = False
    """Learn the weights' scales and the biases along with the rounding, at the rate ``lr_steps``. Not in the
    paper; costs nothing in the file, and makes up for much of what rounding loses."""
    split: bool = True
    """Separate grids for the halves of a concatenation that a shortcut layer reads."""
    include: tuple[str, ...] = ("*",)
    """Module names to quantize, as shell patterns."""
    exclude: tuple[str, ...] = ()
    """Module names to leave in floating point, as shell patterns."""
    rule: Rule = Uniform()
    """At which steps of the trajectory calibration inputs are taken: a value of ``calibration``."""
    steps: int = 100
    """Denoising steps of the sampler that makes the calibration set."""
    sampler: str | None = "ddim"
    """A key of ``samplers.SAMPLERS``, or None: the pipeline's own scheduler."""
    eta: float = 0.0
    """Share of fresh noise in each step of DDIM: 0, none, to 1."""
    guidance: float = GUIDANCE
    """Scale of classifier-free guidance, for pipelines that draw from a text; 1 or less: none."""
    samples: int = 5120
    """Calibration inputs in all; under guidance half of them conditional, half unconditional."""
    iterations: int = 20_000
    """Rounding iterations for each unit."""
    step_iterations: int = 5_000
    """Iterations for the learned step sizes of each unit's activations; 0 keeps the observed ranges."""
    batch_size: int = 32
    """Calibration inputs in each iteration."""
    lr: float = 1e-3
    """Adam's learning rate on the rounding variables V."""
    lr_steps: float = 4e-4
    """Adam's learning rate on the log step sizes of activations, with cosine decay; see ``learn_affine``."""
    network_iterations: int = 0
    """Iterations after the last unit, in which the codes, scales and biases of all quantized layers learn
    together (see ``network``). Not in the paper; takes the memory of training the network on one batch."""
    lr_network: float = 3e-3
    """Adam's learning rate in these iterations on log scales and biases, with cosine decay."""
    lr_codes: float = 4e-3
    """The same on codes, in steps of the grid; 0 keeps the codes."""
    bias_correction_images: int = 0
    """Images that both networks draw at the end, with the sampler, steps and seed above, so that the last
    layer's bias can give them the same brightness (see ``bias_correction``). Not in the paper; takes three
    runs of the sampler, and one more for each channel."""
    regularization: float = 0.01
    """Weight of the rounding regularizer."""
    beta: tuple[float, float] = (20.0, 2.0)
    """Exponent of the regularizer, from and to, annealed after the warm-up."""
    warmup: float = 0.2
    """Share of the iterations before the regularizer is switched on."""
    seed: int = 0
    """Seed of the calibration set and of the batches."""

    def __post_init__(self):
        widths = (*ALLOWED_BITS, FLOAT_BITS)
        allowed_bits = {"weights": widths, "activations": widths, "softmax_bits": (None, *ALLOWED_BITS)}
        for name, allowed in {**allowed_bits, "edge_bits": (None, *widths)}.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r} is not supported; use one of {allowed}")
        for name in ("include", "exclude"):
            if isinstance(getattr(self, name), str):
                raise TypeError(f"{name}={getattr(self, name)!r} must be a tuple of patterns, not one string")
        for name in ("weight_range", "activation_range"):
            if getattr(self, name) not in RANGES:
                raise ValueError(f"{name}={getattr(self, name)!r} is unknown; use one of {tuple(RANGES)}")
        if self.rounding not in (*ROUNDINGS, "adaround"):
            raise ValueError(f"rounding={self.rounding!r} is unknown; use {(*ROUNDINGS, 'adaround')}")
        if self.rounding_start not in ("fraction", "gptq"):
            raise ValueError(f"rounding_start={self.rounding_start!r} is unknown; use 'fraction' or 'gptq'")
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta={self.eta!r} must be from 0 to 1")
        check_guidance(self.guidance)
        least = {"steps": 1, "samples": 1, "iterations": 1, "step_iterations": 0}
        least |= {**dict.fromkeys(STAGES, 0), "batch_size": 1}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ValueError(f"{name}={getattr(self, name)!r} must be at least {bound}")

    @classmethod
    def linear(cls, weights: int = 4, activations: int = 8, profile: str = "tiny", **changes) -> "Recipe":
        """The paper's baseline: per-channel round-to-nearest weights, min-max ranges, no split."""
        plain = dict(method="linear", rounding="nearest", split=False, weight_range="min_max")
        plain["symmetric_activations"] = True
        return cls(
            **{**profile_numbers(profile), **plain, "weights": weights, "activations": activations, **changes}
        )

    @classmethod
    def squant(cls, weights: int = 4, activations: int = 8, profile: str = "tiny", **changes) -> "Recipe":
        """SQuant (Guo et al., ICLR 2022), which rounds weights without data, as a baseline of the paper.

        All but the rounding is that of ``linear``. So activation ranges do come from calibration inputs;
        SQuant itself takes them from batch normalization layers, which these networks do not have.
        """
        data_free = dict(method="squant", rounding="squant")
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
        alone = dict(method="ptq4dm", rounding="nearest", split=False, quantize_attention=False)
        alone |= dict(weight_range="mse_search", activation_range="mse_search", rule=Normal(0.4, 0.4))
        return cls(
            **{**profile_numbers(profile), **alone, "weights": weights, "activations": activations, **changes}
        )

    @classmethod
    def qdiffusion(cls, weights: int = 4, activations: int = 8, profile: str = "tiny", **changes) -> "Recipe":
        """The paper's method: block reconstruction with AdaRound, shortcut split, learned step sizes.

        All profiles but "paper" add ``EXTRAS``.
        """
        numbers = profile_numbers(profile) | ({} if profile == "paper" else EXTRAS)
        return cls(**{**numbers, "weights": weights, "activations": activations, **changes})

    @classmethod
    def named(cls, method: str, **options) -> "Recipe":
        """The recipe of that method name. Raises ValueError for a name that is not in ``METHODS``."""
        if method not in METHODS:
            raise ValueError(f"method={method!r} is unknown; use one of {METHODS}")
        return getattr(cls, method)(**options)

    def to_dict(self) -> dict:
        """A JSON form, which ``from_dict`` reads back."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**values, "rule": rule_to_dict(self.rule)}

    @classmethod
    def from_dict(cls, values: dict) -> "Recipe":
        """The recipe that ``to_dict`` described. Raises TypeError for unknown fields."""
        lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return cls(**{**values, **lists, "rule": rule_from_dict(values["rule"])})


def profile_numbers(profile: str) -> dict:
    """The numbers of a profile. Raises ValueError for an unknown name."""
    if profile not in PROFILES:
        raise ValueError(f"profile={profile!r} is unknown; use one of {tuple(PROFILES)}")
    return PROFILES[profile]
