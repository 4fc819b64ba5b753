"""Block reconstruction: fits the rounding and step sizes of each unit to its full-precision output.

Units are fitted in execution order (Q-Diffusion, section 3.3.1; BRECQ, Li et al., ICLR 2021). The inputs of a
unit come from the units before it, which are already quantized. The target is the output of the
full-precision unit on full-precision inputs.
"""

import math
import time
from collections.abc import Callable
from dataclasses import replace

from torch import nn

from ..calibration.calibration_set import CalibrationSet
from ..graph.cost import layer_costs
from ..graph.tracing import Trace
from ..io.quantization import UnitReport
from ..recipes.parts import Rounding, StepSizes
from ..utils.progress import UnitsBar
from .activation_store import Rows
from .fitting import UnitFitter, reconstruction_loss, unit_seed
from .replay import Replay, UnitInputs
from .run import Run
from .share import Share

POWER = 2.4  # of the error, in the second pass of the paper's code


def reconstruct(
    full: nn.Module,
    quantized: nn.Module,
    trace: Trace,
    inputs: CalibrationSet,
    rounding: Rounding,
    step_sizes: StepSizes,
    run: Run,
) -> list[UnitReport]:
    """Fit the units of ``quantized``, in place, one after the other; returns one report for each unit.

    full, quantized: the network before quantization, and its copy with quantizers. trace: its units, in
    execution order. inputs: the calibration set. With ``second_pass`` of the recipe all units get their
    weights first, and then all get their step sizes. Units that are finished in the work folder are loaded
    from there.

    Raises ValueError for a damaged file of a unit, and for learning that diverges.
    """
    reports = fit_units(full, quantized, trace, inputs, rounding, step_sizes, run)
    if not step_sizes.second_pass:
        return reports
    second = fit_all_step_sizes(full, quantized, trace, inputs, rounding, step_sizes, run)
    pairs = zip(reports, second, strict=True)
    return [replace(old, error=new.error, seconds=old.seconds + new.seconds) for old, new in pairs]


def fit_units(
    full: nn.Module,
    quantized: nn.Module,
    trace: Trace,
    inputs: CalibrationSet,
    rounding: Rounding,
    step_sizes: StepSizes,
    run: Run,
) -> list[UnitReport]:
    """Fit the weights of each unit, and its step sizes unless they have a second pass.

    Each unit gets what the quantized prefix gives it, and the loss is the squared error.
    """
    store = run.store()
    share = Share.of(run.processes, len(inputs), trace.batch_size)
    own = share.inputs(inputs)
    original = Replay(full, trace, own, store, share.size)
    replaced = Replay(quantized, trace, own, store, share.size)
    iterations = rounding.iterations + (0 if step_sizes.second_pass else step_sizes.step_size_iterations)
    bar = UnitsBar(unit_macs(full, trace), iterations, run.progress)
    reports = []
    try:
        for k, unit in enumerate(trace.units):
            bar.begin(unit.name)
            start = time.monotonic()
            target, given = original.advance(k), replaced.collect(k)
            report = run.restored(k, replaced.modules[k])
            if report is None:
                fit_unit(k, replaced, given, target, rounding, step_sizes, run.seed, bar.tick, share)
                run.align(replaced.modules[k])
            output = replaced.advance(k, given)
            if report is None:
                error = mean_loss(output, target, replaced.batches(), share)
                check_learned(error, f"unit {unit.name!r}")
                report = UnitReport(unit.name, k, error, time.monotonic() - start)
                run.keep(report, replaced.modules[k])
            given.free(store)
            original.finish(k)
            replaced.finish(k)
            bar.end(k)
            reports.append(run.finished(report))
    finally:
        bar.close()
        store.close()
    return reports


def fit_all_step_sizes(
    full: nn.Module,
    quantized: nn.Module,
    trace: Trace,
    inputs: CalibrationSet,
    rounding: Rounding,
    step_sizes: StepSizes,
    run: Run,
) -> list[UnitReport]:
    """The second pass of the paper's code: ranges and step sizes of the activations, unit by unit.

    Weights are finished. Each unit gets full-precision inputs, and the loss is ``|error|^POWER``.
    """
    store, first = run.store(), len(trace.units)
    share = Share.of(run.processes, len(inputs), trace.batch_size)
    original = Replay(full, trace, share.inputs(inputs), store, share.size)
    bar = UnitsBar(unit_macs(full, trace), step_sizes.step_size_iterations, run.progress)
    reports = []
    try:
        for k, unit in enumerate(trace.units):
            name = f"{unit.name}, step sizes"
            bar.begin(name)
            start, module = time.monotonic(), quantized.get_submodule(unit.name)
            given = original.collect(k)
            target = original.advance(k, given)
            report = run.restored(first + k, module)
            if report is None:
                settings = (rounding, step_sizes, unit_seed(run.seed, first + k), bar.tick)
                rows = original.batches()
                fitter = UnitFitter(module, given, target, rows, *settings, power=POWER, share=share)
                fitter.fit_activations()
                run.align(module)
                error = check_learned(fitter.mean_loss(), f"unit {unit.name!r}")
                report = UnitReport(name, k, error, time.monotonic() - start)
                run.keep(replace(report, index=first + k), module)
            given.free(store)
            original.finish(k)
            bar.end(k)
            reports.append(run.finished(replace(report, index=k)))
    finally:
        bar.close()
        store.close()
    return reports


def unit_macs(unet: nn.Module, trace: Trace) -> list[int]:
    """Multiply-accumulate operations (MACs) of each unit for one input, plus 1."""
    macs = {cost.name: cost.macs for cost in layer_costs(unet)}
    return [1 + sum(macs.get(name, 0) for name in unit.layers) for unit in trace.units]


def mean_loss(output: Rows, target: Rows, batches: list[slice], share: Share) -> float:
    """The reconstruction loss over all rows, of which ``share`` are here.

    batches: they cover all rows of ``output`` and ``target``.
    """
    losses = [reconstruction_loss(output[rows], target[rows]) * (rows.stop - rows.start) for rows in batches]
    return share.mean(sum(losses))


def check_learned(error: float, what: str) -> float:
    """Return the error. Raises ValueError where it is not finite: learning diverged."""
    if not math.isfinite(error):
        raise ValueError(
            f"the error of {what} is {error} after learning: lower the rates (lr, lr_step_sizes, lr_network, "
            "lr_codes) of the recipe"
        )
    return error


def fit_unit(
    k: int,
    replay: Replay,
    inputs: UnitInputs,
    target: Rows,
    rounding: Rounding,
    step_sizes: StepSizes,
    seed: int,
    tick: Callable,
    share: Share,
) -> None:
    """Quantize unit ``k``: weight ranges, rounding, then activation ranges and step sizes (section 3.3.1).

    inputs: its arguments from the quantized prefix. target: its full-precision output. tick: called after
    each iteration. share: which rows these are. Activations that have a second pass stay in floating point.
    """
    given = (replay.modules[k], inputs, target, replay.batches())
    fitter = UnitFitter(*given, rounding, step_sizes, unit_seed(seed, k), tick, share=share)
    fitter.find_weight_ranges()
    fitter.fit_weights()
    if not step_sizes.second_pass:
        fitter.fit_activations()
