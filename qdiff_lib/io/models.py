"""Loading any model by one name or path: embedded models, local folders, quantized checkpoints, the hub."""

import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, TypeVar

from ..utils.errors import is_import_failure, is_of_a_dependency
from .index import COPY, INDEX, read_index, reason, refuse_code
from .shipped_data import embedded_folder, embedded_names, is_embedded

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

T = TypeVar("T")
HUB = ("google/ddpm-cifar10-32", "CompVis/ldm-celebahq-256", "CompVis/stable-diffusion-v1-4")
INSTALL = "a package that it needs is missing, or the memory is full: install the one, or free the other"
HUB_SECONDS = 10  # longest silence of the hub
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")  # weights whose loading can run code


def load(name_or_path: str | Path, device: str = "cpu") -> "DiffusionPipeline":
    """Load a pipeline: its weights are on ``device`` in float32, its progress bar is off.

    Args:
        name_or_path: looked up in this order: an embedded model, such as ``"ddpm-fashion"``; a folder with a
            diffusers pipeline or a quantized checkpoint; a hub name ``"owner/name"``, such as those in
            ``HUB``. Write ``"./ddpm-fashion"`` for a folder that has the name of an embedded model.
        device: anything that ``torch.device`` takes.

    Raises:
        ValueError: the name is unknown; the folder holds no model, lacks a component, or has damaged files or
            only pickled weights; the model needs transformers, which is not installed; the hub cannot be
            reached or has no such model.
        DamagedFileError: a shipped weight file has the wrong checksum.
    """
    device = known_device(device)
    pipe = _open(name_or_path)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def known_device(device: str) -> "torch.device":
    """The torch device of this name. Raises ValueError for a name that torch does not know."""
    import torch

    try:
        return torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device={device!r:.60} is no device: use 'cpu', 'cuda' or 'cuda:0'") from error


def _open(name_or_path: str | Path) -> "DiffusionPipeline":
    """The pipeline of an embedded name, a folder, or a hub name."""
    if isinstance(name_or_path, str) and name_or_path in embedded_names():
        return _from_folder(embedded_folder(name_or_path))
    if is_folder(name_or_path):
        folder = Path(name_or_path)
        return _from_folder(embedded_folder(folder.resolve().name) if is_embedded(folder) else folder)
    if isinstance(name_or_path, str) and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name_or_path):
        return _from_hub(name_or_path)
    names = ", ".join([*embedded_names(), *HUB])
    raise ValueError(
        f"name_or_path={str(name_or_path)!r:.200} is no model: give one of {names}, another "
        "hub name owner/name, or an existing folder"
    )


def is_folder(path: str | Path) -> bool:
    """Whether a path is an existing folder; a path that the system cannot have is none."""
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):  # too long, or with a null character
        return False


def _from_folder(folder: Path) -> "DiffusionPipeline":
    """A diffusers pipeline in a local folder, quantized or not."""
    kinds = read_index(folder)
    refuse_code(folder)
    from diffusers import DiffusionPipeline

    from .components import check_component, check_loaded, reads_all, text_network

    for name, kind in kinds.items():
        check_component(folder, name, kind)
    _refuse_pickled(folder)
    with in_words(f"name_or_path={str(folder)!r}"):
        given = {name: text_network(kind, folder / name) for name, kind in kinds.items() if reads_all(kind)}
        pipe = DiffusionPipeline.from_pretrained(folder, use_safetensors=True, local_files_only=True, **given)
        for name in kinds:
            check_loaded(folder / name, pipe.components[name], reader_of(name, pipe))
    return in_single_precision(pipe)


def reader_of(name: str, pipe: "DiffusionPipeline") -> object:
    """The text encoder that reads the words of the tokenizer ``name``; None if there is none."""
    return pipe.components.get(name.replace("tokenizer", "text_encoder"))


