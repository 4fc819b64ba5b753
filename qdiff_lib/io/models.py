"""Loading any model by one name or path: embedded models, local folders, quantized checkpoints, the hub."""

import re
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from ..utils.files import read_json
from .shipped_data import embedded_folder, embedded_names

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

HUB = ("google/ddpm-cifar10-32", "CompVis/ldm-celebahq-256", "CompVis/stable-diffusion-v1-4")
HUB_SECONDS = 10  # longest wait for the hub to say whether it has a model
VOCABULARIES = ("tokenizer.json", "vocab.*", "*.model")  # a tokenizer needs one of these files
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")  # weights whose loading can run code
COPY = "copy the whole pipeline, as save_pretrained writes it"


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
    pipe = _open(name_or_path)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def _open(name_or_path: str | Path) -> "DiffusionPipeline":
    """The pipeline of an embedded name, a folder, or a hub name."""
    if name_or_path in embedded_names():
        return _from_folder(embedded_folder(name_or_path))
    if Path(name_or_path).is_dir():
        return _from_folder(Path(name_or_path))
    if isinstance(name_or_path, str) and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name_or_path):
        return _from_hub(name_or_path)
    names = ", ".join([*embedded_names(), *HUB])
    raise ValueError(
        f"name_or_path={str(name_or_path)!r} is no model: give one of {names}, another "
        "hub name owner/name, or an existing folder"
    )


def _from_folder(folder: Path) -> "DiffusionPipeline":
    """A diffusers pipeline in a local folder, quantized or not."""
    _check_components(folder)
    if not (folder / "model_index.json").is_file():
        raise ValueError(
            f"name_or_path={str(folder)!r} has no model_index.json: give a folder that save_pretrained of a "
            "diffusers pipeline or save_quantized wrote"
        )
    _refuse_pickled(folder)
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(folder, use_safetensors=True, local_files_only=True)
    return in_single_precision(pipe)


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


def _check_components(folder: Path) -> None:
    """Raise ValueError if ``model_index.json`` or a component that it names cannot be loaded."""
    if not (folder / "model_index.json").is_file():
        return
    import diffusers

    parts = read_json(folder / "model_index.json")
    pipeline = parts.get("_class_name")
    if not isinstance(pipeline, str) or not hasattr(diffusers, pipeline):
        raise ValueError(
            f"name_or_path={str(folder)!r}: model_index.json has _class_name={pipeline!r}, which is no class "
            f"of diffusers {diffusers.__version__}: give a pipeline of diffusers' own, or upgrade diffusers"
        )
    for name, value in parts.items():
        library, kind = value if isinstance(value, list) and len(value) == 2 else (None, None)
        if library == "transformers" and find_spec("transformers") is None:
            raise ValueError(
                f"name_or_path={str(folder)!r}: its {name} needs transformers, which is not installed: "
                "run `python -m pip install transformers`"
            )
        if library is not None:
            _check_component(folder, name, kind)


def _check_component(folder: Path, name: str, kind: str) -> None:
    """Raise ValueError if files of a component are missing or damaged. No weights are read."""
    from safetensors import SafetensorError, safe_open

    needed = VOCABULARIES if "Tokenizer" in kind else ("*.json",)
    if not any(path for pattern in needed for path in (folder / name).glob(pattern)):
        raise ValueError(
            f"name_or_path={str(folder)!r} lacks its {name}: model_index.json names a {kind}, but there is "
            f"no {name}/{' or '.join(needed)}; {COPY}"
        )
    for path in (folder / name).glob("*.json"):
        read_json(path)
    for path in (folder / name).glob("*.safetensors"):
        try:
            with safe_open(path, "pt"):
                pass
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged ({error}): {COPY}") from error


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

    answers: list[Exception | None] = []

    def ask() -> None:
        try:
            HfApi().model_info(name, timeout=HUB_SECONDS)
            answers.append(None)
        except Exception as error:
            answers.append(error)

    thread = Thread(target=ask, daemon=True)  # a time limit of the request alone begins anew at each address
    thread.start()
    thread.join(HUB_SECONDS)
    return answers[0] if answers else TimeoutError(f"the hub did not answer within {HUB_SECONDS} seconds")


def _from_hub(name: str) -> "DiffusionPipeline":
    """A pipeline of the hub, from the local cache or the network."""
    from diffusers import DiffusionPipeline

    problem = _hub_problem(name)
    options = dict(use_safetensors=True, local_files_only=problem is not None)
    try:
        return in_single_precision(DiffusionPipeline.from_pretrained(name, **options))
    except (OSError, ValueError) as error:
        reason = " ".join(str(problem or error).split())[:200]
        raise ValueError(
            f"name_or_path={name!r} is no local folder and cannot be loaded from the hub, which needs the "
            "network and weights in safetensors: check name and network, or call save_pretrained where there "
            f"is a network and give the path of the folder that it wrote. The reason: {reason}"
        ) from error
