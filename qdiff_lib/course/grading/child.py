"""The process in the sandbox. It runs answers on inputs, and knows no right value and no verdict.

A first process talks to the grader. For each exercise it forks a second one, which runs the statements and
the calls of this exercise, and it passes frames between the two. So an exercise starts from a clean process,
and nothing that it leaves behind reaches the next.
"""

import contextlib
import ctypes
import os
import select
import signal
import socket
import time

from .codec import Refused, encode
from .worker import receive, restrict, serve

SET_DUMPABLE, BECOME_REAPER = 4, 36  # numbers of prctl
CLEAN_SECONDS = 2.0


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
    while (frame := receive(grader[0].read)) is not None:
        header, body = frame
        if body == b'"ping"':
            end(worker)
            worker = None
            send(grader[1], encode("ready"))
            continue
        if begins(body):
            end(worker)
            worker = fork(grader)
        reply = exchange(worker, header + body, grader[0].fileno())
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


def exchange(worker: tuple[int, socket.socket], frame: bytes, grader: int) -> bytes:
    """Pass a frame to the process of the exercise; returns its reply, or a frame that says that it ended.

    grader: the pipe from the grader. If it closes, the grader was killed, and everything here ends. Otherwise
    an answer that sleeps would go on in a container.
    """
    events = select.poll()
    events.register(worker[1], select.POLLIN)
    events.register(grader, 0)  # its end is always told

    def read(count: int) -> bytes:
        if any(number == grader for number, _ in events.poll()):
            end(worker)
            os._exit(1)
        return worker[1].recv(count)

    try:
        worker[1].sendall(frame)
        reply = receive(read)
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


if __name__ == "__main__":
    main()
