"""The commands in several processes: the files of one process, one voice, and an end when one is killed."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import time

import pytest
from several_processes import together
from tiny_models import ddpm

from qdiff_lib.cli.main import main
from qdiff_lib.utils.lock import held

PATIENCE = 120  # seconds for a run under a launcher
LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
LAUNCHER += ["-m", "--", "qdiff_lib"]


@pytest.fixture
def model(tmp_path):
    ddpm().save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def ran(processes, argv):
    """(status, stdout, stderr) of a command in one of several processes."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(argv)
        except SystemExit as stop:
            status = stop.code
    return status, out.getvalue(), err.getvalue()


def test_pictures_have_the_same_bytes_and_the_main_process_alone_speaks(model, tmp_path):
    argv = ["sample", "--model", model, "--n", "7", "--batch-size", "2", "--steps", "3", "--device", "cpu"]
    assert main([*argv, "--out", str(tmp_path / "one.png")]) == 0
    main_process, other, third = together(3, ran, [*argv, "--out", str(tmp_path / "three.png")])
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "three.png").read_bytes()
    assert main_process[:2] == (0, f"wrote {tmp_path / 'three.png'}; engine: simulated\n")
    assert main_process[2].count("7 images:   0%") == 1  # one bar
    assert other == third == (0, "", "")


def test_scores_have_the_same_bytes(model, tmp_path):
    argv = ["evaluate", "--model", model, "--original", model, "--sampler", "own", "--device", "cpu"]
    argv += ["--n", "5", "--batch-size", "2", "--steps", "3", "--out"]
    assert main([*argv, str(tmp_path / "one.json")]) == 0
    answers = together(2, ran, [*argv, str(tmp_path / "two.json")])
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    assert answers[1][:2] == (0, "")


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["sample", "--model", "none", "--out", "x.png", "--device", "cpu"], "'none'"),
        (["sample", "--model", "none", "--out", "x.jpg"], "'x.jpg' is not allowed"),
        (["doctor"], "doctor needs no launcher"),
    ],
)
def test_an_error_is_told_once(argv, reason):
    answers = together(2, ran, argv)
    assert [status for status, _, _ in answers] == [2, 2]
    told = "".join(err for _, _, err in answers)
    assert told.count("\n") == 1 and reason in told


@pytest.mark.slow
def test_a_launcher_and_the_scores_of_real_images(tmp_path):
    argv = ["evaluate", "--model", "ddpm-fashion", "--against", "fashion-mnist", "--device", "cpu"]
    argv += ["--n", "8", "--batch-size", "3", "--steps", "2", "--out"]
    assert main([*argv, str(tmp_path / "one.json")]) == 0
    command = [*LAUNCHER, *argv, str(tmp_path / "two.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("frechet: ") == 1
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="the system has no SIGKILL")
@pytest.mark.parametrize("killed", [pytest.param(0, marks=pytest.mark.exhaustive), 1])
def test_a_killed_process_ends_the_run_in_words(killed, tmp_path):
    argv = ["sample", "--model", "ddpm-fashion", "--n", "4000", "--steps", "500", "--device", "cpu"]
    log = tmp_path / "log"
    with open(log, "w") as file:
        run = subprocess.Popen([*LAUNCHER, *argv, "--out", str(tmp_path / "x.png")], stdout=file, stderr=file)
        try:
            wait_until(lambda: "4000 images:   0%" in log.read_text())
            os.kill(workers_of(run.pid)[killed], signal.SIGKILL)
            assert run.wait(PATIENCE) != 0
        finally:
            run.terminate()
    found = log.read_text()
    ends = ("stopped; to start again: ", "another process of this run has ended")
    assert sum(map(found.count, ends)) == 1


def workers_of(launcher: int) -> list[int]:
    """The ids of the processes that a launcher has started, in the order of their numbers."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(launcher)], capture_output=True, text=True)
    return sorted(map(int, found.stdout.split()))


def wait_until(condition) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("method", ["linear", "qdiffusion"])
def test_a_model_is_quantized_by_several_processes(method, model, tmp_path):
    argv = ["quantize", "--model", model, "--method", method, "--device", "cpu", "--steps", "3"]
    argv += ["--samples", "12"]
    argv += ["--iterations", "3", "--step-size-iterations", "2"] if method == "qdiffusion" else []
    argv += ["--memory-gb", "0.0001", "--out"]
    main_process, other = together(2, ran, [*argv, str(tmp_path / "two")])
    assert main_process[0] == 0 and "wrote" in main_process[1], main_process
    assert ("each of 2 processes caches up to" in main_process[1]) == (method == "qdiffusion")
    assert ("53.7 kB in memory" in main_process[1]) == (method == "qdiffusion")  # half of 0.0001 GB
    assert other == (0, "", "")
    assert not (tmp_path / "two" / "work").exists()
    assert main([*argv, str(tmp_path / "one")]) == 0
    found, expected = (files_of(tmp_path / name) for name in ("two", "one"))
    assert found.keys() == expected.keys()
    if method == "linear":  # nothing is learned
        weights = [name for name in found if name.endswith(".safetensors")]
        assert weights and all(found[name] == expected[name] for name in weights)


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_one_process_holds_the_folder_and_a_second_run_is_refused_once(model, tmp_path):
    argv = ["quantize", "--model", model, "--device", "cpu", "--out", str(tmp_path / "out")]
    with held(tmp_path / "out" / "work"):
        answers = together(2, ran, argv)
    assert [status for status, _, _ in answers] == [2, 2]
    told = "".join(err for _, _, err in answers)
    assert told.count("\n") == 1 and "is in use by another quantize" in told
