"""The code that makes a result, as a hash: a cached result of other code is made again."""

from functools import cache
from pathlib import Path

from paths import ROOT

from qdiff_lib.utils.hashing import sources_hash

LIBRARY = ROOT / "qdiff_lib"
ELSEWHERE = ("cli", "course")  # packages that compute no result


@cache
def code_hash(*files: str) -> str:
    """A hash of the library's code, and of these files; comments, layout and docstrings do not count."""
    library = (path for path in LIBRARY.rglob("*.py") if path.relative_to(LIBRARY).parts[0] not in ELSEWHERE)
    return sources_hash([*sorted(library), *sorted(map(Path, files))])[:16]
