"""Progress bars that name the time that remains."""

import sys

from tqdm import tqdm


def progress_bar(*args, shown: bool, **options) -> tqdm:
    """A bar of tqdm. It goes to stderr; in a notebook, which prints that on red, to stdout."""
    in_notebook = type(sys.stdout).__module__ == "ipykernel.iostream"
    return tqdm(*args, disable=not shown, file=sys.stdout if in_notebook else sys.stderr, **options)


class UnitsBar:
    """One bar over the units of a reconstruction.

    work: of one iteration of each unit, as its multiply-accumulates: then the remaining time is honest.
    iterations: of each unit.
    """

    def __init__(self, work: list[int], iterations: int, shown: bool):
        self.work, self.iterations, self.index = work, iterations, 0
        form = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
        total = sum(work) * iterations
        self.bar = progress_bar(total=total, shown=shown, smoothing=0.1, bar_format=form)

    def begin(self, name: str) -> None:
        self.bar.set_description_str(f"reconstructing {name}", refresh=False)

    def tick(self) -> None:
        """One iteration of the current unit is done."""
        self.bar.update(self.work[self.index])

    def end(self, k: int) -> None:
        """Unit ``k`` is done, whether it was fitted or restored."""
        self.bar.update(sum(self.work[: k + 1]) * self.iterations - self.bar.n)
        self.index = k + 1

    def close(self) -> None:
        self.bar.close()
