"""Command-line arguments for the fields of a recipe, made from the fields' metadata in ``recipes.parts``."""

import argparse
from collections.abc import Sequence
from dataclasses import Field, fields

from ..recipes.recipe import PART_OF, PARTS
from ..utils.kinds import Flag, Kind, Maybe, Number, Pair, Patterns, Whole
from .argument_types import argument

METAVARS = {Whole: "N", Number: "X"}


def add_fields(parser: argparse.ArgumentParser, without: Sequence[str] = ()) -> None:
    """Add to ``parser`` an option for each field of a recipe, with one group for each part.

    without: names of fields that get no option.
    """
    for name, part in PARTS.items():
        about = " ".join(part.__doc__.replace("`", "").split())
        group = parser.add_argument_group(name.replace("_", " "), about)
        for field in fields(part):
            if field.name not in without:
                add_field(group, field)


def add_field(group, field: Field) -> None:
    """Add the option of one field. If the option is not given, the parsed arguments do not have it."""
    text = field.metadata["text"].replace("%", "%%")
    form = form_of(field.metadata["kind"])
    flag = "--" + field.name.replace("_", "-")
    group.add_argument(flag, dest=field.name, default=argparse.SUPPRESS, help=text, **form)


def form_of(kind: Kind) -> dict:
    """The arguments of ``add_argument`` for a value of this kind."""
    if isinstance(kind, Flag):
        return {"action": argparse.BooleanOptionalAction}
    if isinstance(kind, Patterns):
        return {"nargs": "*", "metavar": "PATTERN"}
    if isinstance(kind, Pair):
        return {"nargs": 2, "type": argument(kind.each), "metavar": ("FROM", "TO")}
    inner = kind.kind if isinstance(kind, Maybe) else kind
    return {"type": argument(kind), "metavar": METAVARS.get(type(inner), "VALUE")}


def given_fields(args: argparse.Namespace) -> dict:
    """The recipe fields given on the command line, as arguments of ``Recipe.replace``."""
    return {name: getattr(args, name) for name in PART_OF if hasattr(args, name)}
