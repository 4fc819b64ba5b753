"""From the times of single units to the numbers of the table."""

from dataclasses import dataclass

import numpy as np

from qdiff_lib.recipes.recipe import PROFILES

GIB = 2**30


@dataclass(frozen=True)
class UnitTime:
    """Seconds of one unit. fit: ranges, iterations and observation; weights, steps: iterations alone."""

    index: int
    seconds: float
    fit: float
    weights: float
    steps: float
    error: float = float("nan")

    @property
    def capture(self) -> float:
        """Making the unit's inputs and targets: all but the fitting."""
        return self.seconds - self.fit

    def fit_with(self, weights: float, steps: float) -> float:
        """Seconds of fitting, were there this many times the iterations."""
        return self.fit + (weights - 1) * self.weights + (steps - 1) * self.steps


def evenly_spaced(count: int, wanted: int | None) -> list[int]:
    """``wanted`` of the numbers below ``count``, the first and the last among them; None: all."""
    wanted = count if wanted is None else wanted
    return sorted({round(i) for i in np.linspace(0, count - 1, wanted)})


def summarize(job, names: list[str], times: dict[str, list[UnitTime]], memory: dict[str, dict]) -> dict:
    """The result of one size; ``times`` of the naive scheme may cover some of the units, or be missing."""
    summary = {
        "samples": job.samples,
        "units": len(names),
        "iterations": job.iterations,
        "step_size_iterations": job.step_size_iterations,
        "batch_size": job.recipe().rounding.batch_size,
        "budget_gib": job.memory_gb,
        "ours": scheme(job, times["ours"], times["ours"], memory["ours"]),
    }
    cached, total = memory["ours"]["cached"] / GIB, summary["ours"]["peak_above_baseline_gib"]
    summary["ours"] |= {
        "cached_peak_gib": cached,
        "cached_within_budget": cached <= job.memory_gb,
        "all_within_budget": total <= job.memory_gb,
    }
    if "naive" in times:
        summary["naive"] = scheme(job, times["naive"], times["ours"], memory["naive"])
        summary["naive"]["measured_units"] = [names[t.index] for t in times["naive"]]
        summary["naive_to_ours"] = compare(times["naive"], times["ours"], summary)
    return summary


def scheme(job, times: list[UnitTime], ours: list[UnitTime], memory: dict) -> dict:
    """The numbers of one scheme; what it was not measured on is estimated from ``ours``."""
    tiny = PROFILES["tiny"]
    more = tiny["iterations"] / job.iterations, tiny["step_size_iterations"] / job.step_size_iterations
    iterations = job.iterations + job.step_size_iterations
    return {
        "units_measured": len(times),
        "seconds_per_iteration": sum(t.weights + t.steps for t in times) / (iterations * len(times)),
        "fit_seconds_per_unit": sum(t.fit for t in times) / len(times),
        "capture_seconds_per_unit": sum(t.capture for t in times) / len(times),
        "seconds": whole(times, ours),
        "estimated": len(times) < len(ours),
        "seconds_at_tiny_iterations": whole(times, ours, *more),
        "baseline_gib": memory["baseline"] / GIB,
        "peak_above_baseline_gib": (memory["peak"] - memory["baseline"]) / GIB,
    }


def whole(times: list[UnitTime], ours: list[UnitTime], weights: float = 1.0, steps: float = 1.0) -> float:
    """Seconds of all units, with so many times the iterations.

    Where all were measured this is their sum. Else capture is interpolated over the execution order between
    the measured units, and fitting is that of ``ours`` times the measured ratio of the two schemes.
    """
    capture = np.interp(range(len(ours)), [t.index for t in times], [t.capture for t in times]).sum()
    shared = [ours[t.index] for t in times]
    fit = sum(t.fit_with(weights, steps) for t in times)
    ratio = fit / sum(t.fit_with(weights, steps) for t in shared)
    return float(capture + ratio * sum(t.fit_with(weights, steps) for t in ours))


def compare(naive: list[UnitTime], ours: list[UnitTime], summary: dict) -> dict:
    """How many times longer the naive scheme takes, and how far the two schemes' results are apart."""
    pairs = [(t, ours[t.index]) for t in naive]
    apart = [abs(a.error - b.error) / b.error for a, b in pairs]
    return {
        "measured_units": sum(a.seconds for a, _ in pairs) / sum(b.seconds for _, b in pairs),
        "whole": summary["naive"]["seconds"] / summary["ours"]["seconds"],
        "whole_at_tiny_iterations": summary["naive"]["seconds_at_tiny_iterations"]
        / summary["ours"]["seconds_at_tiny_iterations"],
        "by_unit": [round(a.seconds / b.seconds, 2) for a, b in pairs],
        "first_error_difference": apart[0],
        "median_error_difference": float(np.median(apart)),
        "largest_error_difference": max(apart),
    }
