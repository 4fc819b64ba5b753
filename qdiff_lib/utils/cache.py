"""A cache of results on disk: each file is named by a hash of everything that decides its content.

A job that was killed finds its finished results here when it runs again.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from .files import atomic_path, write_json
from .hashing import tensors_hash


class Cache:
    """Results as files below one folder, at ``folder/kind/hash``."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def path(self, kind: str, made_by: dict) -> Path:
        """Return the path of a result, without a suffix.

        Args:
            kind: the kind of the result, which is the name of its subfolder.
            made_by: everything that decides the result, as a JSON object.

        Raises:
            TypeError: JSON cannot express a value in ``made_by``.
        """
        return self.folder / kind / tensors_hash({}, made_by)[:16]

    def value(self, kind: str, made_by: dict, make: Callable[[], Any]) -> Any:
        """Return a result that is a JSON value: read its file, or call ``make()`` and write the file.

        The file also holds ``made_by``. The other arguments and the errors are those of ``path``.
        """
        path = self.path(kind, made_by).with_suffix(".json")
        if path.exists():
            return json.loads(path.read_text(encoding="utf-8"))["value"]
        value = make()
        write_json(path, {"made_by": made_by, "value": value})
        return value

    def tensors(
        self, kind: str, made_by: dict, make: Callable[[], Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Return a result that is a dictionary of tensors: read its file, or make it and write the file.

        The other arguments and the errors are those of ``path``.
        """
        path = self.path(kind, made_by).with_suffix(".safetensors")
        if not path.exists():
            made = {name: value.contiguous() for name, value in make().items()}
            with atomic_path(path) as temporary:
                save_file(made, temporary)
        return load_file(path)
