"""Tensors in a file that knows its own hash: a file that was cut short, or has one wrong bit, is refused."""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .files import atomic_path
from .hashing import tensors_hash


def save_sealed(path: str | Path, tensors: Mapping[str, Tensor], about: dict) -> None:
    """Write tensors and a JSON object about them to one safetensors file, atomically."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    metadata = {"about": json.dumps(about), "sha256": tensors_hash(tensors, about)}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata)


def load_sealed(path: str | Path, cure: str = "write it again") -> tuple[dict[str, Tensor], dict]:
    """What ``save_sealed`` wrote, bit for bit, in memory of its own: the tensors, and what is about them.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged; the message names the file and ends with ``cure``.
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
