"""Whose error an error is."""

import pytest
from safetensors.torch import save

from qdiff_lib.utils.errors import is_import_failure, is_of_a_dependency
from qdiff_lib.utils.kinds import Whole


def raised(call):
    with pytest.raises(Exception) as stop:
        call()
    return stop.value


def test_an_error_of_an_installed_package_is_of_a_dependency():
    assert is_of_a_dependency(raised(lambda: save("no tensors")))


@pytest.mark.parametrize(
    "call",
    [lambda: Whole(1).checked("n", 0), lambda: int("x"), lambda: open("no/file")],
    ids=["own", "here", "file"],
)
def test_errors_of_this_library_and_of_its_users_are_not(call):
    assert not is_of_a_dependency(raised(call))
    assert not is_of_a_dependency(ValueError("never raised"))


def test_a_failed_import_is_found_among_the_causes():
    error = RuntimeError("cannot load")
    assert not is_import_failure(error)
    error.__cause__ = ImportError("failed to map segment")
    assert is_import_failure(error) and is_import_failure(error.__cause__)
