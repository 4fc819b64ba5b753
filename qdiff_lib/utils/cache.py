"""Results that are made once: each file is named by a hash of what made it, so that a killed job goes on."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from .files import atomic_path, write_json
from .hashing import tensors_hash


class Cache:
    """Files below one folder, by the kind of result and a hash of what made it."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def path(self, kind: str, made_by: dict) -> Path:
        """Where a result of this kind lies; ``made_by``: everything that decides it, in a JSON form."""
        return self.folder / kind / tensors_hash({}, made_by)[:16]

    def value(self, kind: str, made_by: dict, make: Callable[[], Any]) -> Any:
        """The result, a JSON value: read if it is there, else made and kept with what made it."""
        path = self.path(kind, made_by).with_suffix(".json")
        if path.exists():
            return json.loads(path.read_text(encoding="utf-8"))["value"]
        value = make()
        write_json(path, {"made_by": made_by, "value": value})
        return value

    def tensors(
        self, kind: str, made_by: dict, make: Callable[[], Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """The result, tensors by name: read if it is there, else made and kept."""
        path = self.path(kind, made_by).with_suffix(".safetensors")
        if not path.exists():
            made = {name: value.contiguous() for name, value in make().items()}
            with atomic_path(path) as temporary:
                save_file(made, temporary)
        return load_file(path)
