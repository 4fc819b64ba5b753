"""Progress bars: where they go, and how far they are. In a notebook: TestRun in course/test_builder.py."""

import pytest

from qdiff_lib.utils.progress import UnitsBar, progress_bar


def test_outside_of_notebooks_a_bar_goes_to_stderr(capsys):
    assert list(progress_bar(range(3), "three", shown=True)) == [0, 1, 2]
    out, err = capsys.readouterr()
    assert out == "" and "three: 100%" in err and "3/3" in err


def test_a_bar_that_is_not_shown_prints_nothing(capsys):
    assert list(progress_bar(range(3), shown=False)) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


@pytest.fixture
def bar():
    """Two units, of which the second is three times the work; ten iterations each."""
    bar = UnitsBar([5, 15], iterations=10, shown=True)
    yield bar
    bar.close()


def share(bar: UnitsBar) -> float:
    return bar.bar.n / bar.bar.total


def test_an_iteration_counts_by_its_work(bar):
    bar.begin("first")
    bar.tick()
    assert share(bar) == 1 / 40
    bar.end(0)
    assert share(bar) == 1 / 4
    bar.tick()
    assert share(bar) == 1 / 4 + 3 / 40


def test_a_restored_unit_is_done_without_iterations(bar):
    bar.end(0)
    bar.end(1)
    assert share(bar) == 1


def test_the_bar_names_the_unit_and_the_time_that_remains(capsys):
    bar = UnitsBar([5, 15], iterations=10, shown=True)
    bar.begin("mid_block")
    bar.end(0)
    bar.close()
    err = capsys.readouterr().err
    assert "reconstructing mid_block  25%|" in err and "<" in err
