"""Ctrl-C, a closed terminal or a shutdown stop a command as one: it cleans up, and says how to go on."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

NAMES = (
    "SIGINT",
    "SIGTERM",
    "SIGHUP",
)  # Ctrl-C, kill or shutdown, a closed terminal; Windows has the first two
DEFAULTS = (signal.SIG_DFL, signal.default_int_handler)


class Stopped(KeyboardInterrupt):
    """The process was asked to stop, by the signal of this number."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


class Stops:
    """What has been heard. number: of the first signal, None before it."""

    def __init__(self):
        self.number: int | None = None

    def hear(self, number: int, frame: object) -> None:
        """The handler of the signals."""
        self.number = self.number or number
        raise Stopped(number)


@contextlib.contextmanager
def stoppable(farewell: Callable[[int], int]) -> Iterator[Stops]:
    """Within the block the signals of ``NAMES`` raise ``Stopped``, in the main thread.

    Signals that are ignored (as under nohup), or have a handler of somebody's own, are left alone. farewell:
    is called with the number of a signal that Python cannot raise, as it came in the midst of a ``__del__``;
    the process then ends with the status that it returns.
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


def ignore_stops() -> None:
    """Let nothing interrupt the last words."""
    for name in NAMES:
        with contextlib.suppress(AttributeError, ValueError):  # no such signal here; not the main thread
            if isinstance(getattr(signal.getsignal(getattr(signal, name)), "__self__", None), Stops):
                signal.signal(getattr(signal, name), signal.SIG_IGN)
