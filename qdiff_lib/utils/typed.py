"""The check of an argument that must be an object of a class. This module needs no torch."""

from typing import Any


def check_type(name: str, value: Any, kind: Any, example: str) -> None:
    """Raise TypeError unless ``value`` is of ``kind``, a class or a union; the message gives ``example``."""
    if not isinstance(value, kind):
        text = repr(value)
        shown = f"={text}" if len(text) <= 80 and "\n" not in text else ""  # not the layers of a network
        raise TypeError(f"{name}{shown} is a {type(value).__name__}: give {example}")
