"""Types of command-line arguments: each turns a text into a value, or says what is allowed."""

import argparse
import re
from collections.abc import Callable
from pathlib import Path

BITS = (2, 3, 4, 5, 6, 7, 8, 16, 32)


def integer(low: int, high: int | None = None) -> Callable[[str], int]:
    """An argument type: an integer from ``low`` to ``high``."""
    allowed = f"an integer of at least {low}" if high is None else f"an integer from {low} to {high}"

    def parse(value: str) -> int:
        number = int(value) if value.removeprefix("-").isdecimal() else None
        if number is None or number < low or (high is not None and number > high):
            raise argparse.ArgumentTypeError(f"{value!r} is not allowed; use {allowed}")
        return number

    return parse


def number(low: float, high: float | None = None) -> Callable[[str], float]:
    """An argument type: a decimal number from ``low`` to ``high``."""
    allowed = f"a number of at least {low}" if high is None else f"a number from {low} to {high}"

    def parse(value: str) -> float:
        known = re.fullmatch(r"-?\d+(\.\d+)?", value)
        if not known or float(value) < low or (high is not None and float(value) > high):
            raise argparse.ArgumentTypeError(f"{value!r} is not allowed; use {allowed}")
        return float(value)

    return parse


def gigabytes(value: str) -> float:
    """An argument type: a positive number of 2^30 bytes."""
    if not re.fullmatch(r"\d+(\.\d+)?", value) or float(value) == 0:
        raise argparse.ArgumentTypeError(f"{value!r} is not allowed; use a positive number such as 4 or 0.5")
    return float(value)


def bits(value: str) -> int:
    """An argument type: a width in bits; 32 is floating point."""
    if value not in map(str, BITS):
        raise argparse.ArgumentTypeError(f"{value!r} is not allowed; use 2 to 8, 16, or 32 (floating point)")
    return int(value)


def device_name(value: str) -> str:
    """An argument type: the name of a device, which may still be absent here."""
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value):
        raise argparse.ArgumentTypeError(f"{value!r} is not allowed; use auto, cpu, cuda, cuda:0 or mps")
    return value


def folder(value: str) -> Path:
    """An argument type: the path of a folder to write to; it may exist."""
    if not value or (Path(value).exists() and not Path(value).is_dir()):
        raise argparse.ArgumentTypeError(f"{value!r} is not a folder; name a new one")
    return Path(value)


def file_named(suffix: str) -> Callable[[str], Path]:
    """An argument type: the path of a file to write, with this suffix."""

    def parse(value: str) -> Path:
        if Path(value).suffix.lower() != suffix or Path(value).is_dir():
            raise argparse.ArgumentTypeError(f"{value!r} is not allowed; name a file that ends in {suffix}")
        return Path(value)

    return parse
