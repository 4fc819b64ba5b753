"""One hash that identifies tensors and settings together."""

import hashlib
import json
from collections.abc import Mapping

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
