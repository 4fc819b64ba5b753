"""Quantize a model on a GPU, and write what came out: images, errors of each step, seconds, memory.

    python gpu/measure_quantization.py build/ddpm-cifar10 --bits 4 8 --method qdiffusion --out build/gpu/w4a8

writes ``<out>.json`` and ``<out>.webp``, a lossless sheet of the images. ``--method none`` draws in full
precision.
``--device cpu`` with small numbers is the rehearsal.
"""

import argparse
import shlex
import sys
import time
from pathlib import Path

import torch
from diffusers import DDPMPipeline
from PIL import Image

from qdiff_lib import PRESETS, Recipe, quantize, sample, trajectory_mse, with_sampler
from qdiff_lib.diffusion.sampling import Samples
from qdiff_lib.utils.files import atomic_path, write_json
from qdiff_lib.utils.provenance import provenance

SEED = 0
ROWS = 100  # images in a column of a sheet


def recipe_of(args: argparse.Namespace) -> Recipe:
    """The method at these bits. Ranges, split and sampler are those of the paper's CIFAR-10 model."""
    numbers = dict(steps=args.steps, samples=args.samples)
    if args.method == "qdiffusion":
        numbers |= dict(iterations=args.iterations, step_size_iterations=args.iterations // 4)
    weights, activations = args.bits
    return PRESETS["ddpm-cifar10"].recipe(args.method, weights, activations, profile=args.profile, **numbers)


def draw(pipe: DDPMPipeline, args: argparse.Namespace, n: int, record: bool = False) -> Samples:
    """Images from the same noise for every model."""
    ddim = with_sampler(pipe, "ddim-quadratic")
    return sample(ddim, n, steps=args.steps, seed=SEED, batch_size=args.batch_size, record=record)


def sheet(images: torch.Tensor) -> Image.Image:
    """All images (N, 3, H, W) below each other in columns of ``ROWS``; the last column may end in black."""
    missing = -len(images) % ROWS
    filled = torch.cat([images, images.new_zeros(missing, *images.shape[1:])])
    columns = filled.unflatten(0, (-1, ROWS)).permute(1, 3, 0, 4, 2)  # (ROWS, H, columns, W, 3)
    return Image.fromarray(columns.flatten(2, 3).flatten(0, 1).numpy())


def peak(device: str) -> int | None:
    """Most bytes that tensors took on the GPU."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else None


def main() -> None:
    args = parse()
    pipe = DDPMPipeline.from_pretrained(str(args.model)).to(args.device)
    result = {"measured": provenance(shlex.join(["python", "gpu/measure_quantization.py", *sys.argv[1:]]))}
    found = pipe
    if args.method != "none":
        recipe, start = recipe_of(args), time.perf_counter()
        found = quantize(pipe, recipe, progress=False, memory_gb=args.memory_gb)
        result |= {"recipe": recipe.to_dict(), "calibration_seconds": time.perf_counter() - start}
        result |= {"calibration_peak_bytes": peak(args.device)}
        wanted, got = (draw(each, args, args.compared, record=True).trajectory for each in (pipe, found))
        result["trajectory_mse"] = trajectory_mse(wanted, got).tolist()
    start = time.perf_counter()
    images = draw(found, args, args.images).images
    result |= {"images": len(images), "drawing_seconds": time.perf_counter() - start}
    with atomic_path(args.out.with_suffix(".webp")) as temporary:
        sheet(images).save(temporary, "webp", lossless=True)
    write_json(args.out.with_suffix(".json"), result)
    print(args.out.name, {key: value for key, value in result.items() if "seconds" in key or "bytes" in key})
    print("last-step MSE", result.get("trajectory_mse", [None])[-1], flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of a full-precision DDPM pipeline")
    parser.add_argument("--out", type=Path, required=True, help="files without suffix")
    parser.add_argument("--method", default="qdiffusion", choices=("none", "linear", "qdiffusion"))
    parser.add_argument("--bits", type=int, nargs=2, default=(4, 8), metavar=("W", "A"))
    parser.add_argument("--profile", default="tiny")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--samples", type=int, default=2048)
    parser.add_argument("--iterations", type=int, default=260)
    parser.add_argument("--memory-gb", type=float, default=32)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--compared", type=int, default=64, help="images whose trajectories are compared")
    parser.add_argument("--batch-size", type=int, default=500)
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    return args


if __name__ == "__main__":
    main()
