"""The parts of a recipe, one for each stage of the method. Each checks its fields when it is made.

The defaults are the paper's for Q-Diffusion on CIFAR-10, except the ranges. The ranges are those of the paper
for LSUN and Stable Diffusion: an MSE search for weights, asymmetric grids for activations. The paper's ranges
for CIFAR-10 are ``weight_range="min_max", symmetric_activations=True``. This module needs no torch.
"""

from dataclasses import dataclass

from ..utils.constants import (
    ALLOWED_BITS,
    FLOAT_BITS,
    GUIDANCE,
    MOST_GUIDANCE,
    MOST_INPUTS,
    MOST_ITERATIONS,
)
from ..utils.kinds import Checked, Flag, Maybe, Number, OneOf, Pair, Patterns, Whole, setting
from .timestep_rules import EXAMPLES, Rule, TimestepRule, Uniform

WIDTHS = OneOf((*ALLOWED_BITS, FLOAT_BITS))
RANGE_FINDERS = OneOf(("min_max", "mse_search", "percentile"))
LEARNED = "adaround"
ROUNDINGS = OneOf(("nearest", "squant", LEARNED))
SAMPLERS = ("ddim", "ddim-quadratic", "plms", "dpm++")
OWN_SAMPLER = "own"  # on the command line; None in the library


@dataclass(frozen=True)
class Grids(Checked):
    """The integer grids: their bits, and which tensors they quantize."""

    weights: int = setting(
        4,
        WIDTHS,
        "Bits of the weights: 2 to 8, 16, or 32 for floating point. Per-channel scales, asymmetric.",
    )
    activations: int = setting(
        8, WIDTHS, "Bits of the activations: 2 to 8, 16, or 32 for floating point. One scale per tensor."
    )
    softmax_bits: int | None = setting(
        None,
        Maybe(OneOf(ALLOWED_BITS)),
        "Bits of the attention's softmax. none: 8, but 16 in networks that read a text, as in the paper.",
    )
    edge_bits: int | None = setting(
        None,
        Maybe(WIDTHS),
        "Least bits of the first and last convolution, for weights and activations. none: like all other "
        "layers, as in the paper. The first reads the noisy image, so its rounding error is noise to the "
        "network.",
    )
    symmetric_activations: bool = setting(
        False, Flag(), "Fix the zero point of activations to the middle code."
    )
    quantize_attention: bool = setting(
        True,
        Flag(),
        "Also quantize q, k, v and the softmax. Otherwise the attention products stay in floating point.",
    )
    split: bool = setting(
        True,
        Flag(),
        "Separate grids for the parts of the concatenation that a shortcut layer reads.",
    )
    include: tuple[str, ...] = setting(("*",), Patterns(), "Module names to quantize, as shell patterns.")
    exclude: tuple[str, ...] = setting(
        (), Patterns(), "Module names to leave in floating point, as shell patterns."
    )


@dataclass(frozen=True)
class Calibration(Checked):
    """The calibration set: which inputs of the full-precision network the method learns from."""

    rule: Rule = setting(
        Uniform(),
        TimestepRule(),
        f"The denoising steps at which calibration inputs are taken: {EXAMPLES}.",
    )
    steps: int = setting(100, Whole(1), "Denoising steps of the sampler that makes the calibration set.")
    sampler: str | None = setting(
        "ddim",
        Maybe(OneOf(SAMPLERS), OWN_SAMPLER),
        f"Sampler that makes the calibration set: {', '.join(SAMPLERS)}, or the pipeline's own.",
    )
    eta: float = setting(
        0.0,
        Number(0, 1),
        "Share of fresh noise in each denoising step of DDIM, from 0 (none) to 1.",
    )
    guidance: float = setting(
        GUIDANCE,
        Number(0, MOST_GUIDANCE),
        "Scale of classifier-free guidance, for pipelines that draw from a text. 1 or less: no guidance.",
    )
    cache_bits: int = setting(
        32,
        OneOf((16, 32)),
        "Bits of each cached activation, a floating-point number. 16 halves memory, files and transfers.",
    )
    samples: int = setting(
        5120,
        Whole(1, MOST_INPUTS),
        "Total number of calibration inputs. With guidance, half are conditional and half unconditional.",
    )


