"""The check of an argument that must be an object of a class. This module needs no torch."""

from typing import Any


def check_type(name: str, value: Any, kind: Any, example: str) -> None:
    """Raise TypeError unless ``value`` is of ``kind``, a class or a union; the message gives ``example``."""
    if not isinstance(value, kind):
        raise TypeError(f"{name}={value!r:.80} is a {type(value).__name__}: give {example}")
