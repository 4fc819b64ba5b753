"""Results that take longer than a lesson: read from ``data/recorded``, with where they come from."""

import json
from dataclasses import dataclass

from ..io.shipped_data import data_folder, verified


@dataclass(frozen=True)
class Recorded:
    """data: the numbers. provenance: command, machine, date, commit (see ``provenance.provenance``)."""

    data: dict
    provenance: dict

    def source(self) -> str:
        """One line that says how the numbers were made."""
        made = self.provenance
        return f"Recorded on {made['date']} on {made['machine']} at {made['commit']} by: {made['command']}"


def recorded(name: str) -> Recorded:
    """The recorded result ``data/recorded/<name>.json``; see ``shipped_data.verified`` for the errors."""
    content = json.loads(verified(f"recorded/{name}.json").read_text(encoding="utf-8"))
    return Recorded(content["data"], content["provenance"])


def if_recorded(name: str) -> Recorded | None:
    """The recorded result of that name, or None if nobody has recorded it yet."""
    return recorded(name) if (data_folder() / "recorded" / f"{name}.json").is_file() else None
