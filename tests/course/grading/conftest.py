"""The sandbox that tests run answers in."""

import pytest

from qdiff_lib.utils.sandbox import HELP, Sandbox, find_sandbox, survey, why_not


@pytest.fixture(scope="session")
def best_sandbox():
    """The sandbox that the command chooses on this machine; the test is skipped where there is none."""
    found = find_sandbox()
    if found is None:
        why = "; ".join(f"{name}: {reason}" for name, reason in survey().items())
        pytest.skip(f"this machine has no sandbox ({why}): {HELP}")
    return found


@pytest.fixture(
    scope="session",
    params=["best", *(pytest.param(e, marks=pytest.mark.exhaustive) for e in ("podman", "docker"))],
)
def sandbox(request):
    """The best sandbox of this machine, or a container; the test is skipped where there is none."""
    if request.param == "best":
        return request.getfixturevalue("best_sandbox")
    if reason := why_not(request.param):
        pytest.skip(f"{request.param}: {reason}")
    return Sandbox(request.param)
