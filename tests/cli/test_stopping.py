"""Ctrl-C and the signals like it: one line that says how to go on, whatever they come in the midst of."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from qdiff_lib.cli import main

SAMPLE = ["sample", "--model", "ddpm-fashion", "--out", "new.png"]
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("extra", [[], ["--resume"]], ids=["first", "resumed"])
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_stop_says_how_to_resume(name, extra, monkeypatch, capsys):
    number = getattr(signal, name, None)
    if number is None:
        pytest.skip(f"the system has no {name}")
    default = signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL
    before = signal.signal(number, default)
    monkeypatch.setitem(main.COMMANDS, "quantize", lambda args: signal.raise_signal(number) or 0)
    argv = ["quantize", "--model", "my model", "--out", "new", *extra]
    try:
        assert main.main(argv) == 128 + number
        assert signal.getsignal(number) is default
    finally:
        signal.signal(number, before)
    expected = "python -m qdiff_lib quantize --model 'my model' --out new --resume"
    assert capsys.readouterr().err == f"\nstopped; to go on: {expected}\n"


def test_a_signal_that_is_ignored_stays_ignored(monkeypatch):
    """As nohup has it."""
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    monkeypatch.setitem(main.COMMANDS, "sample", lambda args: signal.raise_signal(signal.SIGTERM) or 0)
    try:
        assert main.main(SAMPLE) == 0
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_stop_that_a_library_turns_into_another_error_is_a_stop(monkeypatch, capsys):
    def run(args):
        try:
            signal.raise_signal(signal.SIGTERM)
        except BaseException as error:
            raise ImportError("half imported") from error

    monkeypatch.setitem(main.COMMANDS, "sample", run)
    assert main.main(SAMPLE) == 128 + signal.SIGTERM
    assert capsys.readouterr().err.startswith("\nstopped; to start again: ")


SWALLOWED = """
import signal, sys
from qdiff_lib.cli import main

class Fragile:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)

def run(args):
    Fragile()
    return 0

main.COMMANDS["sample"] = run
sys.exit(main.main(["sample", "--model", "m", "--out", "a.png"]))
"""


def test_a_stop_that_python_cannot_raise_is_a_stop():
    ended = subprocess.run([sys.executable, "-c", SWALLOWED], capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == 128 + signal.SIGTERM
    assert ended.stderr == "\nstopped; to start again: python -m qdiff_lib sample --model m --out a.png\n"


def test_ctrl_c_without_resume_repeats_the_command(monkeypatch, capsys):
    monkeypatch.setitem(main.COMMANDS, "sample", lambda args: signal.default_int_handler(signal.SIGINT, None))
    assert main.main(SAMPLE) == 130
    assert "--resume" not in capsys.readouterr().err
