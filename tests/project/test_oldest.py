"""The oldest versions: each is the lower bound in pyproject.toml."""

import tomllib

import pytest
from packaging.requirements import Requirement

from tools import oldest


@pytest.mark.parametrize(
    "given, pinned",
    [("a>=1.2", "a==1.2"), ("a>=0.4,<0.5", "a==0.4"), ("a", "a"), ("a<3", "a<3"), ("a>=1,!=2", "a==1")],
)
def test_a_requirement_is_pinned_to_its_lower_bound(given, pinned):
    assert oldest.oldest(given) == pinned


@pytest.mark.parametrize("given", ["a>1", "a==1", "a~=1.2", "a>=1,>=2"])
def test_other_bounds_are_refused(given):
    with pytest.raises(ValueError, match="has no single lower bound: write it as name>=version"):
        oldest.oldest(given)


def test_every_requirement_of_the_library_and_its_tests_is_there():
    project = tomllib.loads((oldest.ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["hub"], *extras["test"]]
    pins = oldest.pins()
    assert [Requirement(pin).name for pin in pins] == [Requirement(each).name for each in wanted]
    assert all(Requirement(pin).specifier.contains(pin.partition("==")[2]) for pin in pins if "==" in pin)
