"""Hashes that identify tensors and settings together, and source code."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor


def tensors_hash(tensors: Mapping[str, Tensor], settings: object = None) -> str:
    """Return the SHA-256 of tensors and settings as 64 hexadecimal digits.

    The hash covers the name, type, shape and bytes of each tensor. It does not depend on the order of a
    dictionary, nor on a tensor's strides, device or gradient.

    Args:
        settings: any value that JSON can express.

    Raises:
        TypeError: JSON cannot express a part of ``settings``.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"\n{json.dumps([name, str(value.dtype), *value.shape])}\n".encode())
        digest.update(value.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def sources_hash(folder: Path) -> str:
    """Return the SHA-256 of all Python files below a folder, with their names, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(f"\n{path.relative_to(folder).as_posix()}\n".encode() + path.read_bytes())
    return digest.hexdigest()
