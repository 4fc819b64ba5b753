"""The process that runs one answer, in the sandbox: its statements first, then its calls."""

import contextlib
import os
import random
import resource
import socket
import types
from collections.abc import Callable

import torch
import wrapt

from ..plain import plain
from .codec import HEADER, Refused, decode, encode, frame_size, to_table
from .slices import Found, find_answers, run

MEMORY = 3 * 2**30  # bytes that an answer may have, besides torch itself
FILE_SIZE = 2**26
OPEN_FILES = 256
FIXED = (int, float, str, bytes, type(None))  # arguments that no function can change


def receive(read: Callable[[int], bytes]) -> tuple[bytes, bytes] | None:
    """Header and body of the next frame; None at the end of the stream. Raises Refused if it is too large."""
    header = exactly(read, HEADER.size)
    if header is None:
        return None
    body = exactly(read, frame_size(header))
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
    begin = decode(*receive(channel.recv), trusted=True)["begin"]
    forbid(begin["course_answers"])
    random.seed(0)
    torch.manual_seed(0)
    found = find_answers(begin["cells"], begin["exercise"])
    answer, said = prepare(found, begin["exercise"], begin["candidate"])
    channel.sendall(encode(said))
    while (frame := receive(channel.recv)) is not None:
        calls = decode(*frame, trusted=True)["calls"]
        channel.sendall(
            packed(call_all(answer, calls.tolist() if isinstance(calls, torch.Tensor) else calls))
        )


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


def call_all(answer: Callable, cases: list) -> list[dict]:
    """The outcomes of calls, up to the first that fails."""
    results = []
    for arguments in cases:
        results.append(call(answer, tuple(arguments)))
        if "raised" in results[-1]:
            break
    return results


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
    table = to_table([(result.get("value"),) for result in results])
    if table is not None and not any(result.get("changed") for result in results):
        return encode({"table": table}, trusted=False)
    try:
        return encode({"results": results}, trusted=False)
    except (Refused, MemoryError, RecursionError) as error:
        return encode({"results": [{"refused": str(error)}]})


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
