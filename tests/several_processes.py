"""Runs a function in several processes on this machine, connected as a launcher connects them."""

import multiprocessing
import os
import pickle
import queue
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch
from torch.distributed import TCPStore

from qdiff_lib.utils.processes import started

PATIENCE = 180  # seconds until the processes are killed, and the test fails

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["accelerate", "transformers.models.clip.modeling_clip", "tests.tiny_models", "qdiff_lib.ptq.quantize"]
)


def together(count: int, function: Callable, *given: Any, silent: int | None = None) -> list[Any]:
    """Call ``function(processes, *given)`` in ``count`` processes; returns the results by process number.

    function: at the top level of a module. An error that it raises is its result. silent: the process that
    will not answer, as it is killed; its result is None.

    Raises TimeoutError after ``PATIENCE`` seconds.
    """
    answers, ports, threads = FORKS.Queue(), FORKS.Queue(), torch.get_num_threads()
    launcher = FORKS.Process(target=keep_store, args=(ports,), daemon=True)
    launcher.start()
    port = ports.get(timeout=PATIENCE)
    workers = [
        FORKS.Process(target=work, args=(answers, number, count, port, threads, function, given), daemon=True)
        for number in range(count)
    ]
    for worker in workers:
        worker.start()
    try:
        answered = [answers.get(timeout=PATIENCE) for number in range(count) if number != silent]
    except queue.Empty:
        raise TimeoutError(f"not all of {count} processes answered within {PATIENCE} s") from None
    finally:
        for worker in workers:
            worker.join(5)
            worker.kill()
        launcher.kill()
    found = {number: pickle.loads(answer) for number, answer in answered}
    return [found.get(number) for number in range(count)]


def keep_store(ports) -> None:
    """Keep the store in which the others find each other, as torchrun does: it outlives them.

    Its threads run in a process of its own. So nothing that happens in them can end the tests.
    """
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    ports.put(store.port)
    time.sleep(10 * PATIENCE)


def work(answers, number: int, count: int, port: int, threads: int, function: Callable, given: tuple) -> None:
    """What each process does. It has as many threads as this one, as sums depend on their number."""
    torch.set_num_threads(threads)
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(count)}
    os.environ |= {"LOCAL_WORLD_SIZE": str(count)}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "OMP_NUM_THREADS": str(threads)}
    try:
        answer = function(started(cpu=True), *given)
    except Exception as error:
        traceback.print_exc()
        answer = error
    answers.put((number, pickle.dumps(answer)))  # a queue would send tensors through the sender's memory
    answers.close()
    answers.join_thread()
