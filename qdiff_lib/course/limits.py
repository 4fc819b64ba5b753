"""A limit of time for what runs on the main thread."""

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

LIMIT = 60.0  # seconds for a check, in which all answers of the course take less than five
AGAIN = 0.5  # seconds until the next interruption, for code that catches every exception

Result = TypeVar("Result")


class TooLong(BaseException):
    """The limit of time is over. No Exception, so that ``except Exception`` does not catch it."""


def stopped_after(seconds: float | None, run: Callable[[], Result]) -> Result:
    """What ``run()`` returns; ``TooLong`` is raised in it after ``seconds``. Handler and timer are put back.

    There is no limit for None, on other threads than the main one, and without ``signal.setitimer``.
    """
    main = threading.current_thread() is threading.main_thread()
    if seconds is None or not main or not hasattr(signal, "setitimer"):
        return run()

    def limited() -> Result:
        return run()

    def stop(number: int, frame: FrameType | None) -> None:
        while frame:  # only within the limited code: the cleaning up below is never interrupted
            if frame.f_code is limited.__code__:
                raise TooLong
            frame = frame.f_back

    begun = time.monotonic()
    handler = signal.signal(signal.SIGALRM, stop)
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        return limited()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:  # somebody else's timer goes on, and is late at most
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - begun), 1e-3), interval)
