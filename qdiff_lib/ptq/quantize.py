"""``quantize(pipe, recipe)``: makes a pipeline with a quantized UNet from a diffusers pipeline."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from ..calibration.calibration_set import CalibrationSet
from ..calibration.record import record
from ..diffusion.capabilities import check_pipeline
from ..diffusion.pipelines import with_components, with_sampler
from ..engines.run import is_on_engine
from ..graph.finite import check_weights, is_finite
from ..graph.model_inputs import example_inputs
from ..graph.networks import evaluating
from ..graph.tracing import trace
from ..io.native import make_native
from ..io.quantization import Quantization, UnitReport
from ..recipes.parts import Calibration
from ..recipes.recipe import Recipe
from ..utils.processes import ALONE, Processes
from ..utils.typed import check_type
from .arithmetic import float32_arithmetic
from .bias_correction import BiasCorrection
from .insertion import insert_quantizers
from .memory_budget import Budget, cache_line, check_disk
from .reconstruction import reconstruct
from .run import Run
from .share import Share
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
    class_labels: Sequence[int] | None = None,
    device_gb: float | None = None,
    processes: Processes = ALONE,
) -> DiffusionPipeline:
    """Quantize the UNet of ``pipe``; returns a new pipeline of the same class (Q-Diffusion, section 3.3).

    ``pipe`` does not change.

    Args:
        recipe: what is quantized to how many bits, and how.
        calibration: the calibration set; None: draw one from ``pipe``, as the recipe says.
        work: a folder for the calibration set and the finished units; None: nothing is kept.
        resume: continue an interrupted run in ``work``. On the same machine, with the same number of threads
            and the same package versions, the result has the same bits as that of an uninterrupted run. If
            ``work`` is empty, the run starts from the beginning.
        memory_gb: most RAM for cached activations, in units of 2^30 bytes. Processes on one machine share it
            equally.
        progress: whether progress bars are shown, and before them a line that says how much memory and disk
            the cached activations take.
        callback: called with the report of each unit, and of each stage after the last unit.
        prompts: texts for the calibration set, for pipelines that draw from a text.
        class_labels: numbers of classes for the calibration set, for networks that have classes.
        device_gb: most memory of a GPU for cached activations, in units of 2^30 bytes; None: what is free
            beside the networks and 8 GiB. What fits neither there nor into ``memory_gb`` goes to files.
        processes: they share the work, all must call this function, and all get the result. Each has its own
            rows of the cache (see ``ptq.share``). Only the main one uses ``work``, ``progress`` and
            ``callback``.

    Raises:
        ValueError: the pipeline is refused by ``check_pipeline``; the model is already quantized or not in
            float32; the recipe chooses no layer of it; ``prompts`` or ``class_labels`` are given beside a
            ``calibration``, or are missing, or not taken by the pipeline; ``device_gb`` is given on the
            CPU; images for bias correction cannot be drawn; the disk has too little room (see
            ``ptq.memory_budget``); ``resume`` is given without ``work``; or the ``work`` folder is in use by
            another process, or has files of another run, damaged files, files of another program, or results
            to resume from while ``resume`` is False.
    """
    check_type("recipe", recipe, Recipe, "a Recipe, such as Recipe.qdiffusion(weights=4)")
    check_type("calibration", calibration, CalibrationSet | None, "what record(...) returns, or None")
    check_quantizable(pipe, calibration, prompts, class_labels)
    if resume and work is None:
        raise ValueError("resume=True needs work=FOLDER, the work folder of the run that is to go on")
    start, learned = time.monotonic(), recipe.rounding.learned
    budget = Budget.of(pipe.unet, memory_gb, device_gb, processes.local)
    with float32_arithmetic(pipe.unet.device), evaluating(pipe.unet) as full:
        found = trace(full, one_input(full, calibration))
        insert_quantizers(full, recipe.grids, found)  # what it refuses is refused before any work
        if learned:
            samples = recipe.calibration.samples if calibration is None else len(calibration)
            own = Share.of(processes, samples, found.batch_size).most
            if progress and processes.is_main:
                say_cache(cache_line(found, own, budget, recipe.calibration.cache_bits), processes.count)
            check_disk(found, own, budget, work, recipe.calibration.cache_bits)
        kept = work if processes.is_main else None
        with kept_files(pipe, recipe, prompts, calibration, kept, resume, class_labels) as files:
            processes.wait()  # the work folder is there
            told = dict(progress=progress, callback=callback) if processes.is_main else dict(progress=False)
            told |= dict(processes=processes, spill=work if work and Path(work).is_dir() else None)
            run = Run(recipe.seed, budget, files, recipe.calibration.cache_bits, **told)
            inputs = calibration or recorded_set(pipe, recipe.calibration, prompts, run, class_labels)
            found = trace(full, inputs.rows(slice(0, 1), full.device))  # texts may have other lengths
            unet = insert_quantizers(full, recipe.grids, found)
            unet.quantization = done = Quantization(recipe, inputs.made_by, found)
            if learned:
                done.units = learn(pipe, unet, inputs, recipe, run)
            else:
                round_all(unet, found, inputs, recipe.rounding, recipe.step_sizes, run.seed)
                run.align(unet)
            processes.wait()  # no process has files in the work folder
    done.seconds = time.monotonic() - start
    return with_components(pipe, unet=make_native(unet, done))


def say_cache(line: str, processes: int) -> None:
    """Print the line that says what the cached activations take; it is about each of these processes."""
    print(line if processes == 1 else f"each of {processes} processes {line}", flush=True)


def learn(
    pipe: DiffusionPipeline, unet: nn.Module, inputs: CalibrationSet, recipe: Recipe, run: Run
) -> list[UnitReport]:
    """Fit ``unet``, in place, to the full-precision UNet of ``pipe``; returns the reports.

    unet: the UNet of ``pipe`` with quantizers. The units are fitted first, one after the other. Then come the
    stages that the recipe asks for: the whole network, and bias correction.

    Raises ValueError for images that ``BiasCorrection`` cannot draw, before any unit is fitted.
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


