"""Kinds of values that a setting can hold: how each is checked, and how the command line reads it.

    @dataclass(frozen=True)
    class Oven(Checked):
        heat: float = setting(180.0, Number(0, 300), "Degrees Celsius.")

``Oven(heat=400)`` raises ValueError: heat=400 must be a finite number from 0 to 300. This module needs no
torch.
"""

import math
from dataclasses import dataclass, field, fields
from typing import Any


class Kind:
    """One kind of value. ``allowed`` describes it in words that end the sentence "it must be ..."."""

    allowed: str

    @property
    def typed(self) -> str:
        """``allowed`` in the words of the command line."""
        return self.allowed

    def has_type(self, value: Any) -> bool:
        """Return whether the value has the right type."""
        return True

    def accepts(self, value: Any) -> bool:
        """Return whether a value of the right type is allowed."""
        return True

    def stored(self, value: Any) -> Any:
        """Return an allowed value in the form in which the setting keeps it."""
        return value

    def read(self, text: str) -> Any:
        """Return the value of a command-line word. Raises ValueError if the word has none."""
        return text

    def checked(self, name: str, value: Any) -> Any:
        """Check a value and return it in the form that is kept. NumPy scalars become Python numbers.

        Raises TypeError for a wrong type and ValueError for a wrong value. Both messages name the setting,
        the value and what is allowed.
        """
        found = plain(value)
        wrong = f"{name}={value!r} must be {self.allowed}"
        if not self.has_type(found):
            raise TypeError(wrong)
        if not self.accepts(found):
            raise ValueError(wrong)
        return self.stored(found)


def plain(value: Any) -> Any:
    """Turn NumPy scalars into Python numbers and lists into tuples, at all depths. Other values stay."""
    if isinstance(value, list | tuple):
        return tuple(plain(each) for each in value)
    return value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value


def bounds(low: float | None, high: float | None) -> str:
    """Describe the bounds in words with a leading space. Return "" where there are none."""
    if low is None:
        return ""
    return f" of at least {low}" if high is None else f" from {low} to {high}"


@dataclass(frozen=True)
class Whole(Kind):
    """An integer from ``low`` to ``high``, both included."""

    low: int
    high: int | None = None

    @property
    def allowed(self) -> str:
        return "an integer" + bounds(self.low, self.high)

    def has_type(self, value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool)

    def accepts(self, value: int) -> bool:
        return self.low <= value and (self.high is None or value <= self.high)

    def read(self, text: str) -> int:
        if not text.removeprefix("-").isdecimal():
            raise ValueError(text)
        return int(text)


@dataclass(frozen=True)
class Number(Kind):
    """A finite number from ``low`` to ``high``, both included. ``zero=False`` excludes ``low`` itself."""

    low: float | None = None
    high: float | None = None
    zero: bool = True

    @property
    def allowed(self) -> str:
        return "a number that is finite" if self.low is None else "a number" + self.bounds()

    def bounds(self) -> str:
        return bounds(self.low, self.high) if self.zero else f" above {self.low}"

    def has_type(self, value: Any) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool)

    def accepts(self, value: float) -> bool:
        if not math.isfinite(value) or (value == self.low and not self.zero):
            return False
        return (self.low is None or self.low <= value) and (self.high is None or value <= self.high)

    def stored(self, value: float) -> float:
        return float(value)

    def read(self, text: str) -> float:
        return float(text)


@dataclass(frozen=True)
class Flag(Kind):
    """True or False."""

    allowed = "True or False"

    def has_type(self, value: Any) -> bool:
        return isinstance(value, bool)


@dataclass(frozen=True)
class OneOf(Kind):
    """One of several names or numbers. The type must match too: 8.0 is not 8."""

    choices: tuple

    @property
    def allowed(self) -> str:
        return "one of " + ", ".join(map(repr, self.choices))

    def accepts(self, value: Any) -> bool:
        return any(type(value) is type(choice) and value == choice for choice in self.choices)

    def read(self, text: str) -> Any:
        return {str(choice): choice for choice in self.choices}.get(text, text)


@dataclass(frozen=True)
class Text(Kind):
    """A string that is not empty."""

    allowed = "a string that is not empty"

    def has_type(self, value: Any) -> bool:
        return isinstance(value, str)

    def accepts(self, value: str) -> bool:
        return bool(value)


@dataclass(frozen=True)
class Instance(Kind):
    """An instance of one class."""

    of: type

    @property
    def allowed(self) -> str:
        return f"a {self.of.__name__}"

    def has_type(self, value: Any) -> bool:
        return isinstance(value, self.of)


@dataclass(frozen=True)
class Patterns(Kind):
    """A tuple of shell patterns. A list becomes a tuple."""

    allowed = "a tuple of patterns, such as ('mid_block.*',), not one string"

    def has_type(self, value: Any) -> bool:
        return isinstance(value, tuple) and all(isinstance(each, str) for each in value)


@dataclass(frozen=True)
class Pair(Kind):
    """Two values of one kind. A list becomes a tuple."""

    each: Kind

    @property
    def allowed(self) -> str:
        return f"a pair, each {self.each.allowed}"

    def has_type(self, value: Any) -> bool:
        return isinstance(value, tuple) and all(self.each.has_type(one) for one in value)

    def accepts(self, value: tuple) -> bool:
        return len(value) == 2 and all(self.each.accepts(one) for one in value)

    def stored(self, value: tuple) -> tuple:
        return tuple(self.each.stored(one) for one in value)


@dataclass(frozen=True)
class Maybe(Kind):
    """A value of one kind, or None. On the command line ``word`` means None."""

    kind: Kind
    word: str = "none"

    @property
    def allowed(self) -> str:
        return f"{self.kind.allowed}, or None"

    @property
    def typed(self) -> str:
        return f"{self.kind.allowed}, or {self.word}"

    def has_type(self, value: Any) -> bool:
        return value is None or self.kind.has_type(value)

    def accepts(self, value: Any) -> bool:
        return value is None or self.kind.accepts(value)

    def stored(self, value: Any) -> Any:
        return None if value is None else self.kind.stored(value)

    def read(self, text: str) -> Any:
        return None if text == self.word else self.kind.read(text)


def setting(default: Any, kind: Kind, text: str) -> Any:
    """Make a field of a ``Checked`` dataclass. ``text`` explains it, and is its help on the command line."""
    return field(default=default, metadata={"kind": kind, "text": text})


class Checked:
    """Base class of frozen dataclasses whose fields all come from ``setting``: it checks their values."""

    def __post_init__(self):
        for each in fields(self):
            kind = each.metadata["kind"]
            object.__setattr__(self, each.name, kind.checked(each.name, getattr(self, each.name)))
