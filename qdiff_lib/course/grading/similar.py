"""Which learners' answers look alike: by short runs of tokens, without names, comments and layout.

That is a reason to look at two answers, and no proof: short answers are alike by chance.
"""

import itertools
import keyword
import math
import re
from collections import Counter
from dataclasses import dataclass

TOKEN = re.compile(
    r"""#[^\n]*|(?:\"{3}|'{3}).*?(?:\"{3}|'{3})|"[^"\n]*"|'[^'\n]*'|\.?\w+|\*\*|//|[<>=!]=|\S""", re.DOTALL
)
RUN = 5  # tokens of a run
MOST_TOKENS = 5000
ALIKE = 0.7  # of the weight of all runs
FEWEST = 8  # runs that two answers must share


@dataclass(frozen=True)
class Pair:
    """Two learners. share: of the weight of their runs of tokens, those that both have. exercises: where."""

    first: str
    second: str
    share: float
    exercises: tuple[str, ...]


def definition(cells: tuple[str, ...], function: str) -> str:
    """The last definition of a function in the cells, as text; empty without one."""
    pattern = re.compile(rf"^(?:def|class) {re.escape(function)}\b.*(?:\n(?:[ \t)].*)?)*", re.MULTILINE)
    found = [text for cell in cells for text in pattern.findall(cell) if "NotImplementedError" not in text]
    return found[-1] if found else ""


def runs(code: str) -> frozenset[tuple[str, ...]]:
    """All runs of tokens of some code; names of variables, texts and comments do not count."""
    tokens = []
    for token in itertools.islice(TOKEN.findall(code), MOST_TOKENS):
        if token[0] in "#\"'":
            continue
        is_name = token.isidentifier() and not keyword.iskeyword(token)
        tokens.append("name" if is_name else token)
    return frozenset(tuple(tokens[i : i + RUN]) for i in range(len(tokens) - RUN + 1))


def pairs(answers: dict[str, dict[str, str]]) -> list[Pair]:
    """Learners whose answers are most alike, the most alike first.

    answers: the code by learner and exercise. A run of tokens counts less, the more learners have it.
    """
    found = {
        student: {(exercise, run) for exercise, code in codes.items() for run in runs(code)}
        for student, codes in answers.items()
    }
    owners = Counter(run for own in found.values() for run in own)
    weight = {run: math.log(len(found) / count) for run, count in owners.items()}
    heavy = {student: sum(map(weight.get, own)) for student, own in found.items()}
    listed = []
    for (first, one), (second, two) in itertools.combinations(sorted(found.items()), 2):
        both = [run for run in one & two if weight[run] > 0]
        share = sum(map(weight.get, both)) / (min(heavy[first], heavy[second]) or 1)
        if share >= ALIKE and len(both) >= FEWEST:
            listed.append(Pair(first, second, share, tuple(sorted({exercise for exercise, _ in both}))))
    return sorted(listed, key=lambda pair: -pair.share)
