"""Which cells of a lesson the answers in a notebook need: with nbgrader, the others need not run."""

from collections.abc import Sequence, Set

from .cells import read_cells


def idle_cells(cells: Sequence[str], lesson: Set[int]) -> set[int]:
    """The numbers of the lesson's cells that nothing else in the notebook needs.

    cells: the code of all code cells; the first one has the imports. lesson: the numbers of those that the
    lesson brings and that are no part of an exercise. All other cells are needed. So is a cell of the lesson
    that binds or changes a name which a needed cell reads, but for the names that the first cell binds.
    """
    statements, _ = read_cells(list(cells))
    first = {name for each in statements if each.cell == 0 for name in each.binds}
    kept = set(range(len(cells))) - lesson
    while True:
        wanted = set().union(*(each.reads for each in statements if each.cell in kept)) - first
        more = {each.cell for each in statements if wanted & (each.binds | each.changes)} - kept
        if not more:
            return lesson - kept
        kept |= more
