"""Each stage of the method, switched off, turns a test red: ``mutants.py`` says which stage, which test."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from mutants import MUTANTS


@pytest.fixture(scope="module")
def exits():
    """Pytest's exit code for the test of each stage, with the stage switched off."""
    command = [sys.executable, Path(__file__).parents[1] / "mutants.py"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_a_stage_that_does_nothing_is_noticed(name, exits):
    assert exits[name] == pytest.ExitCode.TESTS_FAILED
