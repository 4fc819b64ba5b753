"""The process in the sandbox. It runs answers on inputs, and knows no right value and no verdict.

A first process talks to the grader. For each exercise it forks a second one, which runs the statements and
the calls of this exercise, and it passes frames between the two. So an exercise starts from a clean process,
and nothing that it leaves behind reaches the next.
"""

import contextlib
import ctypes
import os
import random
import resource
import signal
import socket
import time
import types
from collections.abc import Callable

import torch
import wrapt

from ..plain import plain
from .codec import HEADER, Refused, decode, encode, frame_size
from .slices import Found, find_answers, run

MEMORY = 3 * 2**30  # bytes that an answer may have, besides torch itself
FILE_SIZE = 2**26
OPEN_FILES = 256
SET_DUMPABLE, BECOME_REAPER = 4, 36  # numbers of prctl
CLEAN_SECONDS = 2.0
FIXED = (int, float, str, bytes, type(None))  # arguments that no function can change


def main() -> None:
    """Serve the grader on standard input and output until it closes them."""
    grader = os.fdopen(os.dup(0), "rb", buffering=0), os.fdopen(os.dup(1), "wb", buffering=0)
    silence()
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.prctl(BECOME_REAPER, 1, 0, 0, 0)
        libc.prctl(SET_DUMPABLE, 0, 0, 0, 0)  # an answer cannot read or change this process
    send(grader[1], encode("ready"))
    worker: tuple[int, socket.socket] | None = None
    while (frame := receive(grader[0])) is not None:
        header, body = frame
        if begins(body):
            end(worker)
            worker = fork(grader)
        reply = exchange(worker, header + body)
        send(grader[1], reply)


def begins(body: bytes) -> bool:
    """Whether the frame starts an exercise."""
    return body.startswith(b'{"dict": [["begin"')


