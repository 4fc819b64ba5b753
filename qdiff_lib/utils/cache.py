"""A cache of results on disk: each file is named by a hash of everything that decides its content.

A job that was killed finds its finished results here when it runs again. Several processes can share a cache:
all of them ask for the same results in the same order, and the main one reads and writes the files.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from .files import atomic_path, write_json
from .hashing import tensors_hash
from .processes import ALONE, Processes

Tensors = Mapping[str, Tensor]


class Cache:
    """Results as files below one folder, at ``folder/kind/hash``.

    Args:
        processes: those that share the cache. Every method but ``path`` must be called in all of them, gives
            all the same, and raises ``Lost`` if one has ended.
    """

    def __init__(self, folder: str | Path, processes: Processes = ALONE):
        self.folder, self.processes = Path(folder), processes

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

        Every process calls ``make()``, and what the main one gets is the result. The file also holds
        ``made_by``. The other arguments and the errors are those of ``path``.
        """
        path = self.path(kind, made_by).with_suffix(".json")
        if self.processes.agreed(path.exists()):
            return self.processes.once(lambda: json.loads(path.read_text(encoding="utf-8"))["value"])
        value = self.processes.agreed(make())
        if self.processes.is_main:
            write_json(path, {"made_by": made_by, "value": value})
        return value

    def tensors(self, kind: str, made_by: dict, make: Callable[[], Tensors]) -> dict[str, Tensor]:
        """Return a result that is a dictionary of tensors: read its file, or make it and write the file.

        The arguments and the errors are those of ``value``.
        """
        path = self.path(kind, made_by).with_suffix(".safetensors")
        if not self.processes.agreed(path.exists()):
            made = make()
            if self.processes.is_main:
                write_tensors(path, made)
        return self.processes.once(lambda: load_file(path))

    def parts(
        self, kind: str, made_by: Sequence[dict], begin: Callable[[], Callable[[int], Tensors]]
    ) -> Iterator[dict[str, Tensor]]:
        """Yield several results as ``tensors`` returns them; the processes divide those that are missing.

        The processes make one part each, and the main one writes these; then comes the next turn. So a job
        that is killed loses no more than the parts of one turn.

        Args:
            made_by: of each part.
            begin: called in every process, if any part is missing. It returns the function that makes part k
                on the CPU, without the other processes.

        Raises:
            TypeError: as ``path``.
        """
        paths = [self.path(kind, each).with_suffix(".safetensors") for each in made_by]
        missing = self.processes.agreed([k for k, path in enumerate(paths) if not path.exists()])
        make = begin() if missing else None
        for k, path in enumerate(paths):
            if missing[:1] == [k]:
                turn, missing = missing[: self.processes.count], missing[self.processes.count :]
                made = self.processes.gathered(map(make, self.processes.share(turn)), len(turn))
                for i, tensors in made:
                    write_tensors(paths[turn[i]], tensors)
            yield self.processes.once(lambda path=path: load_file(path))


def write_tensors(path: Path, tensors: Tensors) -> None:
    """Write tensors to a safetensors file, atomically."""
    with atomic_path(path) as temporary:
        save_file({name: value.contiguous() for name, value in tensors.items()}, temporary)
