"""The output folder of the command ``quantize``: when it may be written to, and in which order files appear.

torch and diffusers are imported inside the functions, so that this module is imported fast.
"""

import argparse
import os
from pathlib import Path

from ..utils.lock import check_ours, is_ours, is_unused
from ..utils.processes import ALONE, Processes
from .failures import during

FINISHED = "report.json"  # the last file that `quantize` writes


def check_new_or_resumed(out: Path, resume: bool) -> None:
    """Check that ``quantize`` may write to ``out``.

    It may write to a new or empty folder, and with ``resume`` to the folder of an earlier run. Raises
    FileExistsError for a file, and for a folder with files if ``resume`` is False. Raises ValueError for a
    folder that ``quantize`` did not make, and if ``out/work`` is a symbolic link, whose files may belong to
    another run.
    """
    work = out / "work"
    if work.is_symlink():
        raise ValueError(f"{work} is a symbolic link: remove the link, or name a new folder with --out")
    if not out.exists() or (out.is_dir() and not set(os.listdir(out)) - {"work"} and is_unused(work)):
        return
    if not out.is_dir():
        raise FileExistsError(f"--out {out} is a file; name a folder")
    earlier = is_ours(work) or (out / FINISHED).is_file()
    if not resume:
        advice = "add --resume to go on there, or name a new folder" if earlier else "name a new folder"
        raise FileExistsError(f"--out {out} is not empty; {advice}")
    if not earlier:
        raise ValueError(f"--resume: {out} holds no work/ of an earlier quantize; name a new folder")
    check_ours(work)


def write_checkpoint(
    args: argparse.Namespace,
    pipe,
    recipe,
    prompts: list[str] | None,
    settings: dict,
    processes: Processes = ALONE,
) -> None:
    """Quantize ``pipe`` and write the checkpoint to ``args.out``; its report is written last.

    processes: they share the work, and the main one writes.
    """
    from ..io.checkpoint import save_quantized
    from ..ptq.quantize import quantize
    from ..utils.files import write_json
    from ..utils.hashing import tensors_hash

    options = dict(work=args.out / "work", resume=args.resume, prompts=prompts, processes=processes)
    options |= dict(class_labels=args.class_labels, memory_gb=args.memory_gb, device_gb=args.device_gb)
    with during(f"quantizing {args.model}"):
        quantized = quantize(pipe, recipe, **options)
    if not processes.is_main:
        return
    with during(f"writing {args.out}"):
        save_quantized(quantized, args.out)
        report = {**quantized.unet.quantization.report(), "run": tensors_hash({}, settings)}
        write_json(args.out / FINISHED, report)


def check_same_checkpoint(out: Path, settings: dict) -> None:
    """Raise ValueError unless a run with these settings made the finished checkpoint in ``out``."""
    from ..utils.files import read_json
    from ..utils.hashing import tensors_hash

    if read_json(out / FINISHED).get("run") != tensors_hash({}, settings):
        raise ValueError(
            f"--resume: {out} is a finished checkpoint of another model or other options; name a new folder"
        )


def tidy(out: Path) -> None:
    """Remove the files that a finished checkpoint does not need, after all its files are on the disk."""
    from ..ptq.work_folder import clear_work
    from ..utils.files import remove_temporaries, sync_all

    remove_temporaries(out)
    sync_all(out)
    clear_work(out / "work")
