"""The command ``quantize`` in processes that die at chosen moments: real code and real signals.

Importing torch and diffusers takes longer than a small quantization, so a server does it once and forks a
child for each run. The child runs ``python -m qdiff_lib``'s own ``__main__`` with its output in a file. It
dies at a file event (an audit event of Python, such as the renaming of a file), or is killed from outside.
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
STAGES = dict(network_iterations=20, bias_correction_images=4)  # those after the last unit
PATIENCE = 120  # seconds that a run may take


@dataclasses.dataclass(frozen=True)
class Event:
    """The ``nth`` event of ``sys.audit`` whose name and paths match; then the signal ``number`` comes.

    kind: of ``EVENTS``; None for any of them. path: a regular expression.
    """

    number: int
    kind: str | None = None
    path: str = ""
    nth: int = 1


@dataclasses.dataclass(frozen=True)
class Ended:
    """A process that has ended. status: its exit status, negative for a signal. text: all that it printed."""

    status: int
    text: str

    def advised(self) -> list[str] | None:
        """The arguments of the command with which to go on, as the program says."""
        found = re.search(r"^stopped; to go on: python -m qdiff_lib (.*)$", self.text, re.MULTILINE)
        return shlex.split(found.group(1)) if found else None


def save_model(folder: Path) -> Path:
    """Write a pipeline with a tiny random network of nine units to ``folder``."""
    import torch
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    torch.manual_seed(0)
    blocks = dict(down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), block_out_channels=(8,))
    shape = dict(sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, norm_num_groups=4)
    unet = UNet2DModel(**shape, **blocks, add_attention=False)
    DDPMPipeline(unet=unet, scheduler=DDPMScheduler(num_train_timesteps=100)).save_pretrained(folder)
    return folder


class Server:
    """Forks a child for each run; use it in a ``with`` block. small: the profile tiny is made smaller."""

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
        """Run ``python -m qdiff_lib`` with these arguments to its end.

        log: the file of its output. watch: called with the child's process id, to kill it. count: the file
        into which the child writes how many file events of each kind there were.
        """
        job = {"argv": argv, "log": str(log), "count": count and str(count)}
        job["event"] = event and dataclasses.asdict(event)
        print(json.dumps(job), file=self.process.stdin, flush=True)
        child = int(self.process.stdout.readline())
        if watch:
            watch(child)
        return Ended(int(self.process.stdout.readline()), log.read_text())


def wait_for(condition: Callable[[], bool], running: Callable[[], bool]) -> None:
    """Wait until the condition holds. Raises TimeoutError if the process ends before, or takes too long."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if not running() or time.monotonic() > end:
            raise TimeoutError("the moment at which to kill never came")
        time.sleep(0.002)


def is_running(process: int) -> bool:
    """Whether the process has not ended, on Linux and macOS; a child that nobody waited for has ended."""
    state = subprocess.run(["ps", "-o", "state=", "-p", str(process)], capture_output=True, text=True).stdout
    return bool(state.strip()) and not state.startswith("Z")


def serve(small: bool) -> None:
    """Answer each line of stdin, a job, with two: the process id of the child, and its exit status."""
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
    """What a child does, as a fresh interpreter would; it never returns."""
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
    """Count this process' file events from here on, and send the signal at the one that is asked for."""
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
