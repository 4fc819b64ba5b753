"""The texts of ``--prompt`` and ``--prompts``, checked before a model is loaded."""

import argparse
from collections.abc import Sequence

LONGEST_PROMPT = 10_000  # characters; a text encoder reads the first 77 tokens
LARGEST_PROMPTS = 2**26  # bytes of a file of prompts


def prompts_of(args: argparse.Namespace) -> list[str] | None:
    """The texts of ``--prompt`` or ``--prompts``; None if neither is given.

    Raises ValueError for a text that is too long, or cannot be written as UTF-8.
    """
    if not args.prompts:
        check_texts(args.prompt or (), "--prompt")
        return args.prompt
    from ..diffusion.prompts import read_prompts

    if args.prompts.is_file() and args.prompts.stat().st_size > LARGEST_PROMPTS:
        raise ValueError(
            f"--prompts {args.prompts} has more than {LARGEST_PROMPTS:,} bytes; give fewer lines"
        )
    prompts = read_prompts(args.prompts)
    if max(map(len, prompts)) > LONGEST_PROMPT:
        check_texts(args.prompts.read_text(encoding="utf-8-sig").splitlines(), f"{args.prompts}, line")
    return prompts


def check_texts(texts: Sequence[str], name: str) -> None:
    """Raise ValueError for a text that is too long or cannot be written. ``name`` and its number name it."""
    for number, text in enumerate(texts, 1):
        if len(text.strip()) > LONGEST_PROMPT:
            raise ValueError(
                f"{name} {number}: {text[:40]!r}... has {len(text):,} characters; shorten it to "
                f"{LONGEST_PROMPT:,}"
            )
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise ValueError(f"{name} {number}: {text[:200]!r} is not UTF-8; write it in UTF-8")
