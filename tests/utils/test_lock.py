"""New folders: complete or absent, and filled by one process at a time."""

import pytest

from qdiff_lib.utils.files import TEMPORARY
from qdiff_lib.utils.lock import fcntl, new_folder


def test_a_new_folder_is_complete_or_absent(tmp_path):
    new = tmp_path / "above" / "new"
    with pytest.raises(RuntimeError, match="stop"):
        with new_folder(new) as temporary:
            (temporary / "a").write_text("half")
            raise RuntimeError("stop")
    assert list(tmp_path.iterdir()) == []
    left = new.with_name(f"{TEMPORARY}01234567-new")  # as a killed process leaves it
    left.mkdir(parents=True)
    new.mkdir()  # an empty one may be there
    with new_folder(new) as temporary:
        (temporary / "unet").mkdir()
        (temporary / "unet" / "a").write_text("whole")
        assert not any(new.iterdir())
    assert (new / "unet" / "a").read_text() == "whole" and list(new.parent.iterdir()) == [new]
    for taken in (new, new / "unet" / "a"):
        with pytest.raises(FileExistsError, match="name a new folder"):
            with new_folder(taken):
                pass


@pytest.mark.skipif(fcntl is None, reason="this system has no such locks")
def test_a_folder_that_another_process_fills_is_left_alone(tmp_path):
    new = tmp_path / "new"
    with new_folder(new) as first:
        (first / "a").write_text("whole")
        with pytest.raises(FileExistsError, match="new is being written by another process"):
            with new_folder(new):
                pytest.fail("there are two")
        assert [path.name for path in tmp_path.iterdir()] == [first.name]
    assert (new / "a").read_text() == "whole" and list(tmp_path.iterdir()) == [new]


def test_only_what_was_left_of_the_same_folder_is_removed(tmp_path):
    left, other = (tmp_path / f"{TEMPORARY}01234567-{name}" for name in ("a[1]", "a1"))
    for path in (left, other):
        path.mkdir()
    with new_folder(tmp_path / "a[1]"):
        pass
    assert not left.exists() and other.is_dir()
