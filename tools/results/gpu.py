"""What was measured on a GPU."""

from qdiff_lib.course.figures.lesson_06 import GPU_BASE, gpu_milliseconds

from .source import flow, short, table

PLACES = {
    "arithmetic": "none: one batch again and again",
    "device": "on the GPU",
    "ram": "in RAM, copied while the GPU computes",
    "files": "in mapped files, copied while the GPU computes",
    "simple": "in RAM, each batch copied when it is needed",
    "graph": "none, and recorded as a CUDA graph",
}


def calibration(data: dict) -> str:
    """The seconds of an iteration of block reconstruction, by where the cached activations are."""
    results = {name: found for name, found in data["results"].items() if "seconds_per_iteration" in found}
    floor = results["arithmetic"]["seconds_per_iteration"]
    rows = []
    for name, found in results.items():
        spent, copied = found["seconds_per_iteration"], found.get("bytes_copied_per_iteration", {})
        most = max(copied.values(), default=0)
        rows.append([PLACES[name], f"{1000 * spent:.2f}", f"{spent / floor:.2f}", f"{most / 1e6:.0f}"])
    before = flow(f"""
        One residual block of the paper's CIFAR-10 network learns its rounding: batches of {data["batch"]} of
        {data["samples"]:,} cached inputs, float32. The medians of five rounds of
        {data["iterations_per_round"]} iterations.
    """)
    after = flow("""
        With the cache on the GPU an iteration takes little longer than its arithmetic alone. That is where
        the library puts it, as far as memory allows.
    """)
    titles = ["cached inputs", "ms an iteration", "ratio", "MB copied an iteration"]
    return "\n\n".join([before, table(titles, rows), after])


NETWORKS = {
    "ddpm-fashion": "this course's network",
    "ddpm-cifar10": "the paper's network for CIFAR-10",
    "sd-v1-4": "Stable Diffusion v1.4",
}
VARIANTS = {
    "bf16": "bf16",
    "integers": "integers",
    "bf16 graph": "bf16, one CUDA graph",
    "integers graph": "integers, one CUDA graph",
    "bf16 compiled": "bf16, `torch.compile`",
    "integers compiled": "integers, `torch.compile`",
}


def speeds(networks: dict) -> str:
    """Milliseconds of a call in bf16 and in integers, and the memory of the networks."""
    rows = []
    for name in (name for name in NETWORKS if name in networks):
        for result in networks[name]["results"]:
            rows += [[f"{NETWORKS[name]}, {result['batch']} images", *row] for row in speed_rows(result)]
    some = next(iter(networks.values()))["results"][0]
    before = flow(f"""
        One call of the network by the engine `triton` and in bf16, in turns: medians of {some["rounds"]}
        rounds of {some["calls"]} calls. W4A8, random weights, attention's products in bf16. Each layer runs
        in int8 or in bf16, whichever was faster when it was measured alone. A CUDA graph starts all programs
        at once. It takes away the time that Python needs between them.
    """)
    times = [gpu_milliseconds(result) for network in networks.values() for result in network["results"]]
    ratios = sorted(each["integers graph"] / each[GPU_BASE] for each in times)
    after = flow(f"""
        In one CUDA graph, integers take {ratios[0]:.2f} to {ratios[-1]:.2f} times as long as bf16. For each
        layer, the engine runs two programs: the first quantizes the input, the second multiplies and adds.
        Numbers with * are the means of {first_calls(networks)} calls, because this variant was ready too late
        for the rounds. Variants that are not in the table were not ready in time. The memory counts the
        weights, and the buffers that the libraries of the GPU keep for the network.
    """)
    titles = ["network and images a call", "variant", "ms a call", f"times {VARIANTS[GPU_BASE]}"]
    return "\n\n".join([before, table([*titles, "layers in int8", "MB"], rows), after])


def speed_rows(result: dict) -> list[list[str]]:
    """The rows of one network at one number of images."""
    times, rows = gpu_milliseconds(result), []
    for name in (name for name in VARIANTS if name in times):
        measured = result["variants"].get(name, {})
        layers = measured.get("layers", {})
        count = f"{layers.get('int8', 0)} of {sum(layers.values())}" if layers else ""
        size = f"{measured['network_bytes'] / 1e6:.0f}" if measured else ""
        took = f"{times[name]:.2f}{'' if measured else '*'}"
        rows.append([VARIANTS[name], took, f"{times[name] / times[GPU_BASE]:.2f}", count, size])
    return rows


def first_calls(networks: dict) -> int:
    """Of how many calls the numbers with * are the means."""
    found = [result.get("first_calls", {}) for each in networks.values() for result in each["results"]]
    return max((first["calls"] for variants in found for first in variants.values()), default=0)


def error_beside_fid(rows: list[dict]) -> str:
    """What FID shows of the error of linear W4A8, beside Q-Diffusion W4A8."""
    linear, learned = (
        next(r for r in rows if r["label"] == f"{name} W4A8") for name in ("linear", "Q-Diffusion")
    )
    error = linear["trajectory_mse"][-1] / learned["trajectory_mse"][-1]
    fid = linear["frechet"] / learned["frechet"]
    return f"""Linear W4A8 has {error:.1f} times the MSE of Q-Diffusion W4A8, and {fid:.2f} times its FID.
        MSE asks whether each image is that of full precision. FID asks whether all images together look like
        the training images."""


def cifar10(data: dict) -> str:
    """FID and errors of a CIFAR-10 network that was trained for minutes, and what its calibration took."""
    rows = []
    for row in data["rows"]:
        quantized = "trajectory_mse" in row
        mse = short(1e3 * row["trajectory_mse"][-1]) if quantized else ""
        spent = f"{row['calibration_seconds']:.0f}" if quantized else ""
        peak = f"{row['calibration_peak_bytes'] / 1e9:.1f}" if quantized else ""
        rows.append([row["label"], mse, spent, peak, *[short(row["frechet"])] * bool(data["n"])])
    if data["n"]:
        rows.append(["real images", "", "", "", short(data["floor"])])
    training, recipe = data["training"], data["rows"][1]["recipe"]
    fid = "FID has not been computed yet."
    if data["n"]:
        how = data["scored"]
        fid = f"""FID of {data["n"]:,} images to {data["references"]:,} training images,
            computed on {how["date"]} on {how["machine"]} at {how["commit"]} by `{how["command"]}`.
            {error_beside_fid(data["rows"])}"""
    before = flow(f"""
        A network of the paper's form for CIFAR-10 with half its width, trained for
        {60 * training["hours"]:.0f} minutes ({training["steps"]:,} steps of {training["batch_size"]} images),
        so its images are not good yet. Calibrated with {recipe["calibration"]["samples"]:,} inputs and
        {recipe["rounding"]["iterations"]} iterations a unit, and no stage after the last unit. DDIM with
        {recipe["calibration"]["steps"]} quadratic steps. MSE compares x after the last step, from the same
        noise. {fid}
    """)
    titles = ["", "MSE x 1000 to full precision", "seconds of calibration", "GB of GPU memory"]
    titles += ["FID"] * bool(data["n"])
    picture = "![Images of the CIFAR-10 network in full precision and quantized, from the same noise]"
    return "\n\n".join([before, table(titles, rows), f"{picture}(data/recorded/gpu_cifar10.png)"])
