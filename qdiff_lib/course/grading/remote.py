"""The grader's side of the process that runs answers: it starts and calls it, and trusts nothing of it."""

import contextlib
import os
import select
import site
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ...utils.sandbox import Running, Sandbox
from ..checks import Raised
from .codec import HEADER, Refused, decode, encode, frame_size, to_table

START_SECONDS = 120  # for the imports, on a busy machine
CALLS = 20_000  # of one frame
WATCH_SECONDS = 0.2  # between two looks at the memory
MEMORY = 5 * 2**30  # bytes of all processes of a sandbox, without what they share
PROCESSES = 64
PACKAGE = Path(__file__).resolve().parents[2]
ENVIRONMENT = {
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "MPLBACKEND": "Agg",
    "OMP_NUM_THREADS": "1",
    "PATH": "/usr/bin:/bin",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONHASHSEED": "0",
    "QDIFF_PROFILE": "tiny",
    "QDIFF_PROGRESS": "off",
}


class Stopped(BaseException):
    """There is no answer; the message says why. No Exception: a check must not catch it.

    The process in the sandbox must be replaced, because it does not answer, or cannot be believed.
    """


class Ended(Stopped):
    """The answer's own process ended. The one that talks to the grader goes on."""


@dataclass
class Process:
    """The process in the sandbox. unread: what it wrote and nobody read yet. watched: when, last."""

    running: Running
    unread: bytearray = field(default_factory=bytearray)
    watched: float = 0.0

    def __post_init__(self):
        for pipe in (self.running.process.stdin, self.running.process.stdout):
            os.set_blocking(pipe.fileno(), False)

    def stop(self) -> None:
        """End it, and everything that it started."""
        self.running.stop()
        for pipe in (self.running.process.stdin, self.running.process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()

    def exchange(self, frame: bytes, deadline: float) -> object:
        """Send a frame and return the value of the reply. Raises Stopped, or Refused for a bad reply."""
        self.send(frame, deadline)
        return self.receive(deadline)

    def send(self, frame: bytes, deadline: float) -> None:
        """Write a frame. Raises Stopped if the process does not read it in time."""
        pipe, view = self.running.process.stdin.fileno(), memoryview(frame)
        while view:
            self.wait([], [pipe], deadline)
            try:
                view = view[os.write(pipe, view[: 2**16]) :]
            except BlockingIOError:
                continue
            except OSError:
                raise Stopped("its process ended") from None

    def receive(self, deadline: float) -> object:
        """The value of the next frame. Raises Stopped, or Refused for a frame that breaks the format."""
        header = self.read(HEADER.size, deadline)
        return decode(header, self.read(frame_size(header), deadline))

    def read(self, size: int, deadline: float) -> bytes:
        """Exactly so many bytes."""
        pipe = self.running.process.stdout.fileno()
        while len(self.unread) < size:
            self.wait([pipe], [], deadline)
            try:
                part = os.read(pipe, min(2**20, size - len(self.unread)))
            except BlockingIOError:
                continue
            if not part:
                raise Stopped("its process ended without an answer")
            self.unread += part
        found = bytes(self.unread[:size])
        del self.unread[:size]
        return found

    def wait(self, reads: list[int], writes: list[int], deadline: float) -> None:
        """Wait for a pipe, and watch time and memory. Raises Stopped if they are used up."""
        while True:
            now = time.monotonic()
            if now > deadline:
                raise Stopped("no answer in time")
            if now - self.watched > WATCH_SECONDS:
                self.watch()
            ready = select.select(reads, writes, [], min(WATCH_SECONDS, deadline - now))
            if ready[0] or ready[1]:
                return

    def watch(self) -> None:
        """Raise Stopped if the processes in the sandbox are too many or take too much memory."""
        self.watched = time.monotonic()
        count, memory = self.running.usage()
        if count > PROCESSES:
            raise Stopped(f"it started more than {PROCESSES} processes")
        if memory > MEMORY:
            raise Stopped(f"it took more than {MEMORY / 2**30:.0f} GB of memory")


def start(sandbox: Sandbox, seconds: float) -> Process:
    """A new process, ready for exercises. seconds: the limit for one exercise. Raises Stopped."""
    environment = ENVIRONMENT | {
        "PYTHONPATH": python_path(),
        "QDIFF_ANSWER_SECONDS": str(int(seconds) + 1),
    }
    arguments = ["-m", "qdiff_lib.course.grading.child"]
    process = Process(sandbox.start(arguments, [PACKAGE, *data_folders()], environment))
    try:
        said = process.receive(time.monotonic() + START_SECONDS)
    except (Stopped, Refused) as error:
        process.stop()
        raise Stopped(f"the sandbox ({sandbox.name}) did not start: {error}") from None
    if said != "ready":
        process.stop()
        raise Stopped(f"the sandbox ({sandbox.name}) did not start")
    return process


def python_path() -> str:
    """Where the process finds this library, and the packages that this user installed alone."""
    own = site.getusersitepackages()
    return os.pathsep.join([str(PACKAGE.parent), *([own] if os.path.isdir(own) else [])])


def data_folders() -> list[Path]:
    """The folder of the shipped data, where it is not in the package."""
    beside = PACKAGE.parent / "data"
    return [beside] if (beside / "MANIFEST.json").is_file() else []


@dataclass
class Remote:
    """The learner's function as the check sees it. Each call runs in the sandbox.

    A call raises ``Raised`` for what the function raised. deadline: of all calls together.
    """

    process: Process
    deadline: float

    def __call__(self, *arguments: object) -> object:
        return self.many([arguments])[0]

    def many(self, cases: Iterable[tuple]) -> list:
        """The results for many tuples of arguments, with few messages."""
        cases = [tuple(case) for case in cases]
        parts = [cases[i : i + CALLS] for i in range(0, len(cases), CALLS)]
        return [value for part in parts for value in self.some(part)]

    def some(self, cases: list[tuple]) -> list:
        """The results for as many arguments as fit into a message. Raises Stopped if there is no answer."""
        said = self.said({"calls": cases if (table := to_table(cases)) is None else table})
        results, table = said.get("results"), said.get("table")
        if isinstance(table, Tensor) and table.shape == (len(cases), 1):
            return [value for (value,) in table.tolist()]
        if not isinstance(results, list) or not all(isinstance(result, dict) for result in results):
            raise Stopped("it returned what cannot be read")
        values = [self.outcome(result, case) for result, case in zip(results, cases, strict=False)]
        if len(values) != len(cases):
            raise Stopped("it returned too few results")
        return values

    def said(self, request: dict) -> dict:
        """The reply to a request. Raises Stopped if there is none, or another one."""
        try:
            found = self.process.exchange(encode(request), self.deadline)
        except Refused as error:
            raise Stopped(f"it returned what cannot be read: {error}") from None
        if not isinstance(found, dict):
            raise Stopped("it returned what cannot be read")
        if found.get("ended"):
            raise Ended("its process ended without an answer")
        return found

    def outcome(self, result: dict, arguments: tuple) -> object:
        """The value of one call, after its arguments were changed as the function changed them."""
        if "raised" in result:
            kind, text = [*map(str, listed(result["raised"])), "Exception", ""][:2]
            raise Raised(kind[:100], text[:1000])
        if "refused" in result:
            raise Raised("ValueError", f"it returned what is too large, or no data: {result['refused']}")
        for change in listed(result.get("changed")):
            if isinstance(change, list) and len(change) == 2 and type(change[0]) is int:
                index, value = change
                if 0 <= index < len(arguments):
                    copy_into(arguments[index], value)
        return result.get("value")


def listed(value: object) -> list:
    """The value if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def copy_into(target: object, value: object) -> None:
    """Give an argument the value that the function left in it, where both are of one kind."""
    if isinstance(target, Tensor) and isinstance(value, Tensor) and target.dtype == value.dtype:
        target.data = value
    elif isinstance(target, list) and isinstance(value, list):
        target[:] = value
    elif isinstance(target, dict) and isinstance(value, dict):
        target.clear()
        target.update(value)
    elif isinstance(target, torch.Generator) and isinstance(value, torch.Generator):
        target.set_state(value.get_state())
    elif isinstance(target, tuple) and isinstance(value, tuple):
        for part, new in zip(target, value, strict=False):
            copy_into(part, new)
