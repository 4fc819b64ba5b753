"""Several processes that do one piece of work together, each on a device of its own.

A launcher starts them: accelerate or torchrun, as the page on many devices says. Process 0 is the main one:
only it prints and writes.

Work is a list of parts, for example batches of images. Process p of P does the parts p, p + P, p + 2 P, ... A
part is the same computation in each process. So its result has the same bits for each number of processes, as
long as the processes have the same kind of processor or GPU and the same number of threads.

accelerate starts and connects the processes. It is imported only where there are several.
"""

import contextlib
import importlib.util
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

Part = TypeVar("Part")

LONGEST_WAIT = timedelta(days=1)  # for a process with a slower device; one that ends is noticed at once
ANSWER = timedelta(seconds=5)  # most time in which the launcher says whether another process has told


class Lost(ConnectionError):
    """Another process of the run has ended before its work was done."""


@dataclass(frozen=True)
class Processes:
    """The processes of a run, as one of them sees them.

    Args:
        number: of this process, counted from 0.
        count: how many there are.
        device: the torch device of this process; "" if it is free to choose.
        group: of torch.distributed, for values in main memory; None for a single process.
        local: how many of them are on this machine, and share its memory and its disk.
    """

    number: int = 0
    count: int = 1
    device: str = ""
    group: Any = None
    local: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process prints and writes."""
        return self.number == 0

    def owner(self, part: int) -> int:
        """Return the number of the process that does a part of the work."""
        return part % self.count

    def share(self, parts: Sequence[Part]) -> Sequence[Part]:
        """Return the parts of the work that this process does."""
        return parts[self.number :: self.count]

    def gathered(self, own: Iterable[Part], total: int) -> Iterator[tuple[int, Part]]:
        """Yield the number and the result of every part in the main process, and nothing in the others.

        Each process first computes its own parts, and then sends them to the main one.

        Args:
            own: the results of ``share``, in order; each can be pickled, and has its tensors on the CPU.
            total: the number of all parts.

        Raises:
            Lost: another process has ended.
        """
        if self.is_main:
            yield from zip(range(0, total, self.count), own, strict=True)
        else:
            for result in list(own):
                self._send(result)
        if self.count == 1:
            return
        if self.is_main:
            others = (k for k in range(total) if self.owner(k) != self.number)
            yield from ((k, self._received(self.owner(k))) for k in others)
        self.wait()

    def agreed(self, value: Part, owner: int = 0) -> Part:
        """Return the value that the process ``owner`` has, in every process. Raises Lost."""
        if self.count == 1:
            return value
        from torch import distributed

        box = [value if self.number == owner else None]
        with _connected():
            distributed.broadcast_object_list(box, owner, self.group)
        return box[0]

    def once(self, make: Callable[[], Part]) -> Part:
        """Return, in every process, what ``make()`` returns in the main one; the others wait. Raises Lost."""
        return self.agreed(make() if self.is_main else None)

    def added(self, tensors: Sequence[Any]) -> Sequence[Any]:
        """Return the sum of each tensor over all processes. All tensors have one type. Raises Lost."""
        if self.count == 1 or not tensors:
            return tensors
        import torch

        flat = torch.cat([tensor.flatten() for tensor in tensors])
        with _connected():
            torch.distributed.all_reduce(flat, group=None if flat.is_cuda else self.group)
        sums = flat.split([tensor.numel() for tensor in tensors])
        return [total.view(tensor.shape) for tensor, total in zip(tensors, sums, strict=True)]

    def wait(self) -> None:
        """Wait until every process is here. Raises Lost."""
        if self.count > 1:
            from torch import distributed

            with _connected():
                distributed.barrier(self.group)

    def _send(self, value: Any) -> None:
        from torch import distributed

        with _connected():
            distributed.send_object_list([value], 0, self.group)

    def _received(self, sender: int) -> Any:
        from torch import distributed

        box = [None]
        with _connected():
            distributed.recv_object_list(box, sender, self.group)
        return box[0]


ALONE = Processes()
"""A single process, which does all parts."""


def launched() -> bool:
    """Return whether a launcher has started this process as one of several."""
    return "LOCAL_RANK" in os.environ and int(os.environ.get("WORLD_SIZE", 1)) > 1


@cache
def started(cpu: bool = False) -> Processes:
    """Connect this process with the others that the launcher has started; ``ALONE`` if there are none.

    Args:
        cpu: whether they compute on the CPU even if there are GPUs.

    Raises:
        ValueError: there are more processes on this machine than GPUs.
    """
    if not launched():
        return ALONE
    import torch
    from accelerate import PartialState

    local, devices = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    cpu = cpu or not devices
    if not cpu and local >= devices:
        raise ValueError(f"process {local} of this machine has no GPU: start {devices} processes on it")
    state = PartialState(cpu=cpu, timeout=LONGEST_WAIT)
    group = torch.distributed.new_group(backend="gloo", timeout=LONGEST_WAIT)
    if state.process_index:
        hide_bars_of_loading()
    here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return Processes(state.process_index, state.num_processes, str(state.device), group, here)


def hide_bars_of_loading() -> None:
    """Hide the progress bars that diffusers and transformers show while they load a model."""
    for name in ("diffusers", "transformers"):
        if importlib.util.find_spec(name):  # transformers is needed for models with a text only
            importlib.import_module(name).utils.logging.disable_progress_bar()


def is_first_to_tell() -> bool:
    """Return whether this process is the first of the run that has to tell why the run ends.

    The first question is answered with True, the same question of any other process with False.
    """
    if not launched():
        return True
    from torch.distributed import TCPStore

    try:
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        return TCPStore(host, port, is_master=False, timeout=ANSWER).add("qdiff told", 1) == 1
    except (RuntimeError, KeyError):  # the launcher has ended too
        return True


@contextlib.contextmanager
def _connected() -> Iterator[None]:
    """Raise ``Lost`` for the errors of torch.distributed in the block."""
    try:
        yield
    except RuntimeError as error:
        raise Lost("another process of this run has ended, or was killed: look for its reason") from error
