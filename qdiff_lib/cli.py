"""The command line: ``python -m qdiff_lib quantize | sample | evaluate | demo | doctor``.

torch and diffusers are imported inside the commands, so that ``--help`` and wrong arguments answer at once.
The arguments themselves are in ``arguments.py``.
"""

import argparse
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from .arguments import PROGRAM, build_parser, one_line


def run_quantize(args: argparse.Namespace) -> int:
    check_new_or_resumed(args.out, args.resume)
    device = find_device(args.device)
    from .checkpoint import save_quantized
    from .files import write_json
    from .pipeline import quantize
    from .recipes import Recipe
    from .zoo import load

    bits = dict(weights=args.weights, activations=args.activations, edge_bits=args.edge_bits)
    recipe = Recipe.named(args.method, **bits, profile=args.profile, seed=args.seed)
    options = dict(work=args.out / "work", resume=args.resume, memory_gb=args.memory_gb)
    quantized = quantize(load(args.model, device), recipe, **options)
    save_quantized(quantized, args.out)
    write_json(args.out / "report.json", quantized.unet.quantization.report())
    shutil.rmtree(args.out / "work")
    print(f"wrote {args.out}; next: {PROGRAM} sample --model {args.out} --out {args.out}.png")
    return 0


def run_sample(args: argparse.Namespace) -> int:
    from .figures import image_grid

    images = draw(args)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    image_grid(images).save(args.out)
    print(f"wrote {args.out}")
    return 0


def run_evaluate(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from .files import write_json
    from .metrics import score

    scores = asdict(score(draw(args), args.extractor, find_device(args.device)))
    scores |= dict(model=args.model, against=args.against, steps=args.steps, seed=args.seed)
    for name, value in scores.items():
        print(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")
    if args.out is not None:
        write_json(args.out, {name: None if value != value else value for name, value in scores.items()})
    return 0


def draw(args: argparse.Namespace):
    """The images (N, C, H, W), uint8, that ``sample`` and ``evaluate`` ask for, drawn by DDIM."""
    device = find_device(args.device)
    from .sampling import sample, with_sampler
    from .zoo import load

    pipe = with_sampler(load(args.model, device), "ddim")
    return sample(pipe, n=args.n, steps=args.steps, seed=args.seed, progress=True).images


def run_demo(args: argparse.Namespace) -> int:
    from .demo import demo

    demo(args.out, profile=args.profile)
    return 0


def run_doctor(args: argparse.Namespace) -> int:
    from .doctor import check_environment, render

    findings = check_environment()
    print(render(findings))
    return 1 if any(finding.status == "error" for finding in findings) else 0


COMMANDS = {
    "quantize": run_quantize,
    "sample": run_sample,
    "evaluate": run_evaluate,
    "demo": run_demo,
    "doctor": run_doctor,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status: 0, 1 (doctor found errors), 2 (wrong input), 130 (Ctrl-C)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    args = build_parser(COMMANDS).parse_args(argv)
    try:
        return args.run(args)
    except (ValueError, TypeError, OSError) as error:
        if args.traceback:
            raise
        print(f"{PROGRAM} {args.command}: error: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        again = [*argv, "--resume"] if hasattr(args, "resume") and not args.resume else argv
        print(f"\nstopped; to go on: {PROGRAM} {shlex.join(again)}", file=sys.stderr)
        return 130


def check_new_or_resumed(out: Path, resume: bool) -> None:
    """Let ``quantize`` write only to a folder that is new, empty, or its own from before, with ``resume``."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir():
        raise FileExistsError(f"--out {out} is a file; name a folder")
    if not resume:
        raise FileExistsError(f"--out {out} is not empty; add --resume to go on there, or name a new folder")
    if (out / "quantized.json").is_file():
        raise FileExistsError(f"--resume: {out} is a finished checkpoint; there is nothing left to do")
    if not (out / "work").is_dir():
        raise ValueError(f"--resume: {out} holds no work/ of an earlier quantize; name a new folder")


def find_device(name: str) -> str:
    """The name of the torch device of ``--device``; "auto" is the first GPU, or else the CPU."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"--device {name!r}: this machine has {torch.cuda.device_count()} CUDA devices; use auto"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError("--device 'mps': this machine has no such device; use auto")
    return name
