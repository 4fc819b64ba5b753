"""Progress bars that show the remaining time."""

import sys

from tqdm import tqdm


def progress_bar(*args, shown: bool, **options) -> tqdm:
    """Make a tqdm bar. It writes to stderr, but to stdout in a notebook, where stderr is shown on red.

    The arguments are those of ``tqdm``. ``shown=False`` hides the bar.
    """
    in_notebook = type(sys.stdout).__module__ == "ipykernel.iostream"
    return tqdm(*args, disable=not shown, file=sys.stdout if in_notebook else sys.stderr, **options)


class UnitsBar:
    """One progress bar for the reconstruction of all units.

    Args:
        work: the cost of one iteration of each unit, in multiply-accumulates. It makes the remaining time
            right.
        iterations: iterations of each unit.
        shown: whether the bar is visible.
    """

    def __init__(self, work: list[int], iterations: int, shown: bool):
        self.work, self.iterations, self.index = work, iterations, 0
        form = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
        total = sum(work) * iterations
        self.bar = progress_bar(total=total, shown=shown, smoothing=0.1, bar_format=form)

    def begin(self, name: str) -> None:
        """Show the name of the unit that begins."""
        self.bar.set_description_str(f"reconstructing {name}", refresh=False)

    def tick(self) -> None:
        """Count one iteration of the current unit."""
        self.bar.update(self.work[self.index])

    def end(self, k: int) -> None:
        """Count unit ``k`` as done, fitted or restored from a file."""
        self.bar.update(sum(self.work[: k + 1]) * self.iterations - self.bar.n)
        self.index = k + 1

    def close(self) -> None:
        """Remove the bar from tqdm's list and leave its last state on the screen."""
        self.bar.close()
