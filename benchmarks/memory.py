"""What a network takes of the RAM, in several forms, each in a fresh process that holds nothing else.

python benchmarks/memory.py FOLDER NETWORK FORM      one process; FOLDER has the networks' files

Numbers are resident memory as the operating system counts it: pages that were touched, of mapped files too.
What the allocator of C keeps of freed memory is first given back. They are differences from the same process
when it had imported its libraries, and had run and dropped a tiny network in the same form: libraries load
some of their parts late. Exported and compiled networks come from the disk.
"""

import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil

STAGES = ("loaded", "called")
SAVED = ("full", "quantized")  # folders of both pipelines of a network
TINY = "tiny"


def pipeline(folder: Path, saved: str, kind: str = "float32", engine: str = "simulated") -> Iterator[None]:
    """A pipeline whose UNet torch or an engine computes; it stops when loaded, and after a call."""
    import torch

    from qdiff_lib import load, run_on

    pipe = load(folder / saved)
    pipe.unet.to(getattr(torch, kind))
    if engine == "openvino":
        pipe = run_on(pipe, engine, cache=folder / "cache", progress=False)
    yield
    config = pipe.unet.config
    x = torch.zeros(1, config.in_channels, config.sample_size, config.sample_size, dtype=pipe.unet.dtype)
    with torch.no_grad():
        pipe.unet(x, 500)
    yield


def packed(folder: Path) -> Iterator[None]:
    """The quantized network as the engine for GPUs holds it; here it is only loaded."""
    from qdiff_lib import load
    from qdiff_lib.engines.triton_engine import triton_network

    pipe = load(folder / "quantized")
    pipe.unet = triton_network(pipe.unet)
    yield


def exported(folder: Path, saved: str) -> Iterator[None]:
    """The exported network in OpenVINO alone, without torch and this library."""
    sys.modules["openvino_telemetry"] = None  # it would report the import to OpenVINO's makers
    import numpy as np
    import openvino

    core = openvino.Core()
    model = core.read_model(folder / f"{saved}-openvino" / "network.xml")
    shapes = {
        i: [1, *(size.get_length() for size in x.partial_shape[1:])] for i, x in enumerate(model.inputs)
    }
    model.reshape(shapes)
    network = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    yield
    network([np.zeros(shape, np.float32) for shape in shapes.values()])
    yield


FORMS: dict[str, Callable[[Path], Iterator[None]]] = {
    "torch, float32": partial(pipeline, saved="full"),
    "torch, bfloat16": partial(pipeline, saved="full", kind="bfloat16"),
    "torch, simulated W4A8": partial(pipeline, saved="quantized"),
    "packed W4A8, for GPUs": packed,
    "torch and OpenVINO, float32": partial(pipeline, saved="full", engine="openvino"),
    "torch and OpenVINO, W4A8 integers": partial(pipeline, saved="quantized", engine="openvino"),
    "OpenVINO alone, float32": partial(exported, saved="full"),
    "OpenVINO alone, W4A8 integers": partial(exported, saved="quantized"),
}
QUICK_FORMS = ("torch, float32", "torch, simulated W4A8")


def tiny() -> tuple:
    """A tiny model and its quantized form."""
    from diffusers import DDPMPipeline, DDPMScheduler
    from gpu_engines import TINY as config

    from qdiff_lib import Recipe, quantize
    from qdiff_lib.graph.networks import build

    pipe = DDPMPipeline(unet=build(config), scheduler=DDPMScheduler())
    return pipe, quantize(pipe, Recipe.linear(4, 8, samples=2, steps=2), progress=False)


def shipped() -> tuple:
    """The shipped model and its quantized form."""
    from qdiff_lib import load

    return load("ddpm-fashion"), load("ddpm-fashion-w4a8")


def wide() -> tuple:
    """The paper's CIFAR-10 UNet with random weights, and its quantized form."""
    from engines import cifar10

    return cifar10()


NETWORKS = {TINY: tiny, "ddpm-fashion": shipped, "the paper's CIFAR-10 UNet": wide}


def measure(quick: bool = False) -> list[dict]:
    """For each network the bytes of its files, and of each form the bytes of RAM."""
    runs, names, forms = (1, ["ddpm-fashion"], QUICK_FORMS) if quick else (2, list(NETWORKS)[1:], FORMS)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        saved_files(*tiny(), Path(folder, TINY), export=not quick)
        for name in names:
            files = saved_files(*NETWORKS[name](), Path(folder, name), export=not quick)
            rows = [{"form": form, **repeated(folder, name, form, runs)} for form in forms]
            found.append({"network": name, "runs": runs, "files": files, "rows": rows})
    return found


def saved_files(full, quantized, folder: Path, export: bool) -> dict[str, int]:
    """Write both pipelines below ``folder``; returns the bytes of each file of weights."""
    from qdiff_lib import save_quantized
    from qdiff_lib.engines.export import export_network

    full.save_pretrained(folder / "full")
    save_quantized(quantized, folder / "quantized")
    weights = [folder / saved / "unet" / "diffusion_pytorch_model.safetensors" for saved in SAVED]
    if export:
        for saved, pipe in zip(SAVED, (full, quantized), strict=True):
            export_network(pipe, folder / f"{saved}-openvino", "openvino")
            weights.append(folder / f"{saved}-openvino" / "network.bin")
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in weights}


def repeated(folder: str, network: str, form: str, runs: int) -> dict:
    """Bytes of RAM at each stage: the least and the most of several runs."""
    if "torch and OpenVINO" in form:
        apart(folder, network, form)  # exports and compiles into the cache
    measured = [apart(folder, network, form) for _ in range(runs)]
    return {
        stage: {"least": min(values), "most": max(values)}
        for stage in measured[0]
        for values in [[run[stage] for run in measured]]
    }


def apart(*words: str) -> dict[str, int]:
    """One run in a fresh process. Raises CalledProcessError if it fails."""
    command = [sys.executable, "-W", "ignore", __file__, *words]
    root = str(Path(__file__).resolve().parents[1])
    env = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": root, "HF_HUB_OFFLINE": "1"}
    return json.loads(subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main() -> None:
    """Run a tiny network, then hold the network in the same form, and print the bytes between."""
    folder, network, form = sys.argv[1:]
    for _ in FORMS[form](Path(folder, TINY)):
        pass
    before, stages = resident(), zip(STAGES, FORMS[form](Path(folder, network)), strict=False)
    print(json.dumps({stage: resident() - before for stage, _ in stages}))


def resident() -> int:
    """The bytes of RAM that this process has now; on Linux after what was freed went back to the system."""
    gc.collect()
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)
    return psutil.Process().memory_info().rss


if __name__ == "__main__":
    main()
