"""Command-line arguments for the fields of a recipe, made from what ``recipe_parts`` says of each field."""

import argparse
from collections.abc import Sequence
from dataclasses import Field, fields

from ..recipes.recipe import PART_OF, PARTS
from ..utils.kinds import Flag, Kind, Maybe, Number, Pair, Patterns, Whole
from .argument_types import argument

METAVARS = {Whole: "N", Number: "X"}


def add_fields(parser: argparse.ArgumentParser, without: Sequence[str] = ()) -> None:
    """Give ``parser`` an option for each field, in a group for each part; ``without``: names to leave out."""
    for name, part in PARTS.items():
        about = " ".join(part.__doc__.replace("`", "").split())
        group = parser.add_argument_group(name.replace("_", " "), about)
        for field in fields(part):
            if field.name not in without:
                add_field(group, field)


def add_field(group, field: Field) -> None:
    """Add the option of one field; what is not given is absent from the parsed arguments."""
    text = field.metadata["text"].replace("%", "%%")
    form = form_of(field.metadata["kind"])
    flag = "--" + field.name.replace("_", "-")
    group.add_argument(flag, dest=field.name, default=argparse.SUPPRESS, help=text, **form)


def form_of(kind: Kind) -> dict:
    """How argparse reads a value of this kind."""
    if isinstance(kind, Flag):
        return {"action": argparse.BooleanOptionalAction}
    if isinstance(kind, Patterns):
        return {"nargs": "*", "metavar": "PATTERN"}
    if isinstance(kind, Pair):
        return {"nargs": 2, "type": argument(kind.each), "metavar": ("FROM", "TO")}
    inner = kind.kind if isinstance(kind, Maybe) else kind
    return {"type": argument(kind), "metavar": METAVARS.get(type(inner), "VALUE")}


def given_fields(args: argparse.Namespace) -> dict:
    """The fields of a recipe that were given on the command line, as ``Recipe.replace`` takes them."""
    return {name: getattr(args, name) for name in PART_OF if hasattr(args, name)}
