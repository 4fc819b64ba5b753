"""The sandbox that tests run answers in."""

import pytest

from qdiff_lib.utils.sandbox import HELP, find_sandbox, survey


@pytest.fixture(scope="session")
def sandbox():
    """The sandbox of this machine; without one the test is skipped."""
    found = find_sandbox()
    if found is None:
        why = "; ".join(f"{name}: {reason}" for name, reason in survey().items())
        pytest.skip(f"this machine has no sandbox ({why}): {HELP}")
    return found
