"""Drawing images as a command's arguments say: which model, device, sampler and engine."""

import argparse

from ..recipes.parts import OWN_SAMPLER
from ..utils.constants import GUIDANCE
from ..utils.processes import launched, started
from .failures import during
from .shared_options import FASTEST

COMPILING_PAYS = 2000  # images times steps from which an engine is worth its compilation


def load_for(args: argparse.Namespace, model: str):
    """The pipeline ``model`` on the device ``--device``, with the sampler ``--sampler``.

    Raises ValueError for a model, device or sampler that cannot be used.
    """
    device = find_device(args.device)
    from ..diffusion.capabilities import check_pipeline
    from ..diffusion.pipelines import with_sampler
    from ..io.models import load

    with during(f"loading {model}"):
        pipe = load(model, device)
        check_pipeline(pipe)
        check_guidance(pipe, args.guidance)
        return with_sampler(pipe, None if args.sampler == OWN_SAMPLER else args.sampler)


def check_guidance(pipe, guidance: float | None) -> None:
    """Raise ValueError if ``--guidance`` was given for a pipeline without text, where it has no effect."""
    from ..diffusion.capabilities import takes_prompts

    if guidance is not None and not takes_prompts(pipe):
        raise ValueError(
            f"--guidance {guidance:g}: {type(pipe).__name__} takes no text to guide; leave it out"
        )


def shape_of_images(pipe) -> tuple[int, ...]:
    """(C, H, W) of the images of a pipeline; H and W are those of the latent, if it has one."""
    from ..diffusion.pipelines import decoder_of

    size = pipe.unet.config.sample_size
    size = tuple(size) if isinstance(size, list | tuple) else (size, size)
    return (decoder_of(pipe) or pipe.unet).config.out_channels, *size


def draw(pipe, args: argparse.Namespace, prompts: list[str] | None, record: bool = False):
    """The samples for the commands ``sample`` and ``evaluate``; ``record``: with their trajectories.

    The processes of the run share the work. Returns None in all of them except the main one.
    """
    from ..diffusion.sampling import sample

    guidance = GUIDANCE if args.guidance is None else args.guidance
    asked = dict(prompts=prompts, guidance=guidance, eta=args.eta, record=record)
    asked |= {"class_labels": args.class_labels, "batch_size": args.batch_size}
    asked |= {"processes": started(cpu=args.device == "cpu")}
    with during(f"drawing {args.n} images"):
        return sample(pipe, n=args.n, steps=args.steps, seed=args.seed, progress=True, **asked)


def executed(pipe, args: argparse.Namespace) -> tuple:
    """The pipeline on the engine of ``--engine``, and the engine's name.

    "fastest" simulates if there are so few images that compiling the network would take longer.
    """
    from ..engines.run import fastest_engine, run_on

    few = args.n * args.steps < COMPILING_PAYS
    engine = args.engine
    if engine == FASTEST:
        engine = "simulated" if few else fastest_engine(pipe)
    with during(f"running {args.model} on --engine {engine}"):
        return run_on(pipe, engine), engine


def find_device(name: str) -> str:
    """The name of the torch device for ``--device``; "auto" is the first GPU, or the CPU without a GPU.

    If a launcher has started several processes, each has a GPU of its own. Raises ValueError for a device
    that this machine does not have, and for the number of a GPU that all processes would share.
    """
    import torch

    kind, _, number = name.partition(":")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"--device {name!r}: this machine has {torch.cuda.device_count()} CUDA devices; use auto"
        )
    if launched():
        if number:
            raise ValueError(f"--device {name!r}: each process takes a device of its own; use auto")
        return started(cpu=name == "cpu").device
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name