@contextmanager
def in_words(what: str) -> Iterator[None]:
    """Turn the errors of diffusers, transformers and torch into ValueError. Errors of the system stay.

    These libraries raise many kinds of errors for damaged files: KeyError, RuntimeError, AttributeError...
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        ours = isinstance(error, ValueError) and not is_of_a_dependency(error)
        if ours or (isinstance(error, OSError) and error.errno is not None):
            raise
        fix = INSTALL if is_import_failure(error) else COPY
        raise ValueError(f"{what} cannot be loaded ({reason(error)}): {fix}") from error


def in_single_precision(pipe: "DiffusionPipeline") -> "DiffusionPipeline":
    """Cast all networks of the pipeline to float32, in place, and return the pipeline.

    Without this, a text encoder keeps the precision of its file. Each network is cast on its own, for two
    reasons: ``pipe.to(dtype)`` warns, and the option that sets the precision at loading has different names
    in different versions of diffusers.
    """
    from torch import nn

    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            part.float()
    return pipe


def _refuse_pickled(folder: Path) -> None:
    """Raise ValueError if a part of the pipeline has pickled weights and no safetensors file."""
    for part in [folder, *(path for path in sorted(folder.iterdir()) if path.is_dir())]:
        pickled = sorted(path.name for path in part.iterdir() if path.suffix in PICKLED)
        if pickled and not any(part.glob("*.safetensors")):
            raise ValueError(
                f"name_or_path={str(folder)!r}: {part.name}/{pickled[0]} is pickled, and loading it could "
                "run code: convert it with save_pretrained(..., safe_serialization=True) where you trust it"
            )


def _hub_problem(name: str) -> Exception | None:
    """Ask the hub for a model. Returns why it cannot be loaded from there, or None if the hub has it.

    The question ends after ``HUB_SECONDS``: without it, diffusers waits for an answer without a limit.
    """
    from huggingface_hub import HfApi

    try:
        _unless_silent(lambda: HfApi().model_info(name, timeout=2 * HUB_SECONDS))
    except Exception as error:
        return error
    return None


def _unless_silent(ask: Callable[[], T], grows: Path | None = None) -> T:
    """What ``ask()`` returns. It runs in a thread, as a time limit of a request begins anew at each address.

    grows: a folder to which it writes; None: none. Raises TimeoutError after ``HUB_SECONDS`` without an
    answer in which the files of the folder did not change.
    """
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(ask())
        except Exception as error:
            done.set_exception(error)

    Thread(target=run, daemon=True).start()
    before = None
    while not done.done():
        now = _sizes(grows)
        if now == before:
            raise TimeoutError(f"the hub did not answer within {HUB_SECONDS} seconds")
        before = now
        wait([done], HUB_SECONDS)
    return done.result()


def _sizes(folder: Path | None) -> list[tuple[str, int]]:
    """The names and sizes of all files in a folder."""
    found = []
    for path in sorted(folder.rglob("*")) if folder else ():
        with suppress(OSError):  # a temporary file that is gone
            found.append((path.name, path.stat().st_size))
    return found


def _from_hub(name: str) -> "DiffusionPipeline":
    """A pipeline of the hub, from the local cache or the network."""
    from diffusers import DiffusionPipeline
    from huggingface_hub import constants, hf_hub_download

    problem, cache = _hub_problem(name), Path(constants.HF_HUB_CACHE)
    options = dict(local_files_only=problem is not None)
    try:
        index = _unless_silent(lambda: hf_hub_download(name, INDEX, **options), cache)
    except Exception as error:  # also those of the client of HTTP
        raise ValueError(_no_hub(name, problem or error)) from error
    read_index(Path(index).parent)  # before diffusers reads it
    try:
        options["use_safetensors"] = True
        folder = _unless_silent(lambda: DiffusionPipeline.download(name, **options), cache)
    except Exception as error:
        raise ValueError(_no_hub(name, problem or error)) from error
    return _from_folder(Path(folder))


def _no_hub(name: str, error: Exception) -> str:
    """What to do about a name that cannot be loaded from the hub."""
    return (
        f"name_or_path={name!r} is no local folder and cannot be loaded from the hub, which needs the "
        "network and weights in safetensors: check name and network, or call save_pretrained where there "
        f"is a network and give the path of the folder that it wrote. The reason: {reason(error)}"
    )
