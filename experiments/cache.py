"""Results that are made once: each is kept under a hash of what made it, so that a killed run goes on."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qdiff_lib.utils.files import write_json


class Cache:
    """Files below one folder, named by the kind of result and a hash of what made it."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    def path(self, kind: str, made_by: dict) -> Path:
        """Where a result of this kind lies; ``made_by``: everything that decides it, in a JSON form."""
        text = json.dumps(made_by, sort_keys=True)
        return self.folder / kind / hashlib.sha256(text.encode()).hexdigest()[:16]

    def value(self, kind: str, made_by: dict, make: Callable[[], Any]) -> Any:
        """The result, a JSON value: read if it is there, else made and kept with what made it."""
        path = self.path(kind, made_by).with_suffix(".json")
        if path.exists():
            return json.loads(path.read_text(encoding="utf-8"))["value"]
        value = make()
        write_json(path, {"made_by": made_by, "value": value})
        return value
