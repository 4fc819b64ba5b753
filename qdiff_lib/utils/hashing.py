"""Hashes that identify tensors and settings together, and source code."""

import ast
import hashlib
import json
from collections.abc import Iterable, Mapping
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


def sources_hash(files: Iterable[Path]) -> str:
    """Return the SHA-256 of Python files, in their order, as 64 hexadecimal digits.

    Statements count. Names of files, comments, layout and docstrings do not.

    Raises:
        OSError: a file cannot be read.
        SyntaxError: a file is no Python.
    """
    trees = [bare(ast.parse(path.read_text(encoding="utf-8"))) for path in files]
    return hashlib.sha256("\n".join(trees).encode()).hexdigest()


def bare(tree: ast.AST) -> str:
    """Return a syntax tree as text, without the texts that stand alone, which are docstrings."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [each for each in body if not is_text(each)]
    return ast.dump(tree)


def is_text(node: ast.AST) -> bool:
    """Return whether a statement is a text alone."""
    return (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and type(node.value.value) is str
    )
