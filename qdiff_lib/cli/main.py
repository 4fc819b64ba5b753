"""The command line: ``python -m qdiff_lib quantize | sample | evaluate | convert | export | demo | doctor``.

torch and diffusers are imported inside the functions, so that ``--help`` and errors in arguments appear at
once. The arguments are defined in ``cli.arguments``.
"""

import argparse
import math
import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext

from ..recipes.recipe import LEARNING, Recipe
from ..utils.files import atomic_path, check_writable, write_json
from ..utils.lock import held, new_folder
from ..utils.processes import launched, started
from .arguments import build_parser
from .drawing import check_guidance, draw, executed, find_device, load_for, shape_of_images
from .failures import (
    during,
    escape_what_cannot_be_printed,
    explained,
    flushed,
    occupy_closed_streams,
    say_why,
    silence,
)
from .output import FINISHED, check_new_or_resumed, check_same_checkpoint, tidy, write_checkpoint
from .parser import PROGRAM
from .recipe_arguments import given_fields
from .stopping import ended_in_words, say_how_to_go_on
from .texts import prompts_of


def run_quantize(args: argparse.Namespace) -> int:
    """Run the command ``quantize``; returns the exit status."""
    processes = started(cpu=args.device == "cpu")
    if processes.is_main:
        check_new_or_resumed(args.out, args.resume)
        check_writable(args.out)
    recipe, prompts = recipe_of(args), prompts_of(args)
    device = find_device(args.device)
    with held(args.out / "work") if processes.is_main else nullcontext():
        if processes.is_main:
            check_new_or_resumed(args.out, args.resume)  # again: another process may have finished it
        from ..io.models import load
        from ..ptq.work_folder import settings_of_run

        with during(f"loading --model {args.model}"):
            pipe = load(args.model, device)
            check_guidance(pipe, args.guidance)
        settings = settings_of_run(pipe, recipe, prompts, class_labels=args.class_labels)
        if not processes.agreed((args.out / FINISHED).is_file()):
            write_checkpoint(args, pipe, recipe, prompts, settings, processes)
        elif processes.is_main:
            check_same_checkpoint(args.out, settings)
        if processes.is_main:
            tidy(args.out)
    if processes.is_main:
        say_next(f"wrote {args.out}", "sample", "--model", args.out, "--out", f"{args.out}.png")
    return 0


def say_next(done: str, *arguments: object) -> None:
    """Print ``done``, and a command that a user may want to run next, quoted for a shell."""
    print(f"{done}; next: {PROGRAM} {shlex.join(map(str, arguments))}")


def recipe_of(args: argparse.Namespace) -> Recipe:
    """The recipe for the command ``quantize``: that of the preset or the method, with the given fields."""
    from ..recipes.presets import PRESETS, preset_of

    options = dict(profile=args.profile, seed=args.seed, **given_fields(args))
    if args.guidance is None:
        del options["guidance"]
    preset = args.preset or preset_of(args.model)
    make = PRESETS[preset].recipe if preset else Recipe.named
    recipe = make(args.method, **options)
    useless = [name for name in LEARNING if name in given_fields(args)]
    if useless and not recipe.rounding.learned:
        raise ValueError(
            f"--{useless[0].replace('_', '-')} has no effect, as this recipe learns nothing: leave it "
            "out, or use --method qdiffusion with --weight-rounding adaround"
        )
    return recipe


def run_sample(args: argparse.Namespace) -> int:
    """Run the command ``sample``; returns the exit status."""
    processes = started(cpu=args.device == "cpu")
    if processes.is_main:
        check_writable(args.out)
    prompts = prompts_of(args)
    from ..evaluation.figures import check_drawable, image_grid

    pipe = load_for(args, args.model)
    check_drawable(shape_of_images(pipe))
    pipe, engine = executed(pipe, args)
    if processes.is_main and prompts and len(prompts) > args.n:
        print(f"{args.n} of {len(prompts)} texts get an image; for all: --n {len(prompts)}", flush=True)
    samples = draw(pipe, args, prompts)
    if not processes.is_main:
        return 0
    with during(f"writing {args.out}"), atomic_path(args.out) as temporary:
        image_grid(samples.images).save(temporary)
    print(f"wrote {args.out}; engine: {engine}")
    return 0


def run_evaluate(args: argparse.Namespace) -> int:
    """Run the command ``evaluate``; returns the exit status."""
    processes = started(cpu=args.device == "cpu")
    if processes.is_main and args.out is not None:
        check_writable(args.out)
    prompts = prompts_of(args)
    from ..diffusion.prompts import check_disjoint

    pipe = load_for(args, args.model)
    if prompts and hasattr(pipe.unet, "quantization"):
        check_disjoint(pipe.unet.quantization.calibration.get("prompts", []), prompts)
    pipe, engine = executed(pipe, args)
    scores = scores_against(args, pipe, prompts) if args.against else errors_from(args, pipe, prompts)
    if scores is None:
        return 0
    scores |= dict(model=args.model, steps=args.steps, seed=args.seed, engine=engine)
    for name, value in scores.items():
        print(f"{name}: {in_words(value)}")
    if args.out is not None:
        write_json(args.out, {name: json_form(value) for name, value in scores.items()})
    return 0


