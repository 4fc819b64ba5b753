"""Texts that pipelines draw from: reading prompts, and the check that calibration and evaluation differ."""

from collections.abc import Sequence
from pathlib import Path


def read_prompts(path: str | Path) -> list[str]:
    """Read the prompts of a UTF-8 text file, one a line. Blank lines are skipped.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not UTF-8, or has no prompt.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no prompts file {str(path)!r}: give a text file with one prompt a line")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(path)!r} is not UTF-8 (byte {error.start}): save it as UTF-8 text") from error
    return list(checked_prompts([line.strip() for line in lines if line.strip()], f"{str(path)!r}"))


def checked_prompts(prompts: Sequence[str], source: str = "prompts") -> tuple[str, ...]:
    """Return the prompts as a tuple. ``source`` names them in error messages.

    Raises:
        TypeError: ``prompts`` is one string.
        ValueError: there is no prompt, or one is empty.
    """
    if isinstance(prompts, str):
        raise TypeError(f"{source}={prompts!r} must be a list of texts, not one string")
    prompts = tuple(prompts)
    if not prompts or not all(isinstance(prompt, str) and prompt.strip() for prompt in prompts):
        raise ValueError(
            f"{source} holds {list(prompts)[:3]}: give at least one prompt, and none that is empty"
        )
    return tuple(map(str, prompts))


def check_disjoint(calibration: Sequence[str], evaluation: Sequence[str]) -> None:
    """Check that no prompt is in both lists. Upper and lower case, and spaces, make no difference.

    Raises:
        ValueError: a prompt is in both. The message has the first one.
    """
    known = {_normal(prompt) for prompt in calibration}
    shared = [prompt for prompt in evaluation if _normal(prompt) in known]
    if shared:
        raise ValueError(
            f"{len(shared)} of {len(evaluation)} prompts were calibrated on, the first is {shared[0]!r}: "
            "evaluate on other prompts, or the scores say nothing about new ones"
        )


def _normal(prompt: str) -> str:
    return " ".join(prompt.casefold().split())