def silence() -> None:
    """Connect standard input and outputs to nothing."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)


def send(stream, data: bytes) -> None:
    """Write all of the data."""
    view = memoryview(data)
    while view:
        view = view[stream.write(view) :]


def receive(stream) -> tuple[bytes, bytes] | None:
    """Header and body of the next frame; None at the end of the stream. Raises Refused if it is too large."""
    header = exactly(stream.read, HEADER.size)
    if header is None:
        return None
    body = exactly(stream.read, frame_size(header))
    return None if body is None else (header, body)


def exactly(read: Callable[[int], bytes], size: int) -> bytes | None:
    """So many bytes, or None if the stream ends before."""
    parts, left = [], size
    while left:
        part = read(min(left, 2**20))
        if not part:
            return None
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def fork(grader: tuple) -> tuple[int, socket.socket]:
    """Start the process of an exercise; returns its number, and the socket to it."""
    here, there = socket.socketpair()
    number = os.fork()
    if number:
        there.close()
        return number, here
    try:
        here.close()
        for stream in grader:
            stream.close()
        os.setsid()
        restrict()
        serve(there)
    finally:
        os._exit(0)


def exchange(worker: tuple[int, socket.socket], frame: bytes) -> bytes:
    """Pass a frame to the process of the exercise; returns its reply, or a frame that says that it ended."""
    try:
        worker[1].sendall(frame)
        reply = receive(types.SimpleNamespace(read=worker[1].recv))
        if reply is not None:
            return b"".join(reply)
    except (OSError, Refused):
        pass
    return encode({"ended": True})


def end(worker: tuple[int, socket.socket] | None) -> None:
    """End the process of an exercise and all that it started. If something resists, end everything."""
    if worker is None:
        return
    worker[1].close()
    limit = time.monotonic() + CLEAN_SECONDS
    while remaining := descendants():
        for number in remaining:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if time.monotonic() > limit:
            os._exit(1)
        time.sleep(0.001)


def descendants() -> list[int]:
    """The processes below this one: orphans come to it, as it is their reaper."""
    found, queue = [], [os.getpid()]
    while queue:
        parent = queue.pop()
        for thread in listing(f"/proc/{parent}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{parent}/task/{thread}/children") as file:
                children = list(map(int, file.read().split()))
                found += children
                queue += children
    return found


def listing(folder: str) -> list[str]:
    """The names in a folder; none if there is no such folder."""
    try:
        return os.listdir(folder)
    except OSError:
        return []


def restrict() -> None:
    """Limit memory, files and processor time of this process and what it starts."""
    pages = 0
    with contextlib.suppress(OSError), open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    seconds = int(os.environ.get("QDIFF_ANSWER_SECONDS", "60")) + 5
    limits = {
        resource.RLIMIT_AS: pages * resource.getpagesize() + MEMORY,
        resource.RLIMIT_DATA: 2 * MEMORY,
        resource.RLIMIT_FSIZE: FILE_SIZE,
        resource.RLIMIT_NOFILE: OPEN_FILES,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_CPU: seconds,
    }
    for kind, limit in limits.items():
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(kind, (limit, limit))


def serve(channel: socket.socket) -> None:
    """Run the statements of one exercise, then its calls, until the channel closes."""
    stream = types.SimpleNamespace(read=channel.recv)
    header, body = receive(stream)
    begin = decode(header, body, trusted=True)["begin"]
    forbid(begin["course_answers"])
    random.seed(0)
    torch.manual_seed(0)
    found = find_answers(begin["cells"], begin["exercise"])
    answer, said = prepare(found, begin["exercise"], begin["candidate"])
    channel.sendall(encode(said))
    while (frame := receive(stream)) is not None:
        request = decode(*frame, trusted=True)
        channel.sendall(packed([call(answer, arguments) for arguments in request["calls"]]))


def prepare(found: Found, exercise: str, candidate: int) -> tuple[object, dict]:
    """The learner's function, and what the grader is told: how many definitions there are, what failed."""
    said = {"candidates": len(found.candidates), "broken": found.broken, "failed": [], "raised": None}
    namespace = {"__name__": "__main__", "torch": torch, "Tensor": torch.Tensor, "display": print}
    if candidate >= len(found.candidates):
        return None, said
    chosen = found.candidates[candidate]
    try:
        said["failed"] = run(chosen.needed, chosen.answer, namespace)[:5]
        answer = namespace[exercise.partition(".")[2]]
    except (Exception, SystemExit) as error:
        return None, said | {"raised": described(error)}
    return answer, said | {"callable": callable(answer), "kind": type(answer).__name__}


def described(error: BaseException) -> list[str]:
    """Class and message of an error."""
    try:
        return [type(error).__name__[:100], str(error)[:1000]]
    except Exception:
        return [type(error).__name__[:100], ""]


def call(answer: Callable, arguments: tuple) -> dict:
    """Call the learner's function; returns the value or the error, and the arguments that it changed."""
    before = {i: encode(each) for i, each in enumerate(arguments) if not isinstance(each, FIXED)}
    try:
        value = plain(answer(*arguments))
    except (Exception, SystemExit) as error:
        return {"raised": described(error)}
    changed = [[i, arguments[i]] for i, was in before.items() if safely(arguments[i]) not in (was, b"")]
    return {"value": value, "changed": changed}


def safely(value: object) -> bytes:
    """The frame of an argument after the call, or nothing if it became what cannot be sent."""
    try:
        return encode(value)
    except Refused:
        return b""


def packed(results: list[dict]) -> bytes:
    """The frame of all results; of an error if they are too large or no data."""
    try:
        return encode({"results": results}, named=False)
    except (Refused, MemoryError, RecursionError) as error:
        return encode({"results": [{"refused": str(error)}] * len(results)})


def forbid(names: list[str]) -> None:
    """Replace the course's own answers, "module:name", with functions that say so, when they are imported."""
    for name in names:
        module, _, attribute = name.partition(":")

        def replace(loaded: types.ModuleType, attribute: str = attribute) -> None:
            def refuse(*arguments: object, **named: object) -> None:
                raise PermissionError(f"{attribute} is the course's own answer: write your own.")

            owner, _, last = attribute.rpartition(".")
            setattr(getattr(loaded, owner) if owner else loaded, last, refuse)

        wrapt.when_imported(module)(replace)


if __name__ == "__main__":
    main()
