"""A limit of time for what runs on the main thread."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

LIMIT = 60.0  # seconds for a check, in which all answers of the course take less than five
AGAIN = 0.5  # seconds until the next interruption, for code that catches every exception


class TooLong(BaseException):
    """The limit of time is over. No Exception, so that ``except Exception`` does not catch it."""


@contextmanager
def stopped_after(seconds: float | None) -> Iterator[None]:
    """Raise ``TooLong`` in the body after ``seconds``; afterwards handler and timer are as before.

    There is no limit for None, on other threads than the main one, and without ``signal.setitimer``.
    """
    main = threading.current_thread() is threading.main_thread()
    if seconds is None or not main or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise TooLong

    begun = time.monotonic()
    handler = signal.signal(signal.SIGALRM, stop)
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:  # somebody else's timer goes on, and is late at most
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - begun), 1e-3), interval)