@dataclass(frozen=True)
class Rounding(Checked):
    """Quantization of the weights: first their ranges, then the direction in which each weight is rounded."""

    weight_range: str = setting(
        "mse_search", RANGE_FINDERS, "Range finder of the weights: min_max, mse_search or percentile."
    )
    weight_rounding: str = setting(
        LEARNED,
        ROUNDINGS,
        "nearest: to the nearest code; squant: flipped where that makes errors cancel; adaround: learned "
        "by block reconstruction.",
    )
    rounding_start: str = setting(
        "fraction",
        OneOf(("fraction", "gptq")),
        "Where AdaRound starts. fraction: at the full-precision weight, as in the paper; gptq: near the "
        "codes of GPTQ, which AdaRound does not find by itself in a few hundred iterations.",
    )
    learn_affine: bool = setting(
        False,
        Flag(),
        "Also learn the weights' scales and the biases, together with the rounding, at the learning rate "
        "lr_step_sizes. Not in the paper. The file stays as small, and much of what rounding loses is "
        "regained.",
    )
    iterations: int = setting(
        20_000, Whole(1, MOST_ITERATIONS), "Iterations in which each unit learns its rounding."
    )
    batch_size: int = setting(
        32, Whole(1, MOST_INPUTS), "Calibration inputs in each iteration, here and in all later learning."
    )
    lr: float = setting(1e-3, Number(0, zero=False), "Adam's learning rate on the rounding variables V.")
    regularization: float = setting(0.01, Number(0), "Weight of the rounding regularizer.")
    beta: tuple[float, float] = setting(
        (20.0, 2.0),
        Pair(Number(0, zero=False)),
        "First and last exponent of the regularizer, annealed after the warm-up.",
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
    """Quantization of the activations: ranges are observed, then step sizes (scales) are learned."""

    activation_range: str = setting(
        "min_max", RANGE_FINDERS, "Range finder of the activations: min_max, mse_search or percentile."
    )
    step_size_iterations: int = setting(
        5_000,
        Whole(0, MOST_ITERATIONS),
        "Iterations in which each unit learns its activations' step sizes. 0 keeps the observed ranges.",
    )
    second_pass: bool = setting(
        False,
        Flag(),
        "Learn the step sizes of all units after the weights of all units, as the paper's code does: on "
        "full-precision inputs, with |error|^2.4. Otherwise each unit's follow its weights, with the squared "
        "error on what the quantized units before it give.",
    )
    lr_step_sizes: float = setting(
        4e-4,
        Number(0, zero=False),
        "Adam's learning rate on the log step sizes of activations, with cosine decay. learn_affine uses "
        "it too.",
    )


@dataclass(frozen=True)
class WholeNetwork(Checked):
    """After the last unit, all quantized layers learn together (``ptq.whole_network``). Not in the paper."""

    network_iterations: int = setting(
        0,
        Whole(0, MOST_ITERATIONS),
        "Iterations after the last unit, in which the codes, scales and biases of all quantized layers are "
        "learned together. 0: none. Needs as much memory as training the network on one batch.",
    )
    lr_network: float = setting(
        3e-3,
        Number(0),
        "Adam's learning rate in these iterations on log scales and biases, with cosine decay.",
    )
    lr_codes: float = setting(
        4e-3, Number(0), "The same on codes, in units of the weight's scale. 0 keeps the codes."
    )


@dataclass(frozen=True)
class BiasCorrectionStage(Checked):
    """Last, sampled images get full precision's brightness (``ptq.bias_correction``). Not in the paper."""

    bias_correction_images: int = setting(
        0,
        Whole(0, MOST_INPUTS),
        "Images that both networks draw at the end, as the calibration set was drawn. The last layer's bias "
        "then gives both the same brightness. 0: none. Takes three runs of the sampler, and one more for "
        "each channel.",
    )
