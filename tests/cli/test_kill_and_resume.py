"""The command ``quantize``, killed at chosen moments and resumed as it says: the same bits, no debris."""

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tools.kills import ROOT, Ended, Event, Server, is_running, save_model, wait_for
from tools.torture import files_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork and no SIGKILL"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"))


def command(model, out, *more):
    """Activations go to files, in --out."""
    return ["quantize", "--model", str(model), "--memory-gb", "0.00001", "--out", str(out), *more]


def check_same_and_tidy(out, expected):
    found = files_of(out)
    assert found.keys() == expected.keys()
    assert not [name for name in found if found[name] != expected[name]]


# Every stage, in processes that have torch from the start


@pytest.fixture(scope="module")
def server():
    with Server() as running:
        yield running


@pytest.fixture(scope="module")
def expected(server, model, tmp_path_factory):
    """The files of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("unkilled")
    ended = server.run(command(model, folder / "out"), folder / "log")
    assert ended.status == 0, ended.text
    return files_of(folder / "out")


def at_text(log: Path, text: str, number: int):
    """Kill the process as soon as it has printed this."""

    def watch(child):
        wait_for(lambda: text in log.read_text(), lambda: is_running(child))
        os.kill(child, number)

    return watch


def stopped(server, argv, log, event):
    """A run that dies at an event, or when it has printed a text: (text, number of the signal)."""
    if isinstance(event, Event):
        return server.run(argv, log, event)
    log.write_text("")
    return server.run(argv, log, watch=at_text(log, *event))


KILL, INT, TERM, HUP = (getattr(signal, f"SIG{name}", None) for name in ("KILL", "INT", "TERM", "HUP"))
MOMENTS = {
    "before the fingerprint is there": (Event(KILL, "os.rename", "fingerprint.json"), ()),
    "while recording": (("calibration set:", INT), ()),
    "before the recorded inputs are there": (Event(KILL, "os.rename", "calibration-set"), ("fingerprint",)),
    "in a unit, after others": (
        Event(KILL, "open", "activations-.*bin", nth=50),
        ("unit-000", "activations-"),
    ),
    "before a unit's file is there": (Event(TERM, "os.rename", "unit-005"), ("unit-004",)),
    "in the whole network": (("whole network:", HUP), ("unit-008",)),
    "in bias correction": (("%|██████████| 20/20", KILL), ("unit-008",)),
    "while the tensors are written": (
        Event(KILL, "open", r"\.qdiff-\w+-folder/unet/config.json"),
        (".qdiff-", "unit-008"),
    ),
    "between the files": (Event(INT, "os.rename", r"report\.json"), ("model_index.json", "work")),
    "between the files, at once": (
        Event(KILL, "os.rename", "diffusion_pytorch_model.safetensors"),
        ("model_index.json", ".qdiff-"),
    ),
    "before the tidying up": (Event(KILL, "shutil.rmtree", "units"), ("report.json", "unit-008")),
    "while tidying up": (Event(TERM, "os.remove", "/fingerprint.json"), ("report.json", "fingerprint")),
    "when only the lock is left": (Event(KILL, "os.rmdir", r"/work\b(?!/)"), ("report.json", "work")),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at(moment, server, model, tmp_path, expected):
    event, left = MOMENTS[moment]
    number = event.number if isinstance(event, Event) else event[1]
    out, argv = tmp_path / "out", command(model, tmp_path / "out")
    ended = stopped(server, argv, tmp_path / "log", event)
    assert ended.status == (-number if number == KILL else 128 + number), ended.text
    if number != KILL:
        assert ended.advised() == [*argv, "--resume"]
        assert not list(out.rglob("activations-*")) and not list(out.rglob(".qdiff-*"))
    there = [str(path.relative_to(out)) for path in out.rglob("*")]
    assert all(any(part in path for path in there) for part in left), there
    again = server.run(ended.advised() or [*argv, "--resume"], tmp_path / "log")
    assert again.status == 0 and "Traceback" not in ended.text + again.text, again.text
    check_same_and_tidy(out, expected)


def test_killed_again_and_again(server, model, tmp_path, expected):
    argv = command(model, tmp_path / "out")
    for nth in (3, 3, 2):
        ended = server.run(argv, tmp_path / "log", Event(KILL, "os.rename", "unit-", nth))
        assert ended.status == -KILL
        argv = [*command(model, tmp_path / "out"), "--resume"]
    assert "unit-004" in " ".join(map(str, (tmp_path / "out").rglob("*")))
    assert server.run(argv, tmp_path / "log").status == 0
    check_same_and_tidy(tmp_path / "out", expected)


def test_a_finished_run_has_nothing_left_to_do(server, model, tmp_path, expected):
    argv = command(model, tmp_path / "out")
    assert server.run(argv, tmp_path / "log").status == 0
    again = server.run([*argv, "--resume"], tmp_path / "log")
    assert again.status == 0 and "reconstructing" not in again.text
    check_same_and_tidy(tmp_path / "out", expected)
    other = server.run([*argv, "--resume", "--weights", "8"], tmp_path / "log")
    assert other.status == 2 and "of another model or other options" in other.text
    check_same_and_tidy(tmp_path / "out", expected)


def test_other_options_are_refused_and_change_nothing(server, model, tmp_path):
    out, argv = tmp_path / "out", command(model, tmp_path / "out")
    server.run(argv, tmp_path / "log", Event(KILL, "os.rename", "unit-002"))
    before = files_of(out)
    for change in (["--seed", "1"], ["--method", "linear"], ["--batch-size", "3"], ["--weights", "8"]):
        ended = server.run([*argv, "--resume", *change], tmp_path / "log")
        assert ended.status == 2 and "other options (" in ended.text, ended.text
        assert files_of(out) == before
    useless = server.run([*argv, "--resume", "--guidance", "3"], tmp_path / "log")
    assert useless.status == 2 and "takes no text to guide" in useless.text and files_of(out) == before
    fresh = server.run(argv, tmp_path / "log")
    assert fresh.status == 2 and "add --resume" in fresh.text and files_of(out) == before


def test_a_second_process_is_kept_out(server, model, tmp_path, expected):
    argv, seconds = command(model, tmp_path / "out"), []

    def watch(child):
        wait_for(lambda: "reconstructing" in (tmp_path / "log").read_text(), lambda: is_running(child))
        os.kill(child, signal.SIGSTOP)
        program = [sys.executable, "-m", "qdiff_lib", *argv, "--resume"]
        seconds.append(subprocess.run(program, cwd=ROOT, capture_output=True, text=True))
        os.kill(child, signal.SIGCONT)

    (tmp_path / "log").write_text("")
    assert server.run(argv, tmp_path / "log", watch=watch).status == 0
    second = seconds[0]
    assert second.returncode == 2 and second.stderr.count("\n") == 1
    assert "in use by another quantize" in second.stderr
    check_same_and_tidy(tmp_path / "out", expected)


# The command as users type it


FEW = ("--method", "qdiffusion", "--iterations", "20", "--step-size-iterations", "5")


def started(argv, log):
    """The command in a process of its own; pytest itself may run where Ctrl-C is ignored."""
    program = [sys.executable, "-m", "qdiff_lib", *argv]
    options = dict(cwd=ROOT, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    with log.open("w") as file:
        with_ctrl_c = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
        return subprocess.Popen(program, stdout=file, preexec_fn=with_ctrl_c, **options)


def finished(argv, log):
    process = started(argv, log)
    assert process.wait(300) == 0, log.read_text()
    assert "Traceback" not in log.read_text()


@pytest.fixture(scope="module")
def typed(model, tmp_path_factory):
    """The files of the unkilled command."""
    folder = tmp_path_factory.mktemp("typed")
    finished(command(model, folder / "out", *FEW), folder / "log")
    return files_of(folder / "out")


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        pytest.param(INT, "calibration set:", id="recording"),
        pytest.param(KILL, "reconstructing conv_in", id="unit", marks=pytest.mark.exhaustive),
        pytest.param(TERM, "unit-006.safetensors", id="last-units", marks=pytest.mark.exhaustive),
    ],
)
def test_the_documented_command(number, moment, model, tmp_path, typed):
    out, log = tmp_path / "my out", tmp_path / "log"
    argv = command(model, out, *FEW)
    process = started(argv, log)
    wait_for(
        lambda: moment in log.read_text() or (out / "work" / "units" / moment).exists(),
        lambda: process.poll() is None,
    )
    process.send_signal(number)
    status = process.wait(300)
    ended = Ended(status, log.read_text())
    if number == KILL:
        assert status == -KILL
    else:
        assert status == 128 + number and ended.text.rstrip().endswith(shlex.join([*argv, "--resume"]))
    finished(ended.advised() or [*argv, "--resume"], log)
    assert "Traceback" not in ended.text
    check_same_and_tidy(out, typed)