def one_input(unet: nn.Module, calibration: CalibrationSet | None) -> dict[str, Tensor]:
    """What the network is traced on: the first row of a given calibration set, else zeros.

    Raises ValueError for a set that has no rows, holds values that are not finite, or has other inputs than
    the network takes.
    """
    inputs = example_inputs(unet, device=unet.device)
    if calibration is None:
        return inputs
    tensors = calibration.tensors()
    if not len(calibration):
        raise ValueError("calibration has no inputs: record some from this pipeline")
    for name, value in tensors.items():
        if not is_finite(value):
            raise ValueError(f"calibration: its {name!r} holds values that are not finite: record it again")
    row = calibration.rows(slice(0, 1), unet.device)
    channels = {"sample": 1, "encoder_hidden_states": -1}  # the axes that a network fixes
    wrong = sorted(row.keys() ^ inputs.keys())
    shared = [name for name in channels if name in row and name in inputs]
    wrong += [n for n in shared if row[n].shape[channels[n]] != inputs[n].shape[channels[n]]]
    if wrong:
        raise ValueError(
            f"calibration: {wrong[0]!r} is not what this network takes: record the set from this pipeline"
        )
    return row


def kept_files(
    pipe: DiffusionPipeline,
    recipe: Recipe,
    prompts: Sequence[str] | None,
    calibration: CalibrationSet | None,
    work: Path | None,
    resume: bool,
    class_labels: Sequence[int] | None = None,
) -> AbstractContextManager[WorkFolder | None]:
    """A context manager that gives the work folder, locked for this process; None if ``work`` is None.

    Raises, on entry, what ``opened`` raises.
    """
    if work is None:
        return nullcontext()
    return opened(work, settings_of_run(pipe, recipe, prompts, calibration, class_labels), resume)


def check_quantizable(
    pipe: DiffusionPipeline,
    calibration: CalibrationSet | None,
    prompts: Sequence[str] | None,
    class_labels: Sequence[int] | None,
) -> None:
    """Raise ValueError for what ``quantize`` refuses with any recipe."""
    check_pipeline(pipe)
    if hasattr(pipe.unet, "quantization"):
        raise ValueError("the pipeline's UNet is quantized already; quantize the full-precision one")
    if is_on_engine(pipe.unet):
        raise ValueError(
            "an engine computes the pipeline's UNet; quantize the pipeline that run_on was given"
        )
    if pipe.unet.dtype != torch.float32:
        raise ValueError(f"the UNet is in {pipe.unet.dtype}; calibrate in float32: pipe.to(torch.float32)")
    if any(value.is_meta for value in pipe.unet.parameters()):
        raise ValueError(
            "the UNet's weights are not in memory (offloaded by accelerate, or on the meta device): load the "
            "pipeline without offloading, for example with qdiff_lib.load"
        )
    check_weights(pipe.unet, "the UNet")
    for name, given in (("prompts", prompts), ("class_labels", class_labels)):
        if calibration is not None and given is not None:
            raise ValueError(f"{name}={list(given)[:3]}: leave them out, as the calibration set has its own")


def recorded_set(
    pipe: DiffusionPipeline,
    how: Calibration,
    prompts: Sequence[str] | None,
    run: Run,
    class_labels: Sequence[int] | None = None,
) -> CalibrationSet:
    """The calibration set drawn from ``pipe`` with the settings ``how``, or the one in the work folder."""
    sampler = with_sampler(pipe, how.sampler)
    asked = dict(prompts=prompts, guidance=how.guidance, eta=how.eta, progress=run.progress)
    asked |= dict(class_labels=class_labels, processes=run.processes)

    def recorded() -> CalibrationSet:
        return record(sampler, how.rule, how.samples, how.steps, run.seed, **asked)

    known = run.processes.agreed(run.files is not None and run.files.recorded.exists())
    found = run.files.calibration(recorded) if run.files else None if known else recorded()
    return run.processes.agreed(found)
