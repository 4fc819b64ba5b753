"""What all tests and all notebooks run under: this checkout, two threads, the tiny profile, no hub."""

import os
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = str(Path(__file__).parent)
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "2")  # before torch is imported: sums depend on the thread count
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("QDIFF_PROFILE", "tiny")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [ROOT, os.environ.get("PYTHONPATH")]))

CELLS = pytest.StashKey[dict[str, list[str]]]()  # of each notebook: how its cells ended, in order
PARTIAL = pytest.StashKey[bool]()  # whether cells of notebooks were left out of this run
_outcomes: dict[str, list[str]] = defaultdict(list)


def pytest_configure(config):
    config.stash[CELLS], config.stash[PARTIAL] = _outcomes, False


def pytest_collection_modifyitems(items):
    """Fast tests first, then slow ones and notebooks, each in their own order; then the last ones."""
    for item in items:
        if item.path.suffix == ".ipynb":
            item.add_marker(pytest.mark.slow)
    marks = ("slow", "last")
    items.sort(key=lambda item: [item.get_closest_marker(mark) is not None for mark in reversed(marks)])


def pytest_deselected(items):
    for item in items:
        if item.path.suffix == ".ipynb":
            item.config.stash[PARTIAL] = True


def pytest_runtest_logreport(report):
    path, found, _ = report.nodeid.partition(".ipynb::")
    if found and report.when == "call":
        _outcomes[Path(path).name].append(report.outcome)


@pytest.fixture(scope="session")
def notebook_cells(pytestconfig):
    """How the cells of each notebook ended under nbval; skips where this run left notebooks out."""
    whole = pytestconfig.args_source is pytest.Config.ArgsSource.TESTPATHS
    if not whole or pytestconfig.stash[PARTIAL]:
        pytest.skip("only some tests or notebooks were asked for")
    return pytestconfig.stash[CELLS]
