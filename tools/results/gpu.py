"""What was measured on a GPU."""

from .source import flow, table

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
