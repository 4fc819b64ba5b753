"""The output folder of the command ``quantize``: whose it is, and what is written in which order.

Light to import: torch and diffusers are imported inside the functions.
"""

import argparse
import os
from pathlib import Path

from ..utils.lock import check_ours, is_ours, is_unused

FINISHED = "report.json"  # the last file that `quantize` writes


def check_new_or_resumed(out: Path, resume: bool) -> None:
    """Let ``quantize`` write only to a folder that is new, empty, or its own from before, with ``resume``."""
    work = out / "work"
    if not out.exists() or (out.is_dir() and not set(os.listdir(out)) - {"work"} and is_unused(work)):
        return
    if not out.is_dir():
        raise FileExistsError(f"--out {out} is a file; name a folder")
    if not resume:
        raise FileExistsError(f"--out {out} is not empty; add --resume to go on there, or name a new folder")
    if not is_ours(work) and not (out / FINISHED).is_file():
        raise ValueError(f"--resume: {out} holds no work/ of an earlier quantize; name a new folder")
    check_ours(work)


def write_checkpoint(
    args: argparse.Namespace, pipe, recipe, prompts: list[str] | None, settings: dict
) -> None:
    """Quantize into ``args.out``; its report is the last file that appears."""
    from ..io.checkpoint import save_quantized
    from ..ptq.quantize import quantize
    from ..utils.files import write_json
    from ..utils.hashing import tensors_hash

    options = dict(work=args.out / "work", resume=args.resume, memory_gb=args.memory_gb, prompts=prompts)
    quantized = quantize(pipe, recipe, **options)
    save_quantized(quantized, args.out)
    report = {**quantized.unet.quantization.report(), "run": tensors_hash({}, settings)}
    write_json(args.out / FINISHED, report)


def check_same_checkpoint(out: Path, settings: dict) -> None:
    """Raise ValueError unless the finished checkpoint in ``out`` is that of a run with these settings."""
    from ..utils.files import read_json
    from ..utils.hashing import tensors_hash

    if read_json(out / FINISHED).get("run") != tensors_hash({}, settings):
        raise ValueError(
            f"--resume: {out} is a finished checkpoint of another model or other options; name a new folder"
        )


def tidy(out: Path) -> None:
    """Remove what a finished checkpoint does not need, once its files are on the disk."""
    from ..ptq.work_folder import clear_work
    from ..utils.files import remove_temporaries, sync_all

    remove_temporaries(out)
    sync_all(out)
    clear_work(out / "work")
