"""Types of command-line arguments: functions that convert a text to a value.

For a text that is not allowed they raise ``argparse.ArgumentTypeError``, which says what is allowed.
"""

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..utils.constants import ALLOWED_BITS, FLOAT_BITS
from ..utils.kinds import Kind

BITS = (*ALLOWED_BITS, FLOAT_BITS)


def argument(kind: Kind) -> Callable[[str], Any]:
    """The argument type for values of this kind."""

    def parse(text: str) -> Any:
        try:
            return kind.checked("it", kind.read(text))
        except (ValueError, TypeError):
            raise argparse.ArgumentTypeError(f"{text!r} is not allowed; use {kind.typed}") from None

    return parse


def gigabytes(value: str) -> float:
    """An argument type: a positive number, in units of 2^30 bytes."""
    if not re.fullmatch(r"\d+(\.\d+)?", value) or float(value) == 0:
        raise argparse.ArgumentTypeError(f"{value!r} is not allowed; use a positive number such as 4 or 0.5")
    return float(value)


def bits(value: str) -> int:
    """An argument type: a number of bits; 32 is floating point."""
    if value not in map(str, BITS):
        raise argparse.ArgumentTypeError(f"{value!r} is not allowed; use 2 to 8, 16, or 32 (floating point)")
    return int(value)


def device_name(value: str) -> str:
    """An argument type: the name of a device. Whether this machine has the device is checked later."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        raise argparse.ArgumentTypeError(f"{value!r} is not allowed; use auto, cpu, cuda or cuda:0")
    return value


def folder(value: str) -> Path:
    """An argument type: the path of a folder to write to; it may exist."""
    if not value or (Path(value).exists() and not Path(value).is_dir()):
        raise argparse.ArgumentTypeError(f"{value!r} is not a folder; name a new one")
    return Path(value)


def file_named(suffix: str) -> Callable[[str], Path]:
    """The argument type for the path of a file to write; the path must end in ``suffix``."""

    def parse(value: str) -> Path:
        if Path(value).suffix.lower() != suffix or Path(value).is_dir():
            raise argparse.ArgumentTypeError(f"{value!r} is not allowed; name a file that ends in {suffix}")
        return Path(value)

    return parse
