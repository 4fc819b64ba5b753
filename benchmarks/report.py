"""``README.md`` of the benchmarks, from ``results.json``."""

from pathlib import Path

from qdiff_lib.utils.files import atomic_path

HEAD = """# Benchmarks

    make bench                                      # all of it, alone on the machine
    .venv/bin/python benchmarks/run.py --help       # parts of it, or a quick look that it works

`run.py` measures, then writes `results.json` and this file. Run it on an idle machine: a second busy process
makes loops of several threads up to eight times slower. Tests check that it runs, never how fast.

- `startup.py`: fresh interpreters that answer `python -m qdiff_lib --help`.
- `engines.py`: one call of the noise network in floating point and in integers, by torch and by OpenVINO, in
  turns; the arithmetic rate of the machine; where the time of integers goes.
- `memory.py`: the resident memory of fresh processes that hold a network in one form, less what the same
  process had when it had run and dropped a tiny network in that form. Pages of mapped files count where they
  were read. Freed memory that the allocator of C keeps does not count.
- `sampling.py`: DDIM sampling with simulated quantization against floating point, in alternating pairs.
- `reconstruction.py`: block reconstruction of the embedded UNet at W4A8, at three sizes N of the calibration
  set, beside `naive.py`, which runs the network's prefix again for every unit, twice over all N inputs, keeps
  what it catches in RAM and leaves gradients of frozen weights enabled. Both fit with the same code and draw
  the same batches, and take turns unit by unit in two fresh processes. They come to the same errors, but for
  the rounding of sums, which learned rounding amplifies from unit to unit. Inputs are noise: what a
  calibration costs does not depend on them, and recording them is not part of it. Peak RAM is the process's
  own high-water mark, less what it held once the model was loaded.
"""
WEIGHTS = {"random": "random weights in the embedded model's UNet"}
COLUMNS = (
    "N",
    "scheme",
    "units measured",
    "ms per iteration",
    "fit, s per unit",
    "capture, s per unit",
    "all units, s",
    "all units at the tiny profile's iterations, s",
    "peak RAM above the loaded model, GiB",
)


def write(path: Path, found: dict) -> None:
    """Write the whole file, atomically."""
    sections = [section(name, part) for name, part in found.items()]
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join([HEAD, *sections]), encoding="utf-8")


def section(name: str, part: dict) -> str:
    """One part's heading, where it was measured, and its table."""
    warning = "**Quick run: these numbers mean nothing.**\n\n" if part["quick"] else ""
    table = TABLES[name](part["results"])
    return f"## {name.capitalize()}\n\n{warning}{table}\n{machine(part['measured'])}\n"


def machine(measured: dict) -> str:
    """Where, when and how, in one line."""
    m = measured
    cores = f"{m['cores']} cores, {m['logical_cores']} logical, {m['memory_gib']} GiB"
    model = WEIGHTS.get(m["weights"], m["weights"])
    return (
        f"Measured on {m['cpu']} ({cores}) with threads = {m['threads']}, torch {m['torch']}, Python "
        f"{m['python']}, on {m['date']}, commit {m['commit'] or 'none'}, "
        f"model: {model}, by `{m['command']}`.\n"
    )


def rows(header, body) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *body]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def startup(results: dict) -> str:
    command = " ".join(["python", *results["arguments"]])
    body = [[f"`{command}`", f"{results['median_seconds']:.2f}", len(results["runs"])]]
    return rows(("command", "median, s", "runs"), body)


def engines(results: dict) -> str:
    """Times of all engines for each network and batch; rates; the profile of the largest case."""
    names = list(dict.fromkeys(name for case in results["cases"] for name in case["milliseconds"]))
    body = []
    for case in results["cases"]:
        times = {name: found["median"] for name, found in case["milliseconds"].items()}
        best = min(value for name, value in times.items() if name.startswith("torch"))
        cells = [f"{times[name]:.1f}" if name in times else "-" for name in names]
        ratio = f"**{best / times['OpenVINO integers']:.2f}**"
        own = f"{times['OpenVINO fp32'] / times['OpenVINO integers']:.2f}"
        share = f"{100 * case['integer_share']:.1f} %"
        body.append([f"{case['network']}, {case['batch']} images", *cells, ratio, own, share])
    header = (
        "one call, ms",
        *names,
        "torch's best / integers",
        "OpenVINO fp32 / integers",
        "MACs in integers",
    )
    rates = ", ".join(f"{name} {rate:.0f}" for name, rate in results["rates"].items())
    notes = [f"\nArithmetic rate of a matrix product in OpenVINO, 10^9 MACs per second: {rates}.\n"]
    for case in results["cases"]:
        total = sum(case["profile"].values())
        parts = ", ".join(
            f"{kind} {100 * ms / total:.0f} %" for kind, ms in list(case["profile"].items())[:6]
        )
        notes.append(f"- Integers, {case['network']}, {case['batch']} images: {parts}.")
    return rows(header, body) + "\n".join(notes) + "\n"


