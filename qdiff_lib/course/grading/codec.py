"""Values as bytes, between the grader and the process that runs answers: data only, no code, with limits.

A frame is a header of 8 bytes (the lengths of both parts), a part of JSON, and the raw bytes of the tensors.
"""

import importlib
import json
import re
import struct
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..plain import Other

HEADER = struct.Struct(">II")
MOST_TEXT = 2**23  # bytes of the JSON part
MOST_RAW = 2**26  # bytes of all tensors of a frame
MOST_ITEMS = 2**20  # values of a frame
MOST_OTHERS = 100  # each becomes a class
MOST_KEYS = 4096  # of a dictionary: keys can be made to collide, and then each one costs more than the last
DEEPEST = 20  # levels of nesting
LONGEST = 10_000  # characters of a text
LARGEST_INT = 2**1000  # fits into a float
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
    + (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128)
}


class Refused(ValueError):
    """A value or a frame that breaks a limit, or is not of this format."""


@dataclass
class Encoder:
    """Collects the bytes of tensors while values become JSON.

    trusted: whether the other side trusts this one: named tuples keep their names, texts their length.
    """

    trusted: bool = True
    raw: bytearray = field(default_factory=bytearray)

    def node(self, value: object, depth: int = 0) -> object:
        """The JSON for a value. Raises Refused for a value that is no data, or too large."""
        if depth > DEEPEST:
            raise Refused(f"values nested more than {DEEPEST} times")
        if value is None or type(value) in (bool, int, float, str):
            return bounded(value, cut=not self.trusted)
        if isinstance(value, list):
            return [self.node(item, depth + 1) for item in value]
        if isinstance(value, Tensor):
            return self.tensor(value)
        if isinstance(value, torch.Generator):
            return {"generator": self.node(value.get_state())}
        if isinstance(value, Other):
            return {"other": value.kind[:LONGEST]}
        if isinstance(value, torch.dtype):
            return {"dtype": str(value).removeprefix("torch.")}
        return self.container(value, depth)

    def container(self, value: object, depth: int) -> dict:
        """The JSON for tuples, dictionaries, bytes, and functions and classes of this library by name."""
        if isinstance(value, tuple):
            items = [self.node(item, depth + 1) for item in value]
            if self.trusted and hasattr(value, "_fields") and type(value).__module__.startswith("qdiff_lib."):
                return {"named": place(type(value)), "items": items}
            return {"tuple": items}
        if isinstance(value, dict):
            pairs = value.items()
            return {"dict": [[self.node(k, depth + 1), self.node(v, depth + 1)] for k, v in pairs]}
        if isinstance(value, bytes):
            return {"bytes": self.add(value)}
        if callable(value) and str(getattr(value, "__module__", "")).startswith("qdiff_lib."):
            return {"course": place(value)}
        raise Refused(f"{type(value).__name__} is no data")

    def tensor(self, value: Tensor) -> dict:
        """The JSON for a tensor: its type, its shape, and where its bytes are."""
        name = str(value.dtype).removeprefix("torch.")
        if name not in DTYPES or value.numel() * value.element_size() > MOST_RAW:
            raise Refused(
                f"a tensor of {name} with shape {tuple(value.shape)} is too large, or of no usual type"
            )
        flat = value.detach().cpu().contiguous().flatten()
        at = self.add(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
        return {"tensor": name, "shape": list(value.shape), "at": at, "grad": value.requires_grad}

    def add(self, data: bytes) -> list[int]:
        """Keep bytes; returns their place."""
        if len(self.raw) + len(data) > MOST_RAW:
            raise Refused(f"more than {MOST_RAW:,} bytes")
        self.raw += data
        return [len(self.raw) - len(data), len(data)]


def bounded(value: object, cut: bool) -> object:
    """A number or text within the limits; ``cut`` shortens texts. Raises Refused for too large a number."""
    if type(value) is int and not -LARGEST_INT < value < LARGEST_INT:
        raise Refused("a whole number of more than 1000 bits")
    return value[:LONGEST] if cut and type(value) is str else value


def place(thing: object) -> str:
    """The place "module:name" of a function or class of this library. Raises Refused for an inner one."""
    name = getattr(thing, "__qualname__", "")
    if "." in name or not name:
        raise Refused(f"{thing!r} is not defined at the top of a module")
    return f"{thing.__module__}:{name}"


def encode(value: object, trusted: bool = True) -> bytes:
    """A frame with one value. trusted: whether the other side trusts this one; see ``Encoder``.

    Raises Refused for a value that is no data, or breaks a limit.
    """
    encoder = Encoder(trusted)
    text = json.dumps(encoder.node(value)).encode()
    if len(text) > MOST_TEXT:
        raise Refused(f"more than {MOST_TEXT:,} bytes of text")
    return HEADER.pack(len(text), len(encoder.raw)) + text + encoder.raw


def to_table(rows: list[tuple]) -> Tensor | None:
    """Rows of whole numbers, or of floats, as a tensor, which is small and fast; None for other rows."""
    kinds = {type(value) for row in rows for value in row}
    if len({len(row) for row in rows}) != 1 or kinds not in ({int}, {float}):
        return None
    if kinds == {int} and not all(-(2**63) <= value < 2**63 for row in rows for value in row):
        return None
    return torch.tensor(rows, dtype=torch.int64 if kinds == {int} else torch.float64)


def frame_size(header: bytes) -> int:
    """Bytes of the frame after its header. Raises Refused if that is more than the limits."""
    text, raw = HEADER.unpack(header)
    if text > MOST_TEXT or raw > MOST_RAW:
        raise Refused(f"a frame of {text:,} + {raw:,} bytes")
    return text + raw


@dataclass
class Decoder:
    """Makes values of JSON. trusted: whether names of the library may be looked up, and generators made."""

    raw: bytes
    trusted: bool
    items: int = 0
    others: int = 0

    def value(self, node: object, depth: int = 0) -> object:
        """The value of a node. Raises Refused for everything that ``Encoder`` does not write."""
        self.items += 1
        if depth > DEEPEST or self.items > MOST_ITEMS:
            raise Refused("too many values, or nested too deeply")
        if node is None or type(node) in (bool, int, float, str):
            return bounded(node, cut=not self.trusted)
        if type(node) is list:
            return [self.value(item, depth + 1) for item in node]
        kind = next(iter(node), None)
        if "tensor" in node:
            return self.tensor(node)
        if kind == "tuple":
            return tuple(self.value(listed(node, "tuple"), depth))
        if kind == "dict":
            return self.dictionary(listed(node, "dict"), depth)
        if kind == "bytes":
            return self.part(node["bytes"])
        if kind == "other":
            self.others += 1
            if self.others > MOST_OTHERS:
                raise Refused(f"more than {MOST_OTHERS} objects that are no data")
            return type(re.sub(r"\W", "_", str(node["other"])[:100]), (), {})()  # an object of that name
        return self.special(kind, node, depth)

    def special(self, kind: object, node: dict, depth: int) -> object:
        """Generators, types and names. Only the state of a generator is read from an untrusted side."""
        if kind == "generator":
            state = self.value(node["generator"], depth + 1)
            generator = torch.Generator()
            generator.set_state(state)
            return generator
        if kind == "dtype" and node["dtype"] in DTYPES:
            return DTYPES[node["dtype"]]
        if not self.trusted or kind not in ("named", "course"):
            raise Refused(f"an unknown kind of value, {str(kind)[:40]!r}")
        module, _, name = node[kind].partition(":")
        found = getattr(importlib.import_module(module), name)
        return found(*self.value(node["items"], depth + 1)) if kind == "named" else found

    def dictionary(self, pairs: list, depth: int) -> dict:
        """A dictionary whose keys are numbers, texts, or None."""
        if len(pairs) > MOST_KEYS:
            raise Refused(f"a dictionary of more than {MOST_KEYS:,} keys")
        found = {}
        for pair in pairs:
            key, item = self.value(listed({"pair": pair}, "pair"), depth)
            if not isinstance(key, int | float | str | None):
                raise Refused(f"a key of type {type(key).__name__}")
            found[key] = item
        return found

    def tensor(self, node: dict) -> Tensor:
        """A new tensor; its bytes must fit its type and shape exactly."""
        dtype, shape = DTYPES.get(str(node["tensor"])), listed(node, "shape")
        if dtype is None or len(shape) > 16:
            raise Refused("a tensor of an unknown type, or of too many axes")
        if not all(type(size) is int and 0 <= size <= MOST_RAW for size in shape):
            raise Refused("a tensor of an impossible shape")
        count = 1
        for size in shape:
            count *= size
        data = self.part(node["at"])
        stored = torch.uint8 if dtype is torch.bool else dtype
        if len(data) != count * stored.itemsize:
            raise Refused("a tensor whose bytes do not fit its shape")
        flat = torch.frombuffer(bytearray(data), dtype=stored) if data else torch.empty(0, dtype=stored)
        found = (flat != 0 if dtype is torch.bool else flat).reshape(shape)
        return found.requires_grad_(self.trusted and node.get("grad") is True)

    def part(self, at: object) -> bytes:
        """Bytes of the raw part."""
        if type(at) is not list or len(at) != 2 or not all(type(number) is int for number in at):
            raise Refused("no place of bytes")
        start, size = at
        if start < 0 or size < 0 or start + size > len(self.raw):
            raise Refused("a place outside of the frame")
        return bytes(self.raw[start : start + size])


def listed(node: dict, key: str) -> list:
    """A list in a node. Raises Refused for anything else."""
    if type(node[key]) is not list:
        raise Refused(f"{key} holds no list")
    return node[key]


def decode(header: bytes, body: bytes, trusted: bool = False) -> object:
    """The value of a frame.

    trusted: True where the frame comes from the grader; only then names of the library are looked up. Raises
    Refused for whatever is not of this format.
    """
    text, _ = HEADER.unpack(header)
    try:
        node = json.loads(body[:text].decode())
        return Decoder(body[text:], trusted).value(node)
    except Refused:
        raise
    except (ValueError, TypeError, KeyError, RuntimeError, RecursionError, MemoryError) as error:
        raise Refused(f"not of the format: {type(error).__name__}") from None
