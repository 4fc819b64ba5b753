"""Tensors in a file that holds its own hash. Loading refuses a file that is cut short or has a wrong bit."""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .files import atomic_path
from .hashing import tensors_hash


def save_sealed(path: str | Path, tensors: Mapping[str, Tensor], about: dict) -> None:
    """Write tensors and a JSON object about them to one safetensors file, atomically.

    Raises:
        TypeError: JSON cannot express a part of ``about``.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    metadata = {"about": json.dumps(about), "sha256": tensors_hash(tensors, about)}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata)


def load_sealed(path: str | Path, cure: str = "write it again") -> tuple[dict[str, Tensor], dict]:
    """Read what ``save_sealed`` wrote: the tensors, bit for bit, and ``about``.

    The tensors are copies in memory: the file can change later.

    Args:
        cure: how to repair a damaged file. The error message ends with it.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is damaged. The message names it.
    """
    Path(path).stat()
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
        about, expected = json.loads(metadata["about"]), metadata["sha256"]
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error or type(error).__name__}): {cure}") from error
    if tensors_hash(tensors, about) != expected:
        raise ValueError(f"{path} is damaged (its sha256 is not the recorded one): {cure}")
    return tensors, about
