"""Several processes: how they share work, what they tell each other, and what they do if one is lost."""

import os
import subprocess
import sys

import pytest
import torch
from several_processes import together

from qdiff_lib.utils.processes import ALONE, Lost, Processes, launched, started


def squares(processes, total):
    own = (k * k for k in processes.share(range(total)))
    return list(processes.gathered(own, total))


@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("total", [0, 1, 7, 8])
def test_each_part_is_done_by_its_owner_alone(count, total):
    shares = [Processes(number, count).share(range(total)) for number in range(count)]
    assert sorted(part for share in shares for part in share) == list(range(total))
    assert all(Processes(0, count).owner(part) == p for p, share in enumerate(shares) for part in share)
    assert len(shares[0]) == max(map(len, shares))  # so the bar of the main process is the bar of all


def test_a_single_process_gathers_in_order_without_waiting_for_the_last_part():
    done = []
    parts = ALONE.gathered((done.append(k) or k for k in range(3)), 3)
    assert next(parts) == (0, 0) and done == [0]
    assert list(parts) == [(1, 1), (2, 2)]


@pytest.mark.parametrize("count", [2, 3])
def test_the_main_process_gathers_all_parts_and_the_others_none(count):
    main, *others = together(count, squares, 5)
    assert sorted(main) == [(k, k * k) for k in range(5)]
    assert others == [[]] * (count - 1)


def agreements(processes):
    own = {"number": processes.number, "x": torch.full((2,), float(processes.number))}
    return [processes.agreed(own, owner)["number"] for owner in range(processes.count)]


def test_every_process_gets_the_value_of_the_owner():
    assert together(3, agreements) == [[0, 1, 2]] * 3


def once(processes):
    return processes.local, processes.once(lambda: os.getpid()), os.getpid()


def test_the_main_process_makes_a_value_for_all():
    (local, made, main), (others, copied, other) = together(2, once)
    assert made == copied == main != other and local == others == 2


def listens(processes):
    if processes.number == 1:
        os._exit(9)  # as if it were killed
    return processes.agreed(1, owner=1)


def sends(processes):
    if processes.number == 1:
        os._exit(9)
    return list(processes.gathered(processes.share([1, 2]), 2))


@pytest.mark.parametrize("function", [listens, sends])
def test_a_process_that_was_killed_is_noticed_by_the_others(function):
    error = together(2, function, silent=1)[0]
    assert isinstance(error, Lost) and "another process of this run has ended" in str(error)


def test_without_a_launcher_there_is_one_process_and_no_accelerate(monkeypatch):
    assert not launched() and started() is ALONE
    code = "import sys, qdiff_lib.cli.main as m, qdiff_lib.utils.processes as p; p.started(); "
    code += "print('accelerate' in sys.modules, 'torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert found.stdout.split() == ["False", "False"], found.stderr
