"""The options that several commands share."""

from pathlib import Path

from ..recipes.parts import OWN_SAMPLER, SAMPLERS
from ..utils.constants import ENGINES, LAST_SEED, LAST_STEP, MOST_DRAWN, MOST_GUIDANCE
from ..utils.kinds import Number, Whole
from .argument_types import argument, device_name
from .parser import Parser

FASTEST = "fastest"


def add_model(add: Parser) -> None:
    """Add ``--model``."""
    model = "a name such as ddpm-fashion, a folder in diffusers format, or a folder that quantize wrote"
    add.add_argument("--model", required=True, metavar="NAME_OR_PATH", help=model)


def add_steps(add: Parser) -> None:
    """Add the options of the sampler: ``--steps``, ``--sampler``, ``--batch-size``, ``--eta``."""
    add.add_argument(
        "--steps", type=argument(Whole(1, LAST_STEP)), default=50, help="denoising steps; default: 50"
    )
    sampler = "own: the sampler in the model's folder; default: ddim"
    add.add_argument("--sampler", choices=(*SAMPLERS, OWN_SAMPLER), default="ddim", help=sampler)
    batch = "images drawn at once; default: 64, or fewer if decoding them needs much memory"
    add.add_argument("--batch-size", type=argument(Whole(1, MOST_DRAWN)), metavar="N", help=batch)
    eta = "share of new noise in each denoising step of ddim, 0 to 1; default: 0"
    add.add_argument("--eta", type=argument(Number(0, 1)), default=0.0, help=eta)


def add_conditions(add: Parser, default: str) -> None:
    """Add ``--prompt``, ``--prompts``, ``--guidance`` and ``--class-labels``; default: of the guidance."""
    texts = add.add_mutually_exclusive_group()
    one = "a text to draw; repeat the option for more texts"
    texts.add_argument("--prompt", action="append", metavar="TEXT", help=one)
    texts.add_argument("--prompts", type=Path, metavar="FILE", help="a UTF-8 file with one text per line")
    scale = f"scale of classifier-free guidance; 1 is no guidance; default: {default}"
    add.add_argument("--guidance", type=argument(Number(0, MOST_GUIDANCE)), metavar="SCALE", help=scale)
    labels = "numbers of the classes to draw, counted from 0, for models that have classes"
    add.add_argument("--class-labels", type=argument(Whole(0)), nargs="+", metavar="CLASS", help=labels)


def add_engine(add: Parser, default: str) -> None:
    """Add ``--engine``."""
    engine = (
        "what computes the network: simulated (floating point that rounds as integers do), openvino (int8 on "
        "CPUs), triton (int8 on NVIDIA GPUs), reference (exact and slow), or fastest; default: %(default)s"
    )
    add.add_argument("--engine", choices=(FASTEST, *ENGINES), default=default, help=engine)


def add_seed_and_device(add: Parser) -> None:
    """Add ``--seed`` and ``--device``."""
    add.add_argument(
        "--seed", type=argument(Whole(0, LAST_SEED)), default=0, help="seed of all random numbers; default: 0"
    )
    device = "auto (default: the GPU if there is one), cpu, cuda or cuda:0"
    add.add_argument("--device", type=device_name, default="auto", help=device)
