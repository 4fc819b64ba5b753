"""Integers against bf16 on an NVIDIA GPU: seconds per image and peak memory of three networks.

python benchmarks/gpu_engines.py                 all of it, into benchmarks/gpu_engines.json
python benchmarks/gpu_engines.py --only sd-v1-4  one network; the others keep their last results
python benchmarks/gpu_engines.py --quick         one tiny network, on the CPU under Triton's interpreter

Networks have random weights: a speed does not depend on them. Layers are W4A8, except the first and last
convolution, which stay simulated at 16 bits. Attention's products are in bf16 in all variants. A call of the
network takes ``batch`` images. ``STEPS`` calls make an image; the scheduler's arithmetic is not part of it.
Variants take turns. Each has bf16 norms and activations, and the channels last in memory. "Graph" is one
CUDA graph of all kernels, which takes away the time between them; "compiled" is that of ``torch.compile``.

Compiling takes far longer than measuring. So there are two stages: first all variants but the compiled ones
are measured and written, then all. Several processes, one for each network, can compile beside each other and
then measure one after the other: ``--meet FOLDER COUNT`` makes each wait for all.
"""

import argparse
import fcntl
import gc
import json
import shlex
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from qdiff_lib.engines.triton_engine import layer_reports, triton_network
from qdiff_lib.graph.model_inputs import example_inputs
from qdiff_lib.graph.networks import build
from qdiff_lib.graph.tracing import trace
from qdiff_lib.io.shipped_data import verified
from qdiff_lib.modules.activation_quantizer import activation_quantizers
from qdiff_lib.modules.quant_layer import quant_layers
from qdiff_lib.ptq.insertion import insert_quantizers
from qdiff_lib.recipes.paper_networks import DDPM_CIFAR10, SD_V1_4
from qdiff_lib.recipes.parts import Grids
from qdiff_lib.utils.files import write_json
from qdiff_lib.utils.provenance import provenance

STAGES = (("bf16", "integers", "bf16 graph", "integers graph"), ("bf16 compiled", "integers compiled"))
PATIENCE = 120  # seconds that a process waits for the others
STEPS = 50  # calls of the network for an image
RANGE = 8.0  # activations are quantized from -RANGE / 2 to RANGE / 2
GRIDS = Grids(weights=4, activations=8, edge_bits=16, quantize_attention=False)
TINY = dict(
    _class_name="UNet2DModel",
    sample_size=8,
    in_channels=1,
    out_channels=1,
    block_out_channels=(8,),
    layers_per_block=1,
    norm_num_groups=4,
    down_block_types=("DownBlock2D",),
    up_block_types=("UpBlock2D",),
)


def shipped_config() -> dict:
    """The config of the shipped model's network."""
    return json.loads(verified("models/ddpm-fashion/unet/config.json").read_text())


NETWORKS: dict[str, tuple[Callable[[], dict], tuple[int, ...]]] = {  # the config, and the batches
    "ddpm-fashion": (shipped_config, (8, 64, 256)),
    "ddpm-cifar10": (lambda: DDPM_CIFAR10, (8, 64, 256)),
    "sd-v1-4": (lambda: SD_V1_4, (2, 8, 32)),
}


