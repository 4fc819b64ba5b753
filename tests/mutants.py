"""Stages of the method, each switched off, and the test that must fail then; run by ``test_mutants.py``.

``python tests/mutants.py squant network`` tries these, without names all; the last line has the exit codes.
That the tests pass with all stages on, the suite itself shows.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from qdiff_lib.modules import activation_quantizer
from qdiff_lib.ptq import bias_correction, fitting, insertion, reconstruction, whole_network
from qdiff_lib.ptq.replay import Replay
from qdiff_lib.quantizers import range_finders, rounding
from qdiff_lib.recipes.timestep_rules import Uniform

HERE = Path(__file__).parent
FITTER = fitting.UnitFitter
FIT_WEIGHTS, QUANT_LAYER = FITTER.fit_weights, insertion.QuantLayer


def nothing(*args, **kwargs):
    return None


def fit_weights_without_affine(fitter):
    fitter.rounding = replace(fitter.rounding, learn_affine=False)
    FIT_WEIGHTS(fitter)


def layer_of_one_part(layer, bits, grid, sizes):
    return QUANT_LAYER(layer, bits, grid, (sum(sizes),))


def only_the_first_step(rule, steps):
    return range(1)


class FullPrecisionPrefix(Replay):
    """Gives the units of the second network, the quantized one, what they get in the first."""

    made = []

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.made.append(self)

    def collect(self, k):
        return Replay.collect(self.made[-2], k)


# The stage: whose function (a module, class or dictionary), its name, what stands in its place, and the test.
MUTANTS = {
    "learning": (
        FITTER, "minimize", nothing,
        "ptq/test_reconstruction.py::test_learned_rounding_beats_nearest[residual]",
    ),
    "learning-end-to-end": (
        FITTER, "minimize", nothing,
        "ptq/test_end_to_end.py::test_qdiffusion_beats_linear_at_w4a8",
    ),
    "quantized-prefix": (
        reconstruction, "Replay", FullPrecisionPrefix,
        "ptq/test_reconstruction.py::test_units_are_fitted_on_what_the_quantized_prefix_gives",
    ),
    "regularizer": (
        fitting, "beta_numbers", lambda iteration, rounding: (),
        "ptq/test_reconstruction.py::test_every_rounding_is_decided_in_both_halves",
    ),
    "gptq-start": (
        FITTER, "compensated_levels", lambda fitter, layers: {},
        "ptq/test_reconstruction.py::test_what_helps_short_runs_lowers_the_error[gptq]",
    ),
    "learn-affine": (
        FITTER, "fit_weights", fit_weights_without_affine,
        "ptq/test_reconstruction.py::test_what_helps_short_runs_lowers_the_error[affine]",
    ),
    "step-sizes": (
        FITTER, "fit_step_sizes", nothing,
        "ptq/test_reconstruction.py::test_learned_step_sizes_lower_the_error[residual]",
    ),
    "network": (
        whole_network.NetworkFitter, "fit", nothing,
        "ptq/test_whole_network.py::test_the_networks_error_falls_and_is_reported[both-unet2d]",
    ),
    "loss-weights": (
        whole_network, "loss_weights_of", lambda losses, step: torch.ones_like(losses),
        "ptq/test_whole_network.py::test_each_row_counts_by_its_loss_weight",
    ),
    "bias-correction": (
        bias_correction.BiasCorrection, "corrected", nothing,
        "ptq/test_bias_correction.py::test_brightness_comes_nearer_and_the_error_is_reported",
    ),
    "split": (
        insertion, "QuantLayer", layer_of_one_part,
        "ptq/test_insertion.py::test_split_follows_the_concatenation[split]",
    ),
    "calibration": (
        Uniform, "chosen", only_the_first_step,
        "calibration/test_record.py::test_the_paper_takes_256_at_every_fifth_of_100_steps",
    ),
    "mse-search": (
        range_finders, "MSE_CANDIDATES", 1,
        "quantizers/test_range_finders.py::test_mse_search_clips_an_outlier[asymmetric]",
    ),
    "squant": (
        rounding.ROUNDINGS, "squant", rounding.round_nearest,
        "ptq/test_quantize.py::test_squant_flips_roundings_of_linear_and_nothing_else",
    ),
    "activations": (
        activation_quantizer.ActivationQuantizer, "forward", lambda quantizer, x: x,
        "modules/test_activation_quantizer.py::test_quantizer_passes_then_samples_then_quantizes",
    ),
}  # fmt: skip


def ends(name: str) -> int:
    """Pytest's exit code on the test of that stage, with the stage switched off."""
    owner, function, instead, test = MUTANTS[name]
    with pytest.MonkeyPatch.context() as patch:
        if isinstance(owner, dict):
            patch.setitem(owner, function, instead)
        else:
            patch.setattr(owner, function, instead)
        return int(pytest.main(["-q", "--no-header", "-p", "no:cacheprovider", str(HERE / test)]))


if __name__ == "__main__":
    print(json.dumps({name: ends(name) for name in sys.argv[1:] or MUTANTS}))
