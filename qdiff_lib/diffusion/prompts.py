"""Texts that pipelines draw from: prompt files, and the rule that no score is from what was calibrated on."""

from collections.abc import Sequence
from pathlib import Path


def read_prompts(path: str | Path) -> list[str]:
    """The prompts of a UTF-8 text file, one a line; blank lines do not count.

    Raises FileNotFoundError for a missing file, and ValueError for one that is not UTF-8 or has no prompt.
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
    """The prompts as a tuple. Raises TypeError for one string, ValueError for none or for an empty one."""
    if isinstance(prompts, str):
        raise TypeError(f"{source}={prompts!r} must be a list of texts, not one string")
    if not prompts or not all(isinstance(prompt, str) and prompt.strip() for prompt in prompts):
        raise ValueError(
            f"{source} holds {list(prompts)[:3]}: give at least one prompt, and none that is empty"
        )
    return tuple(prompts)


def check_disjoint(calibration: Sequence[str], evaluation: Sequence[str]) -> None:
    """Raise ValueError when a prompt is in both, whatever its case and spaces; the error names the first."""
    known = {_normal(prompt) for prompt in calibration}
    shared = [prompt for prompt in evaluation if _normal(prompt) in known]
    if shared:
        raise ValueError(
            f"{len(shared)} of {len(evaluation)} prompts were calibrated on, the first is {shared[0]!r}: "
            "evaluate on other prompts, or the scores say nothing about new ones"
        )


def _normal(prompt: str) -> str:
    return " ".join(prompt.casefold().split())
