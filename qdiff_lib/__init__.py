"""Post-training quantization of diffusion models after Q-Diffusion (Li et al., ICCV 2023).

from qdiff_lib import Recipe, load, quantize

pipe = load("ddpm-fashion")
quantized = quantize(pipe, Recipe.qdiffusion(weights=4, activations=8))
"""

import importlib

import wrapt

_HOMES = {
    "Recipe": "recipes.recipe",
    "Uniform": "recipes.timestep_rules",
    "PRESETS": "recipes.presets",
    "load": "io.models",
    "save_quantized": "io.checkpoint",
    "Quantization": "io.quantization",
    "record": "calibration.record",
    "CalibrationSet": "calibration.calibration_set",
    "quantize": "ptq.quantize",
    "with_sampler": "diffusion.pipelines",
    "run_on": "engines.run",
    "sample": "diffusion.sampling",
    "score": "evaluation.scores",
    "trajectory_mse": "evaluation.trajectory_errors",
    "layer_costs": "graph.cost",
    "bops": "graph.cost",
}
__all__ = sorted(_HOMES)
__version__ = "0.1.0"


def __getattr__(name: str):
    """Import each public name when it is first used, so that ``--help`` on the command line needs no torch.

    Raises AttributeError for any other name.
    """
    if name not in _HOMES:
        raise AttributeError(f"module 'qdiff_lib' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


@wrapt.when_imported("diffusers.quantizers.auto")
def _register(auto) -> None:
    """Register the quantization method "qdiff" with diffusers, as soon as diffusers is imported."""
    from .io.native import METHOD, QDiffConfig, QDiffQuantizer

    auto.AUTO_QUANTIZER_MAPPING[METHOD] = QDiffQuantizer
    auto.AUTO_QUANTIZATION_CONFIG_MAPPING[METHOD] = QDiffConfig


@wrapt.when_imported("diffusers.pipelines.pipeline_utils")
def _import_class(_) -> None:
    """Import this library's own network class: diffusers loads none of a module that nobody imported."""
    importlib.import_module(".graph.fixed_heads", __name__)
