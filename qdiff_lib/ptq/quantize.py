"""``quantize(pipe, recipe)``: from a diffusers pipeline to the same pipeline with a quantized UNet."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from torch import nn

from ..calibration.calibration_set import CalibrationSet
from ..calibration.record import record
from ..diffusion.capabilities import check_pipeline
from ..diffusion.pipelines import with_components, with_sampler
from ..graph.model_inputs import example_inputs
from ..graph.networks import evaluating
from ..graph.tracing import trace
from ..io.native import make_native
from ..io.quantization import Quantization, UnitReport
from ..recipes.parts import Calibration
from ..recipes.recipe import Recipe
from .bias_correction import BiasCorrection
from .insertion import insert_quantizers
from .memory_budget import check_disk
from .reconstruction import reconstruct
from .run import Run
from .whole_network import fit_network
from .without_learning import round_all
from .work_folder import WorkFolder, opened, settings_of_run


def quantize(
    pipe: DiffusionPipeline,
    recipe: Recipe,
    calibration: CalibrationSet | None = None,
    work: Path | None = None,
    resume: bool = False,
    memory_gb: float = 4.0,
    progress: bool = True,
    callback: Callable[[UnitReport], None] | None = None,
    prompts: Sequence[str] | None = None,
) -> DiffusionPipeline:
    """A pipeline of the same class whose UNet is quantized; ``pipe`` is left as it was.

    calibration: inputs to calibrate on; by default they are recorded from ``pipe`` as the recipe says, for
    pipelines that draw from a text with ``prompts``.
    work: folder in which recorded inputs and finished units are kept, so that ``resume=True`` goes on after a
    kill and ends with the same bits; where nothing is there yet, it starts. memory_gb: most RAM for cached
    activations (2^30 bytes). callback: called after each unit, and after each stage that follows them.

    Raises ValueError for a pipeline that ``check_pipeline`` refuses, a model that is quantized already or not
    in float32, a recipe that fits no layer of it, prompts beside a calibration set, images of the recipe that
    cannot be drawn, or a disk with too little room for what is cached (see ``memory_budget``). Likewise for
    ``resume`` without ``work``, and a ``work`` folder that holds the files of another run, damaged ones or
    those of somebody else, that another process writes to, or from which only ``resume`` may go on.
    """
    check_quantizable(pipe, calibration, prompts)
    if resume and work is None:
        raise ValueError("resume=True needs work=FOLDER, the work folder of the run that is to go on")
    start, learned = time.monotonic(), recipe.rounding.learned
    with evaluating(pipe.unet) as full:
        found = trace(full, example_inputs(full, device=full.device))
        if learned:
            samples = recipe.calibration.samples if calibration is None else len(calibration)
            check_disk(found, samples, memory_gb, work)
        with kept_files(pipe, recipe, prompts, calibration, work, resume) as files:
            run = Run(recipe.seed, memory_gb, files, progress, callback)
            inputs = calibration or recorded_set(pipe, recipe.calibration, prompts, run)
            unet = insert_quantizers(full, recipe.grids, found)
            unet.quantization = done = Quantization(recipe, inputs.made_by, found)
            if learned:
                done.units = learn(pipe, unet, inputs, recipe, run)
            else:
                round_all(unet, found, inputs, recipe.rounding, recipe.step_sizes, run.seed)
    done.seconds = time.monotonic() - start
    return with_components(pipe, unet=make_native(unet, done))


def learn(
    pipe: DiffusionPipeline, unet: nn.Module, inputs: CalibrationSet, recipe: Recipe, run: Run
) -> list[UnitReport]:
    """Fit ``unet``, the network of ``pipe`` with quantizers, to full precision: units, then all together.

    The stages after the units are those that the recipe asks for. Raises ValueError for images that
    ``BiasCorrection`` cannot draw, before any unit is fitted.
    """
    full, found, correction = pipe.unet, unet.quantization.trace, None
    if images := recipe.bias_correction.bias_correction_images:
        quantized = with_components(pipe, unet=unet)
        correction = BiasCorrection(pipe, quantized, inputs, images, recipe.calibration, run)
    reports = reconstruct(full, unet, found, inputs, recipe.rounding, recipe.step_sizes, run)
    if recipe.whole_network.network_iterations:
        stage, batch_size = recipe.whole_network, recipe.rounding.batch_size
        reports.append(fit_network(full, unet, found, inputs, stage, batch_size, run))
    if correction:
        reports.append(correction.run(len(reports)))
    return reports


def kept_files(
    pipe: DiffusionPipeline,
    recipe: Recipe,
    prompts: Sequence[str] | None,
    calibration: CalibrationSet | None,
    work: Path | None,
    resume: bool,
) -> AbstractContextManager[WorkFolder | None]:
    """The work folder of this run, held against other processes; None where nothing is to be kept."""
    if work is None:
        return nullcontext()
    return opened(work, settings_of_run(pipe, recipe, prompts, calibration), resume)


def check_quantizable(
    pipe: DiffusionPipeline, calibration: CalibrationSet | None, prompts: Sequence[str] | None
) -> None:
    """Raise ValueError for what ``quantize`` refuses at once, whatever the recipe."""
    check_pipeline(pipe)
    if hasattr(pipe.unet, "quantization"):
        raise ValueError("the pipeline's UNet is quantized already; quantize the full-precision one")
    if pipe.unet.dtype != torch.float32:
        raise ValueError(f"the UNet is in {pipe.unet.dtype}; calibrate in float32: pipe.to(torch.float32)")
    if calibration is not None and prompts is not None:
        raise ValueError(f"prompts={list(prompts)[:3]}: leave them out, as the calibration set has its own")


def recorded_set(
    pipe: DiffusionPipeline, how: Calibration, prompts: Sequence[str] | None, run: Run
) -> CalibrationSet:
    """The calibration set that is drawn like that; one that the run's files have is taken from there."""
    sampler = with_sampler(pipe, how.sampler)
    asked = dict(prompts=prompts, guidance=how.guidance, eta=how.eta, progress=run.progress)

    def recorded() -> CalibrationSet:
        return record(sampler, how.rule, how.samples, how.steps, run.seed, **asked)

    return run.files.calibration(recorded) if run.files else recorded()
