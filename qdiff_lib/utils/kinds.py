"""What a setting may hold: how each kind of value is checked, and read from the command line.

    @dataclass(frozen=True)
    class Oven(Checked):
        heat: float = setting(180.0, Number(0, 300), "Degrees Celsius.")

``Oven(heat=400)`` raises ValueError: heat=400 must be a finite number from 0 to 300. No torch is needed here.
"""

import math
from dataclasses import dataclass, field, fields
from typing import Any


class Kind:
    """One kind of value. ``allowed`` says what it is, in words that end the sentence "it must be ..."."""

    allowed: str

    @property
    def typed(self) -> str:
        """``allowed``, for those who type it on a command line."""
        return self.allowed

    def has_type(self, value: Any) -> bool:
        """Whether the value's type is right."""
        return True

    def accepts(self, value: Any) -> bool:
        """Whether a value of the right type is allowed."""
        return True

    def stored(self, value: Any) -> Any:
        """The form in which an allowed value is kept."""
        return value

    def read(self, text: str) -> Any:
        """The value that a command line's word means. Raises ValueError."""
        return text

    def checked(self, name: str, value: Any) -> Any:
        """The value as it is kept; NumPy's scalars become Python's.

        Raises TypeError for a wrong type and ValueError for a wrong value; both name the setting, the value
        and what is allowed.
        """
        found = plain(value)
        wrong = f"{name}={value!r} must be {self.allowed}"
        if not self.has_type(found):
            raise TypeError(wrong)
        if not self.accepts(found):
            raise ValueError(wrong)
        return self.stored(found)


def plain(value: Any) -> Any:
    """NumPy's scalars as Python's, lists as tuples, also inside of them; everything else as it is."""
    if isinstance(value, list | tuple):
        return tuple(plain(each) for each in value)
    return value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value


def bounds(low: float | None, high: float | None) -> str:
    """In words, with a leading space; nothing for no bounds."""
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
    """A finite number from ``low`` to ``high``, both included; above ``low`` where ``zero`` is False."""

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
    """One of some names or numbers; their type counts too."""

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
    """A value of a class."""

    of: type

    @property
    def allowed(self) -> str:
        return f"a {self.of.__name__}"

    def has_type(self, value: Any) -> bool:
        return isinstance(value, self.of)


@dataclass(frozen=True)
class Patterns(Kind):
    """A tuple of shell patterns; a list is taken as one."""

    allowed = "a tuple of patterns, such as ('mid_block.*',), not one string"

    def has_type(self, value: Any) -> bool:
        return isinstance(value, tuple) and all(isinstance(each, str) for each in value)


@dataclass(frozen=True)
class Pair(Kind):
    """Two values of one kind; a list is taken as one."""

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
    """A value of a kind, or None; ``word`` means None on the command line."""

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
    """A field of a ``Checked`` dataclass; ``text`` says what it does, also in the command line's help."""
    return field(default=default, metadata={"kind": kind, "text": text})


class Checked:
    """What a frozen dataclass inherits whose fields are all made by ``setting``: they are checked at once."""

    def __post_init__(self):
        for each in fields(self):
            kind = each.metadata["kind"]
            object.__setattr__(self, each.name, kind.checked(each.name, getattr(self, each.name)))
