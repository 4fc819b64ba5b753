"""The parts of a recipe, one for each stage of the method. Each checks its fields when it is made.

The defaults are the paper's for Q-Diffusion on CIFAR-10, but for the ranges: they are what the paper uses for
LSUN and Stable Diffusion, searched by MSE for weights and asymmetric for activations. For CIFAR-10 it uses
``weight_range="min_max", symmetric_activations=True``. No torch is needed here.
"""

from dataclasses import dataclass

from ..utils.constants import ALLOWED_BITS, FLOAT_BITS, GUIDANCE
from ..utils.kinds import Checked, Flag, Maybe, Number, OneOf, Pair, Patterns, Whole, setting
from .timestep_rules import EXAMPLES, Rule, TimestepRule, Uniform

WIDTHS = OneOf((*ALLOWED_BITS, FLOAT_BITS))
RANGE_FINDERS = OneOf(("min_max", "mse_search", "percentile"))
LEARNED = "adaround"
ROUNDINGS = OneOf(("nearest", "squant", LEARNED))
SAMPLERS = ("ddim", "ddim-quadratic", "plms", "dpm++")
OWN_SAMPLER = "own"  # None to the library


@dataclass(frozen=True)
class Grids(Checked):
    """Which integers there are: the widths of their grids, and what lies on them."""

    weights: int = setting(
        4,
        WIDTHS,
        "Bits of the weights: 2 to 8, 16, or 32 for floating point. Per output channel, asymmetric.",
    )
    activations: int = setting(
        8, WIDTHS, "Bits of the activations: 2 to 8, 16, or 32 for floating point. Per tensor."
    )
    softmax_bits: int | None = setting(
        None,
        Maybe(OneOf(ALLOWED_BITS)),
        "Bits of the attention's softmax; none: 8, but 16 in networks that read a text, as in the paper.",
    )
    edge_bits: int | None = setting(
        None,
        Maybe(WIDTHS),
        "Least bits of the first and last convolution, weights and activations; none: like all other layers, "
        "as in the paper. The first reads the noisy image: its rounding error is noise to the network.",
    )
    symmetric_activations: bool = setting(
        False, Flag(), "Fix the zero point of activations to the middle code."
    )
    quantize_attention: bool = setting(
        True,
        Flag(),
        "Quantize q, k, v and the softmax too; otherwise the attention products stay in floating point.",
    )
    split: bool = setting(
        True, Flag(), "Separate grids for the halves of a concatenation that a shortcut layer reads."
    )
    include: tuple[str, ...] = setting(("*",), Patterns(), "Module names to quantize, as shell patterns.")
    exclude: tuple[str, ...] = setting(
        (), Patterns(), "Module names to leave in floating point, as shell patterns."
    )


@dataclass(frozen=True)
class Calibration(Checked):
    """Which inputs of the full-precision network the method learns from, and how it draws them."""

    rule: Rule = setting(
        Uniform(),
        TimestepRule(),
        f"At which steps of the trajectory calibration inputs are taken: {EXAMPLES}.",
    )
    steps: int = setting(100, Whole(1), "Denoising steps of the sampler that makes the calibration set.")
    sampler: str | None = setting(
        "ddim",
        Maybe(OneOf(SAMPLERS), OWN_SAMPLER),
        f"Sampler that makes it: {', '.join(SAMPLERS)}, or the pipeline's own.",
    )
    eta: float = setting(
        0.0, Number(0, 1), "Share of fresh noise in each of these steps of DDIM: 0, none, to 1."
    )
    guidance: float = setting(
        GUIDANCE,
        Number(),
        "Scale of classifier-free guidance, for pipelines that draw from a text; 1 or less: none.",
    )
    samples: int = setting(
        5120, Whole(1), "Calibration inputs in all; under guidance half of them conditional, half not."
    )


@dataclass(frozen=True)
class Rounding(Checked):
    """How weights get their codes: their ranges, and then which way each is rounded."""

    weight_range: str = setting(
        "mse_search", RANGE_FINDERS, "Range finder of the weights: min_max, mse_search or percentile."
    )
    weight_rounding: str = setting(
        LEARNED,
        ROUNDINGS,
        "nearest; squant: flipped where that makes errors cancel; or adaround: learned, by block "
        "reconstruction.",
    )
    rounding_start: str = setting(
        "fraction",
        OneOf(("fraction", "gptq")),
        "Where AdaRound starts: fraction, at the full-precision weight, as in the paper; or gptq, near the "
        "codes of GPTQ, which a few hundred iterations do not find on their own.",
    )
    learn_affine: bool = setting(
        False,
        Flag(),
        "Learn the weights' scales and the biases along with the rounding, at the rate lr_step_sizes. Not in "
        "the paper; costs nothing in the file, and makes up for much of what rounding loses.",
    )
    iterations: int = setting(20_000, Whole(1), "Rounding iterations for each unit.")
    batch_size: int = setting(
        32, Whole(1), "Calibration inputs in each iteration, here and wherever something is learned after it."
    )
    lr: float = setting(1e-3, Number(0), "Adam's learning rate on the rounding variables V.")
    regularization: float = setting(0.01, Number(0), "Weight of the rounding regularizer.")
    beta: tuple[float, float] = setting(
        (20.0, 2.0),
        Pair(Number(0, zero=False)),
        "Exponent of the regularizer, from and to, annealed after the warm-up.",
    )
    warmup: float = setting(
        0.2, Number(0, 1), "Share of the iterations before the regularizer is switched on."
    )

    @property
    def learned(self) -> bool:
        """Whether the rounding is learned, unit by unit."""
        return self.weight_rounding == LEARNED


@dataclass(frozen=True)
class StepSizes(Checked):
    """How activations get the step sizes of their grids: observed ranges, and then learning."""

    activation_range: str = setting(
        "min_max", RANGE_FINDERS, "Range finder of the activations: min_max, mse_search or percentile."
    )
    step_size_iterations: int = setting(
        5_000,
        Whole(0),
        "Iterations for the learned step sizes of each unit's activations; 0 keeps the observed ranges.",
    )
    lr_step_sizes: float = setting(
        4e-4,
        Number(0),
        "Adam's learning rate on the log step sizes of activations, with cosine decay; see learn_affine.",
    )


@dataclass(frozen=True)
class WholeNetwork(Checked):
    """After the last unit: all layers learn together (see ``network``). Not in the paper."""

    network_iterations: int = setting(
        0,
        Whole(0),
        "Iterations after the last unit, in which the codes, scales and biases of all quantized layers learn "
        "together; 0: none. Takes the memory of training the network on one batch.",
    )
    lr_network: float = setting(
        3e-3,
        Number(0),
        "Adam's learning rate in these iterations on log scales and biases, with cosine decay.",
    )
    lr_codes: float = setting(4e-3, Number(0), "The same on codes, in steps of the grid; 0 keeps the codes.")


@dataclass(frozen=True)
class BiasCorrectionStage(Checked):
    """After all else: drawn images get full precision's brightness (see ``bias_correction``). Not in the
    paper."""

    bias_correction_images: int = setting(
        0,
        Whole(0),
        "Images that both networks draw at the end, as the calibration set was drawn, so that the last "
        "layer's bias can give them the same brightness; 0: none. Takes three runs of the sampler, and one "
        "more for each channel.",
    )