def resident(results: list[dict]) -> str:
    """Megabytes of each form of each network, and of their files."""
    header = ("resident memory, MB", "loaded", "after a call with one image")
    body = [
        [f"{found['network']}: {row['form']}", *(megabytes(row.get(key)) for key in ("loaded", "called"))]
        for found in results
        for row in found["rows"]
    ]
    notes = [f"\nThe least and the most of {results[0]['runs']} fresh processes.\n"]
    for found in results:
        files = ", ".join(f"`{name}` {size / 1e6:.2f} MB" for name, size in found["files"].items())
        notes.append(f"- Files of {found['network']}: {files}.")
    return rows(header, body) + "\n".join(notes) + "\n"


def megabytes(bytes_: dict | None) -> str:
    """The least and the most; "-" where nothing was measured."""
    return "-" if bytes_ is None else " to ".join(f"{bytes_[name] / 1e6:.1f}" for name in ("least", "most"))


def sampling(results: dict) -> str:
    r = results
    title = f"{r['images']} images x {r['steps']} DDIM steps"
    body = [
        [
            title,
            f"{r['fp_seconds']:.2f}",
            f"{r['w4a8_simulated_seconds']:.2f}",
            f"{r['ratio_w4a8_to_fp']:.2f}",
        ]
    ]
    header = ("", "FP, s", "W4A8 simulated, s", f"W4A8 / FP, median of {r['pairs']} pairs")
    return f"{rows(header, body)}\nW4A8 is {r['label']}.\n"


def reconstruction(results: list[dict]) -> str:
    body = [scheme(r, name) for r in results for name in ("ours", "naive") if name in r]
    first = results[0]
    counts = f"{first['iterations']} + {first['step_size_iterations']}"
    notes = [
        f"\nEach unit had {counts} iterations (weights + activation steps) on batches of "
        f'{first["batch_size"]}; fit also has the ranges and a pass over all N. "~" marks estimates: '
        "times at other iteration counts come from the measured seconds per iteration; where not all units "
        "were measured, capture is interpolated over the execution order between those that were, and fit "
        "is that of the other scheme times the measured ratio.\n"
    ]
    notes += [memory(r) for r in results] + [ratios(r) for r in results if "naive" in r]
    return rows(COLUMNS, body) + "\n".join(notes)


def scheme(r: dict, name: str) -> list[str]:
    """One row."""
    s = r[name]
    return [
        f"{r['samples']:,}",
        name,
        f"{s['units_measured']} of {r['units']}",
        f"{1000 * s['seconds_per_iteration']:.1f}",
        f"{s['fit_seconds_per_unit']:.2f}",
        f"{s['capture_seconds_per_unit']:.2f}",
        f"{'~' if s['estimated'] else ''}{s['seconds']:.0f}",
        f"~{s['seconds_at_tiny_iterations']:.0f}",
        f"{s['peak_above_baseline_gib']:.2f}",
    ]


def memory(r: dict) -> str:
    s = r["ours"]
    verdict = "within" if s["cached_within_budget"] else "**beyond**"
    return (
        f"- Memory of ours at N = {r['samples']:,}: {s['cached_peak_gib']:.2f} GiB of cached activations, "
        f"{verdict} their budget of {r['budget_gib']:g} GiB; with the working set of a batch and all else, "
        f"{s['peak_above_baseline_gib']:.2f} GiB above the loaded model."
    )


def ratios(r: dict) -> str:
    c, n = r["naive_to_ours"], r["naive"]
    whole = f"**{c['whole']:.1f}**" if not n["estimated"] else f"~**{c['whole']:.1f}**"
    subset = ""
    if n["estimated"]:
        names = ", ".join(f"`{name}`" for name in n["measured_units"])
        subset = f" (measured: {c['measured_units']:.1f} on {names})"
    tiny, apart = c["whole_at_tiny_iterations"], c["median_error_difference"]
    return (
        f"- Naive / ours at N = {r['samples']:,}: {whole}{subset}; ~{tiny:.1f} at the tiny profile's "
        f"iterations. The errors of the two schemes' units differ by {100 * apart:.2g} % (median)."
    )


TABLES = {
    "startup": startup,
    "engines": engines,
    "memory": resident,
    "sampling": sampling,
    "reconstruction": reconstruction,
}
