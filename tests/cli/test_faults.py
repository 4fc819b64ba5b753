"""Full disks, limits, missing rights and memory, broken input: one line, status 2, nothing half written."""

import contextlib
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_models import ddpm, unet2d

from tools.kills import ROOT, Server, save_model
from tools.torture import files_of

resource = pytest.importorskip("resource", reason="the system has no limits for a process")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="Linux sets limits of other processes"),
]
KILO = 1024


@pytest.fixture(scope="module")
def server():
    with Server() as running:
        yield running


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("model"))


def quantize(model, out, memory_gb="4", *more):
    return ["quantize", "--model", str(model), "--memory-gb", memory_gb, "--out", str(out), *more]


@pytest.fixture(scope="module")
def expected(server, model, tmp_path_factory):
    """The files of a run that lacks nothing."""
    folder = tmp_path_factory.mktemp("whole")
    ended = server.run(quantize(model, folder / "out"), folder / "log")
    assert ended.status == 0, ended.text
    assert "caches up to 0.3 MB: 0.3 MB in memory, 0.0 GB in files\n" in ended.text
    return files_of(folder / "out")


def mounted(folder: Path, *options: str) -> None:
    """Mount a small disk in memory, or change its options."""
    command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root may mount a disk")


@pytest.fixture
def disk(tmp_path):
    """An empty folder on which a small disk may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    yield folder
    while os.path.ismount(folder):
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def read_only(tmp_path, disk):
    """A folder with one file, in which nothing can be written."""
    if os.geteuid() == 0:
        mounted(disk, "size=1m")
    (disk / "kept").write_text("mine")
    if os.geteuid() == 0:
        mounted(disk, "remount", "ro")
    else:
        disk.chmod(0o555)
    yield disk
    disk.chmod(0o755) if os.geteuid() else None


def limited(kind: int, most: int):
    """A limit for a process of the server, set right after its start."""
    return lambda child: resource.prlimit(child, kind, (most, most))


def error_of(ended) -> str:
    """The one line with which a command failed."""
    line = ended.text.rstrip("\n").splitlines()[-1]
    assert ended.status == 2 and "Traceback" not in ended.text, ended.text
    assert line.startswith("python -m qdiff_lib ") and ": error: " in line and len(line) < 700, line
    return line


def debris(folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob("*") if path.name.startswith((".qdiff-", "activations-"))]


# Nothing half written, and the run goes on


@pytest.mark.parametrize(
    ("kilobytes", "memory_gb", "doing"),
    [(350, "0.00001", "quantizing"), (4, "4", "quantizing"), (24, "4", "quantizing"), (56, "4", "writing")],
    ids=["spilling", "begin", "units", "saving"],
)
def test_a_full_disk(kilobytes, memory_gb, doing, server, model, disk, tmp_path, expected):
    mounted(disk, f"size={kilobytes}k")
    argv = quantize(model, disk / "out", memory_gb)
    line = error_of(server.run(argv, tmp_path / "log"))
    assert (
        f"while {doing}" in line and "the disk is full" in line and "repeat the command with --resume" in line
    )
    assert not debris(disk) and not (disk / "out" / "report.json").exists()
    mounted(disk, "remount", "size=8m")
    again = server.run([*argv, "--resume"], tmp_path / "log")
    assert again.status == 0 and files_of(disk / "out") == expected, again.text


@pytest.mark.parametrize(
    ("most", "memory_gb", "doing"),
    [(6 * KILO, "0.00001", "quantizing"), (12 * KILO, "4", "writing")],
    ids=["spilling", "saving"],
)
def test_a_limit_of_file_size(most, memory_gb, doing, server, model, tmp_path, expected):
    argv = quantize(model, tmp_path / "out", memory_gb)
    ended = server.run(argv, tmp_path / "log", watch=limited(resource.RLIMIT_FSIZE, most))
    line = error_of(ended)
    assert f"while {doing}" in line and "larger than this system allows" in line and "ulimit -f" in line
    assert not debris(tmp_path)
    again = server.run([*argv, "--resume"], tmp_path / "log")
    assert again.status == 0 and files_of(tmp_path / "out") == expected, again.text


def test_an_older_picture_stays(server, model, tmp_path):
    picture = tmp_path / "a.png"
    picture.write_text("older")
    argv = ["sample", "--model", str(model), "--n", "256", "--steps", "1", "--out", str(picture)]
    ended = server.run(argv, tmp_path / "log", watch=limited(resource.RLIMIT_FSIZE, 5 * KILO))
    assert "while writing" in error_of(ended) and "larger than" in ended.text
    assert picture.read_text() == "older" and not debris(tmp_path)
    assert server.run(argv, tmp_path / "log").status == 0
    assert picture.read_bytes().startswith(b"\x89PNG") and not debris(tmp_path)


# Found before the work


COMMANDS = {
    "quantize": ["--model", "MODEL", "--out", "OUT/new"],
    "sample": ["--model", "MODEL", "--out", "OUT/new.png"],
    "evaluate": ["--model", "MODEL", "--original", "MODEL", "--out", "OUT/below/new.json"],
    "convert": ["--checkpoint", "MODEL", "--preset", "ldm4-bedrooms", "--out", "OUT/new"],
    "demo": ["--out", "OUT/new"],
}


def filled(command: str, model: Path, out: Path) -> list[str]:
    words = [word.replace("MODEL", str(model)).replace("OUT", str(out)) for word in COMMANDS[command]]
    return [command, *words]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_read_only_folder(command, server, model, read_only, tmp_path):
    ended = server.run(filled(command, model, read_only), tmp_path / "log")
    line = error_of(ended)
    assert ended.text == f"{line}\n"  # no model was loaded, and nothing was drawn
    assert ("read-only" in line or "no permission" in line) and str(read_only) in line
    assert [path.name for path in read_only.iterdir()] == ["kept"]


@pytest.mark.parametrize("command", COMMANDS)
def test_no_room_at_all(command, server, model, disk, tmp_path):
    mounted(disk, "size=4k")
    (disk / "full").write_bytes(bytes(4096))
    ended = server.run(filled(command, model, disk), tmp_path / "log")
    line = error_of(ended)
    assert ended.text == f"{line}\n" and "the disk is full" in line
    assert [path.name for path in disk.iterdir()] == ["full"]


# Memory


def changed_model(model: Path, folder: Path, **changes) -> Path:
    """A copy of the model with other values in its unet/config.json."""
    subprocess.run(["cp", "-r", str(model), str(folder)], check=True)
    config = folder / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **changes}))
    return folder


@pytest.mark.parametrize("command", ["quantize", "sample"])
def test_too_little_memory(command, server, model, tmp_path):
    """64 images of 1,024 x 1,024 pixels: 2 GiB for the output of one layer, and 1 GiB is left."""
    huge = changed_model(model, tmp_path / "huge", sample_size=1024)
    argv = filled(command, huge, tmp_path) + (
        ["--n", "64", "--engine", "simulated"] if command == "sample" else ["--samples", "64"]
    )

    def limit(child: int) -> None:
        held = int(re.search(r"VmSize:\s+(\d+)", Path(f"/proc/{child}/status").read_text())[1]) * 1024
        resource.prlimit(child, resource.RLIMIT_AS, (held + 2**30, held + 2**30))

    ended = server.run(argv, tmp_path / "log", watch=limit)
    line = error_of(ended)
    assert "not enough memory" in line and "bytes" in line and "use a smaller --" in line
    assert not list(tmp_path.glob("new*")) and not debris(tmp_path)


# Errors of libraries, and what cannot be printed


def test_an_error_of_a_library(server, model, tmp_path):
    broken = changed_model(model, tmp_path / "broken", down_block_types=["DownBlock2D", "Nothing"])
    argv = filled("sample", broken, tmp_path)
    line = error_of(server.run(argv, tmp_path / "log"))
    assert str(broken) in line and "Nothing" in line
    shown = server.run([*argv, "--traceback"], tmp_path / "log")
    assert shown.status == 1 and "Nothing" in shown.text.split("Traceback")[1]


@pytest.mark.parametrize("channels", [2, 4])
def test_images_that_are_neither_grey_nor_rgb(channels, server, tmp_path):
    ddpm(unet2d(in_channels=channels, out_channels=channels)).save_pretrained(tmp_path / "model")
    ended = server.run(filled("sample", tmp_path / "model", tmp_path), tmp_path / "log")
    assert f"images of shape ({channels}, 8, 8) cannot be drawn" in error_of(ended)
    assert "64 images" not in ended.text


def run(*argv: str | bytes, **options) -> subprocess.CompletedProcess:
    """The command in a process of its own."""
    program = [sys.executable, "-m", "qdiff_lib", *argv]
    options = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE) | options
    environment = {**os.environ, **options.pop("env", {})}
    return subprocess.run(program, cwd=ROOT, env=environment, timeout=100, **options)


def test_a_console_without_the_characters(model, tmp_path):
    env = dict(PYTHONIOENCODING="ascii", PYTHONUTF8="1")
    out = os.fsencode(tmp_path) + b"/\xc3\xa9\xff.png"  # no UTF-8 at its end
    ended = run("sample", "--model", str(model), "--n", "1", "--steps", "1", "--out", out, env=env)
    assert ended.returncode == 0 and b"/\\xe9\\udcff.png; engine" in ended.stdout, ended.stderr
    assert Path(os.fsdecode(out)).is_file()
    ended = run(b"\xff\n\x1b", env=env)
    assert ended.returncode == 2 and ended.stderr.count(b"\n") == 1 and b"\\udcff" in ended.stderr
    assert b"\x1b" not in ended.stderr


def test_a_text_that_is_not_utf_8(tmp_path):
    ended = run("sample", "--model", "sd-emoji", "--prompt", b"flag \xff", "--out", str(tmp_path / "a.png"))
    assert ended.returncode == 2 and b"--prompt 1: 'flag \\udcff' is not UTF-8" in ended.stderr


def test_an_output_whose_reader_has_ended():
    read, write = os.pipe()
    os.close(read)
    helped = run("--help", stdout=write)
    assert (helped.returncode, helped.stderr) == (0, b"")
    ended = run("doctor", stdout=write)
    os.close(write)
    assert ended.returncode == 2 and ended.stderr.count(b"\n") == 1, ended.stderr
    assert b"error: the output cannot be printed, as its reader has ended" in ended.stderr


def test_files_do_not_get_the_numbers_of_closed_streams(tmp_path):
    """What a library prints as an error would go into such a file."""
    code = "import os, sys; from qdiff_lib.cli.main import main; main(sys.argv[1:])\n"
    code += "file = open('new', 'w'); os.write(2, b'a warning'); print(file.fileno(), file=file)"
    program = f"{shlex.join([sys.executable, '-c', code, 'sample', '--out', 'a.png', '--model', 'none'])} "
    ended = subprocess.run(["sh", "-c", program + "<&- >&- 2>&-"], cwd=tmp_path)
    assert ended.returncode == 0 and int((tmp_path / "new").read_text()) > 2


# The network


def test_a_hub_that_never_answers(tmp_path):
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as silent:
        hub = f"http://127.0.0.1:{silent.getsockname()[1]}"
        env = dict(HF_ENDPOINT=hub, HF_HUB_OFFLINE="0", HF_HOME=str(tmp_path / "home"))
        start = time.monotonic()
        ended = run("sample", "--model", "nosuch/name", "--out", str(tmp_path / "a.png"), env=env)
    assert ended.returncode == 2 and ended.stderr.count(b"\n") == 1, ended.stderr
    assert b"the hub did not answer within 10 seconds" in ended.stderr
    assert time.monotonic() - start < 30