def in_words(value) -> str:
    """A score for the terminal; nan is a score that so few images do not give."""
    if not isinstance(value, float):
        return str(value)
    return "not known from so few images" if math.isnan(value) else f"{value:.4g}"


def json_form(value):
    """The value with None in place of nan and inf, which JSON does not have."""
    if isinstance(value, list):
        return [json_form(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def scores_against(args: argparse.Namespace, pipe, prompts: list[str] | None) -> dict | None:
    """The scores of a pipeline's images against real images, by name; None except in the main process."""
    from dataclasses import asdict

    from ..evaluation.features import extractor_named
    from ..evaluation.reference_images import check_channels, test_images
    from ..evaluation.scores import score

    check_channels(shape_of_images(pipe)[0])
    if started(cpu=args.device == "cpu").is_main:  # what is missing or damaged is found before the drawing
        extractor_named(args.extractor)
        test_images()
    samples = draw(pipe, args, prompts)
    if samples is None:
        return None
    found = score(samples.images, args.extractor, find_device(args.device))
    return asdict(found) | {"against": args.against}


def errors_from(args: argparse.Namespace, pipe, prompts: list[str] | None) -> dict | None:
    """The errors of a pipeline's trajectories and images against those of ``--original``, by name.

    Returns None except in the main process.
    """
    from ..evaluation.trajectory_errors import image_psnr, trajectory_mse

    original = load_for(args, args.original)
    check_comparable(pipe, original, args.original)
    found = draw(pipe, args, prompts, record=True)
    expected = draw(original, args, prompts, record=True)
    if found is None:
        return None
    errors = trajectory_mse(expected.trajectory, found.trajectory).tolist()
    scores = {"last_step_mse": errors[-1], "image_psnr": image_psnr(expected.images, found.images)}
    return {**scores, "original": args.original, "n": args.n, "mse_of_each_step": errors}


def check_comparable(pipe, original, name: str) -> None:
    """Raise ValueError unless both pipelines draw from the same conditions, in the same shape.

    name: of ``original``.
    """
    from ..diffusion.capabilities import takes_prompts

    shapes = [(each.unet.config.in_channels, *shape_of_images(each)) for each in (pipe, original)]
    if shapes[0] != shapes[1] or takes_prompts(pipe) != takes_prompts(original):
        raise ValueError(
            f"--original {name}: a {type(original).__name__} of shape {shapes[1]} is not the full-precision "
            f"model of a {type(pipe).__name__} of shape {shapes[0]}: name the model that was quantized"
        )


def run_convert(args: argparse.Namespace) -> int:
    """Run the command ``convert``; returns the exit status."""
    check_writable(args.out)
    from ..io.compvis import ORIGINALS, convert

    with new_folder(args.out) as folder:
        with during(f"converting {args.checkpoint}"):
            pipe = convert(args.checkpoint, ORIGINALS[args.preset])
        with during(f"writing {args.out}"):
            pipe.save_pretrained(folder)
    say_next(f"wrote {args.out}", "quantize", "--model", args.out, "--preset", args.preset, "--out", "NEW")
    return 0


def run_export(args: argparse.Namespace) -> int:
    """Run the command ``export``; returns the exit status."""
    from ..engines.export import check_export, export_network

    check_export(args.out, args.format)
    from ..io.models import load

    with during(f"loading --model {args.model}"):
        pipe = load(args.model)
    with during(f"writing {args.out}"):
        export_network(pipe, args.out, args.format)
    print(f"wrote {args.out}")
    return 0


def run_demo(args: argparse.Namespace) -> int:
    """Run the command ``demo``; returns the exit status."""
    check_writable(args.out)
    from .demo import demo

    demo(args.out, profile=args.profile)
    return 0


def run_doctor(args: argparse.Namespace) -> int:
    """Run the command ``doctor``; returns the exit status, 1 if a check found an error."""
    from .doctor import check_environment, render

    findings = check_environment()
    print(render(findings))
    return 1 if any(finding.status == "error" for finding in findings) else 0


COMMANDS = {
    "quantize": run_quantize,
    "sample": run_sample,
    "evaluate": run_evaluate,
    "convert": run_convert,
    "export": run_export,
    "demo": run_demo,
    "doctor": run_doctor,
}
SHARED = ("quantize", "sample", "evaluate")  # the commands that several processes can share


def run(args: argparse.Namespace) -> int:
    """Run the command of these arguments; returns its exit status.

    Raises ValueError for several processes and a command that they cannot share.
    """
    if launched() and args.command not in SHARED:
        raise ValueError(f"{args.command} needs no launcher: start it with {PROGRAM} {args.command}")
    return args.run(args)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status.

    argv: the arguments; None: those of the process. The status is 0, or 1 (doctor found errors), 2 (wrong
    input, or something is lacking), 130 (Ctrl-C), or 128 plus the number of another signal that stopped it.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    occupy_closed_streams()
    escape_what_cannot_be_printed()
    try:
        args = build_parser(COMMANDS).parse_args(argv)
    finally:
        silence(sys.stdout)  # the help may have no reader

    def why(error: Exception) -> int:
        if args.traceback:
            raise error
        return say_why(f"{PROGRAM} {args.command}", explained(error, args))

    return ended_in_words(
        lambda: flushed(run(args)), lambda number: say_how_to_go_on(args, argv, number), why
    )
