"""What identifies tensors and settings: one hash of them all."""

import hashlib
import json
from collections.abc import Mapping

import torch
from torch import Tensor


def tensors_hash(tensors: Mapping[str, Tensor], settings: object = None) -> str:
    """SHA-256, 64 hexadecimal digits, of JSON settings and of tensors: names, types, shapes and bytes.

    The order of a dictionary does not count, nor do the strides, the device or the gradients of a tensor.

    Raises:
        TypeError: ``settings`` holds something that JSON has no form for.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"\n{json.dumps([name, str(value.dtype), *value.shape])}\n".encode())
        digest.update(value.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
