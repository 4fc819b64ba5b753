"""A function in a process of its own: its memory is not that of what ran before."""

import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

PRELOADED = ["qdiff_lib.cli.demo", "qdiff_lib.ptq.quantize"]


def apart(function: Callable, *args) -> Any:
    """``function(*args)``, run in a fresh process that ends with this one; all of them must be picklable.

    Where the system has it, a server process imports the library once, and the fresh ones are its forks.
    """
    quick = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if quick else "spawn")
    if quick:
        context.set_forkserver_preload(PRELOADED)
    with ProcessPoolExecutor(1, context, initializer=end_with_parent) as pool:
        return pool.submit(function, *args).result()


def end_with_parent() -> None:
    """Make this process end when the one that asked for it does, even if that was killed."""

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
