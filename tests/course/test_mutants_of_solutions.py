"""The checks reject every mutant of a solution that computes something else."""

import pytest
from equivalent_mutants import EQUIVALENT
from mutation import mutants
from solutions import CELLS, defined

from qdiff_lib.course.checks import Verdict, check

ADDING = '''
def total(x, first):
    """The sum from first on."""
    found = 0
    for value in x[first:]:
        found += abs(value)
    return found / (len(x) - first)
'''
LESSONS = ("00", "06")  # of ``make test``
MUTANTS = {name: mutants(cell.source, name.partition(".")[2]) for name, (_, cell) in CELLS.items()}


def test_mutants_change_one_thing_each():
    found = mutants(ADDING, "total")
    assert {
        "found = 0  ->  found = 1",
        "found = 0  ->  pass",
        "for value in x[first:]:  ->  for value in x[:]:",
        "for value in x[first:]:  ->  for value in first[first:]:",
        "found += abs(value)  ->  found += value",
        "found += abs(value)  ->  found = abs(value)",
        "return found / (len(x) - first)  ->  return found * (len(x) - first)",
        "return found / (len(x) - first)  ->  return found / (len(x) + first)",
        "return found / (len(x) - first)  ->  return found / (first - len(x))",
        "return found / (len(x) - first)  ->  return found",
    } <= set(found)
    assert all(code != ADDING and '"""The sum' in code for code in found.values())
    for code in found.values():
        compile(code, "mutant", "exec")


def test_there_are_enough_mutants_that_compute_something_else():
    counts = {name: len(set(found) - set(EQUIVALENT.get(name, ()))) for name, found in MUTANTS.items()}
    assert sum(counts.values()) >= 200 and min(counts.values()) >= 10, counts


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch, about what the mutants do
@pytest.mark.parametrize(
    "name",
    [name if name[:2] in LESSONS else pytest.param(name, marks=pytest.mark.exhaustive) for name in CELLS],
)
def test_every_mutant_that_computes_something_else_is_wrong(name):
    living = []
    for change, code in MUTANTS[name].items():
        outcome = check(name, defined(name, code))
        assert outcome.verdict in (Verdict.RIGHT, Verdict.WRONG), (change, outcome)
        living += [change] * outcome.right
    assert set(living) == set(EQUIVALENT.get(name, ())), "alive, or listed as equivalent without being right"
