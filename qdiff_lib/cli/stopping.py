"""Stopping a command in the same way by Ctrl-C, a closed terminal or a shutdown.

The command cleans up and prints how to continue.
"""

import argparse
import contextlib
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator

from ..utils.processes import is_first_to_tell
from .parser import PROGRAM

NAMES = (
    "SIGINT",
    "SIGTERM",
    "SIGHUP",
)  # Ctrl-C, kill or shutdown, a closed terminal; Windows has the first two
DEFAULTS = (signal.SIG_DFL, signal.default_int_handler)


class Stopped(KeyboardInterrupt):
    """Raised when a signal asks the process to stop; ``number``: of the signal."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


class Stops:
    """Records signals. number: the number of the first signal; None before it."""

    def __init__(self):
        self.number: int | None = None

    def hear(self, number: int, frame: object) -> None:
        """The signal handler: record the signal and raise ``Stopped``."""
        self.number = self.number or number
        raise Stopped(number)


@contextlib.contextmanager
def stoppable(farewell: Callable[[int], int]) -> Iterator[Stops]:
    """A context manager: within it, the signals of ``NAMES`` raise ``Stopped`` in the main thread.

    Ignored signals (as under nohup) and signals with another handler do not change.

    farewell: called with the number of the signal if Python cannot raise ``Stopped``, because the signal
    came during a ``__del__``. The process then exits with the status that ``farewell`` returns.
    """
    stops, known, hook = Stops(), {}, sys.unraisablehook

    def unraisable(problem) -> None:
        if isinstance(problem.exc_value, Stopped):
            os._exit(farewell(problem.exc_value.number))
        hook(problem)

    numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
    if threading.current_thread() is threading.main_thread():
        known = {n: signal.getsignal(n) for n in numbers if signal.getsignal(n) in DEFAULTS}
    try:
        sys.unraisablehook = unraisable
        for number in known:
            signal.signal(number, stops.hear)
        yield stops
    finally:
        sys.unraisablehook = hook
        for number, handler in known.items():
            signal.signal(number, handler)


def ended_in_words(
    work: Callable[[], int], farewell: Callable[[int], int], why: Callable[[Exception], int]
) -> int:
    """Do the work of a command; returns its exit status.

    farewell: gives the status if a signal stops the work, from the signal's number. why: gives it if the work
    fails, from the error.
    """
    try:
        with stoppable(farewell) as stops:
            try:
                return work()
            except BaseException as error:
                if stops.number or isinstance(error, KeyboardInterrupt):  # libraries may replace Stopped
                    ignore_stops()
                    return farewell(stops.number or signal.SIGINT)
                if not isinstance(error, Exception):
                    raise
                return why(error)
    except Stopped as stop:  # a signal just before or after the work
        return farewell(stop.number)


def ignore_stops() -> None:
    """Ignore the signals from now on, so that they do not interrupt the last message."""
    for name in NAMES:
        with contextlib.suppress(AttributeError, ValueError):  # no such signal here; not the main thread
            if isinstance(getattr(signal.getsignal(getattr(signal, name)), "__self__", None), Stops):
                signal.signal(getattr(signal, name), signal.SIG_IGN)


def say_how_to_go_on(args: argparse.Namespace, argv: list[str], number: int) -> int:
    """Print the command that continues after a stop by signal ``number``; returns the exit status.

    A command without ``--resume`` starts from the beginning, and the line says so.
    """
    if not hasattr(args, "resume"):
        return say_stopped(f"{PROGRAM} {shlex.join(argv)}", number, "to start again")
    again = argv if args.resume else [*argv, "--resume"]
    return say_stopped(f"{PROGRAM} {shlex.join(again)}", number)


def say_stopped(again: str, number: int, purpose: str = "to go on") -> int:
    """Print what to do after a stop by signal ``number``; returns the exit status.

    again: the command. purpose: what it is for. Of several processes, one prints it.
    """
    with contextlib.suppress(OSError):  # the terminal may be gone
        if is_first_to_tell():
            print(f"\nstopped; {purpose}: {again}", file=sys.stderr, flush=True)
    return 128 + number
