"""Runs commands in processes that are killed at chosen moments, with the real code and real signals.

Importing torch and diffusers takes longer than a small quantization. So a server imports them once and forks
a child for each run. The child runs ``qdiff_lib.__main__``; its output goes to a file. The child is killed at
a file event (an audit event of Python, such as the renaming of a file), or by a signal from outside.
"""

import argparse
import dataclasses
import json
import os
import re
import runpy
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree")
SMALL = dict(steps=4, samples=16, iterations=6, step_size_iterations=3, batch_size=4)
STAGES = dict(network_iterations=20, bias_correction_images=4)  # stages after the last unit
PATIENCE = 120  # longest time of a wait in seconds


@dataclasses.dataclass(frozen=True)
class Event:
    """A file event at which a process gets a signal.

    number: the signal. kind: one of ``EVENTS``; None for any of them. path: a regular expression for the
    paths of the event. nth: which of the matching events, counted from 1.
    """

    number: int
    kind: str | None = None
    path: str = ""
    nth: int = 1


@dataclasses.dataclass(frozen=True)
class Ended:
    """A process that has ended.

    status: the exit status, or minus the number of the signal that killed it. text: all of its output.
    """

    status: int
    text: str

    def advised(self) -> list[str] | None:
        """The arguments of the command that the output advises to continue with; None without advice."""
        found = re.search(r"^stopped; to go on: python -m qdiff_lib (.*)$", self.text, re.MULTILINE)
        return shlex.split(found.group(1)) if found else None


def save_model(folder: Path) -> Path:
    """Write a pipeline with a tiny random network of nine units to ``folder``; returns ``folder``."""
    import torch
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    torch.manual_seed(0)
    blocks = dict(down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), block_out_channels=(8,))
    shape = dict(sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, norm_num_groups=4)
    unet = UNet2DModel(**shape, **blocks, add_attention=False)
    DDPMPipeline(unet=unet, scheduler=DDPMScheduler(num_train_timesteps=100)).save_pretrained(folder)
    return folder


class Server:
    """A process that forks a child for each run; use it in a ``with`` block.

    small: the profile "tiny" gets fewer iterations, and the stages after the last unit.
    """

    def __init__(self, small: bool = True):
        command = [sys.executable, "-m", "tools.kills", *(["--small"] if small else [])]
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.process = subprocess.Popen(command, cwd=ROOT, **pipes)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *exception) -> None:
        self.process.stdin.close()
        self.process.wait()

    def run(
        self,
        argv: list[str],
        log: Path,
        event: Event | None = None,
        watch: Callable[[int], None] | None = None,
        count: Path | None = None,
    ) -> Ended:
        """Run ``python -m qdiff_lib`` with the arguments ``argv`` until it ends.

        log: the file for its output. event: where it gets a signal; None: nowhere. watch: called with the
        child's process id, for example to kill it. count: the child writes its number of file events of each
        kind to this file, as JSON.
        """
        job = {"argv": argv, "log": str(log), "count": count and str(count)}
        job["event"] = event and dataclasses.asdict(event)
        print(json.dumps(job), file=self.process.stdin, flush=True)
        child = int(self.process.stdout.readline())
        if watch:
            watch(child)
        return Ended(int(self.process.stdout.readline()), log.read_text())


def wait_for(condition: Callable[[], bool], running: Callable[[], bool]) -> None:
    """Wait until ``condition()`` is true.

    Raises TimeoutError if ``running()`` becomes false before, or after ``PATIENCE`` seconds.
    """
    end = time.monotonic() + PATIENCE
    while not condition():
        if not running() or time.monotonic() > end:
            raise TimeoutError("the moment at which to kill never came")
        time.sleep(0.002)


def is_running(process: int) -> bool:
    """Whether the process with this id runs, on Linux and macOS; a zombie process does not run."""
    state = subprocess.run(["ps", "-o", "state=", "-p", str(process)], capture_output=True, text=True).stdout
    return bool(state.strip()) and not state.startswith("Z")


def serve(small: bool) -> None:
    """The server: for each line of stdin, which is a job, print the child's process id, then its exit status.

    small: as in ``Server``.
    """
    import diffusers  # noqa: F401
    import torch

    import qdiff_lib.io.checkpoint
    import qdiff_lib.io.models
    import qdiff_lib.recipes.recipe

    torch.set_num_threads(1)
    if small:
        qdiff_lib.recipes.recipe.PROFILES["tiny"] |= {**SMALL, **STAGES}
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if child == 0:
            run_job(job)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def run_job(job: dict) -> None:
    """Run a job in the child, as a new interpreter would run it; does not return."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in ("SIGTERM", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    seen = counted(Event(**job["event"]) if job["event"] else None)
    sys.argv = ["qdiff_lib", *job["argv"]]
    status = 1
    try:
        runpy.run_module("qdiff_lib", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        status = ended.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
    if job["count"]:
        Path(job["count"]).write_text(json.dumps(Counter(seen)))
    sys.stdout.flush()
    os._exit(status or 0)


def counted(event: Event | None) -> list[str]:
    """Record the file events of this process from now on, and send it the signal at ``event``.

    Returns the list that grows by the name of each file event.
    """
    seen = []
    matched = [0]

    def hook(name: str, args: tuple) -> None:
        if name not in EVENTS or "__pycache__" in (text := " ".join(map(str, args[:2]))) or ".py" in text:
            return
        seen.append(name)
        if event and event.kind in (None, name) and re.search(event.path, text):
            matched[0] += 1
            if matched[0] == event.nth:
                os.kill(os.getpid(), event.number)

    sys.addaudithook(hook)
    return seen


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="few iterations, and the stages after the units")
    serve(parser.parse_args().small)