def quantized(unet: nn.Module) -> nn.Module:
    """A W4A8 copy of a network, rounded to nearest, with the same range for all activations."""
    made = insert_quantizers(unet, GRIDS, trace(unet, example_inputs(unet, device=unet.device)))
    for layer in quant_layers(made):
        layer.find_weight_range("min_max")
        layer.round_weight()
    for quantizer in activation_quantizers(made):
        step = torch.tensor(RANGE / quantizer.grid.top, device=unet.device)
        quantizer.set_range(step, torch.full_like(step, quantizer.grid.top // 2 + 1))
    return made


def variant(name: str, unet: nn.Module, batch: int, inputs: dict) -> nn.Module:
    """The network of a variant, on the device of ``unet`` (in float32)."""
    if name.startswith("integers"):
        made = quantized(unet).to(torch.bfloat16, memory_format=torch.channels_last)
        network = triton_network(made, batch=batch)
    else:
        network = copied(unet).to(torch.bfloat16, memory_format=torch.channels_last)
    if name.endswith("graph"):
        return Graph(network, inputs)
    if name.endswith("compiled"):
        return torch.compile(network, mode="reduce-overhead", dynamic=False)
    return network


class Graph(nn.Module):
    """All kernels of a network, recorded for these inputs and then launched at once."""

    def __init__(self, network: nn.Module, inputs: dict):
        super().__init__()
        self.network, self.graph = network, torch.cuda.CUDAGraph()
        network(**inputs)  # tunes and allocates
        torch.cuda.synchronize()
        with torch.cuda.graph(self.graph):
            self.output = network(**inputs)

    def forward(self, **inputs):
        """Run the recorded kernels; the inputs are those that were recorded."""
        self.graph.replay()
        return self.output


def copied(unet: nn.Module) -> nn.Module:
    """A copy of a network with tensors of its own."""
    made = type(unet).from_config(unet.config).eval()
    made.load_state_dict(unet.state_dict())
    return made.to(unet.device)


def inputs_of(unet: nn.Module, batch: int) -> dict:
    """Random inputs in bf16, images with the channels last."""
    inputs = example_inputs(unet, batch, unet.device)
    made = {
        name: torch.randn_like(x, dtype=torch.bfloat16) if x.is_floating_point() else x
        for name, x in inputs.items()
        if isinstance(x, Tensor)
    }
    return {**inputs, **made, "sample": made["sample"].to(memory_format=torch.channels_last)}


@dataclass
class Prepared:
    """The variants of a network for one batch size, compiled and tuned, and what is known of them."""

    batch: int
    inputs: dict
    networks: dict[str, nn.Module]
    results: dict[str, dict]


@torch.no_grad()
def prepare(prepared: Prepared, names: Iterable[str], unet: nn.Module, device: str) -> None:
    """Make these variants, call each, and measure its memory."""
    batch, inputs = prepared.batch, prepared.inputs
    for name in names:
        before, start = allocated(device), time.perf_counter()
        network = prepared.networks[name] = variant(name, unet, batch, inputs)
        result = prepared.results[name] = first_call(network, inputs, device, before)
        result["seconds_to_prepare"] = time.perf_counter() - start
        if "integers" in name:
            reports = layer_reports(network)
            result["layers"] = dict(Counter(report.runs_in for report in reports))
            result["reasons"] = [vars(report) for report in reports if report.reason]
        spent, took = time.perf_counter() - start, seconds(network, inputs, device, 5)
        kinds = result.get("layers", "")
        print(f"{name}, batch {batch}: ready after {spent:.0f} s; {1000 * took:.2f} ms {kinds}", flush=True)


@torch.no_grad()
def measure(prepared: Prepared, device: str, rounds: int, calls: int) -> dict:
    """Seconds per image of each variant, in turns."""
    times: dict[str, list[float]] = {name: [] for name in prepared.networks}
    for _ in range(rounds):
        for name, network in prepared.networks.items():
            spent = seconds(network, prepared.inputs, device, calls)
            times[name].append(spent * STEPS / prepared.batch)
    for name, found in times.items():
        prepared.results[name] |= {"seconds_per_image": statistics.median(found), "all": found}
    return {"batch": prepared.batch, "rounds": rounds, "calls": calls, "variants": prepared.results}


@contextmanager
def alone(meet: list[str] | None, stage: str, name: str) -> Iterator[None]:
    """Wait until ``COUNT`` processes are ready, be the only one that measures, and wait until all have."""
    if meet is None:
        yield
        return
    folder, count = Path(meet[0]) / stage, int(meet[1])
    folder.mkdir(parents=True, exist_ok=True)
    wait(folder, f"{name}.ready", count)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    wait(folder, f"{name}.done", count)


def wait(folder: Path, sign: str, count: int) -> None:
    """Leave a sign, and wait for ``count`` of its kind, or until ``PATIENCE`` is over."""
    (folder / sign).touch()
    until = time.monotonic() + PATIENCE
    while len(list(folder.glob(f"*{Path(sign).suffix}"))) < count and time.monotonic() < until:
        time.sleep(0.2)


def first_call(network: nn.Module, inputs: dict, device: str, before: int) -> dict:
    """Bytes of the network, and at most within a call, beyond the ``before`` bytes of all others."""
    for _ in range(3):  # compiles, tunes, and records CUDA graphs
        network(**inputs)
    gc.collect()
    if device != "cuda":
        return {"network_bytes": None, "peak_bytes": None}
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    held = allocated(device) - before
    network(**inputs)
    torch.cuda.synchronize()
    return {"network_bytes": held, "peak_bytes": torch.cuda.max_memory_allocated() - before}


def allocated(device: str) -> int:
    """Bytes that tensors take on the GPU now."""
    gc.collect()
    return torch.cuda.memory_allocated() if device == "cuda" else 0


def seconds(network: nn.Module, inputs: dict, device: str, calls: int) -> float:
    """The mean duration of a call among ``calls`` in a row."""
    start = time.perf_counter()
    for _ in range(calls):
        network(**inputs)
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / calls


def main() -> None:
    args = parse()
    networks = {"tiny": (lambda: TINY, (1,))} if args.quick else NETWORKS
    device, rounds, calls = ("cpu", 2, 1) if args.quick else ("cuda", 7, 10)
    stages = {"first": STAGES[0][:2]} if args.quick else dict(zip(("first", "all"), STAGES, strict=True))
    command = shlex.join(["python", "benchmarks/gpu_engines.py", *sys.argv[1:]])
    for name in networks if args.quick else args.only:
        config, batches = networks[name]
        torch.manual_seed(0)
        unet = build(config()).to(device)
        prepared = [Prepared(n, inputs_of(unet, n), {}, {}) for n in args.batches or batches]
        for stage, variants in stages.items():
            for each in prepared:
                prepare(each, variants, unet, device)
            with alone(args.meet, stage, name):
                measured = [measure(each, device, rounds, calls) for each in prepared]
                found = json.loads(args.out.read_text()) if args.out.exists() else {}
                found[name] = {"measured": provenance(command), "quick": args.quick, "results": measured}
                write_json(args.out, found)
        for each in measured:
            times = {key: f"{value['seconds_per_image']:.4f}" for key, value in each["variants"].items()}
            print(f"{name}, {each['batch']} images at a time, seconds per image: {times}", flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="a tiny network on the CPU: it only shows that it works"
    )
    parser.add_argument("--only", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="NETWORK")
    parser.add_argument("--batches", type=int, nargs="+", metavar="N", help="other batch sizes")
    parser.add_argument("--meet", nargs=2, metavar=("FOLDER", "COUNT"), help="measure when all are ready")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"), metavar="FILE")
    args = parser.parse_args()
    if not args.quick and not torch.cuda.is_available():
        parser.error("torch finds no NVIDIA GPU; --quick runs on the CPU with TRITON_INTERPRET=1")
    return args


if __name__ == "__main__":
    main()
