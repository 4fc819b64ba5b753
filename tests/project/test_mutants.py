"""Each stage of the method, switched off, turns a test red: ``mutants.py`` says which stage, which test."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from mutants import MUTANTS

END_TO_END = "learning-end-to-end"  # takes as long as all others


def exits_of(names):
    """Pytest's exit code for the test of each stage, with the stage switched off."""
    command = [sys.executable, Path(__file__).parents[1] / "mutants.py", *names]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def exits():
    return exits_of(name for name in MUTANTS if name != END_TO_END)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MUTANTS if name != END_TO_END])
def test_a_stage_that_does_nothing_is_noticed(name, exits):
    assert exits[name] == pytest.ExitCode.TESTS_FAILED


@pytest.mark.slow
@pytest.mark.exhaustive
def test_without_learning_the_method_is_not_better_than_linear():
    assert exits_of([END_TO_END]) == {END_TO_END: pytest.ExitCode.TESTS_FAILED}
