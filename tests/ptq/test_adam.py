"""Adam with numbers that are known beforehand has the bits of torch's."""

import pytest
import torch

from qdiff_lib.ptq.adam import Adam, adam_numbers, cosine_rates, on_device

ITERATIONS = 30


def parameters():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, requires_grad=True) for shape in ((5, 3), (7,), ())]


def loss(values):
    return sum(value.sin().square().sum() + value.sum() * 0.1 for value in values)


@pytest.mark.parametrize("kind", ["numbers", "tensors"])
def test_two_groups_with_cosine_decay(kind):
    theirs, ours = parameters(), parameters()
    optimizer = torch.optim.Adam([{"params": theirs[:2], "lr": 0.05}, {"params": theirs[2:], "lr": 0.3}])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, ITERATIONS)
    adam = Adam([ours[:2], ours[2:]])
    numbers = adam_numbers([cosine_rates(0.05, ITERATIONS), cosine_rates(0.3, ITERATIONS)])
    for row in numbers:
        optimizer.zero_grad()
        loss(theirs).backward()
        optimizer.step()
        schedule.step()
        row = torch.tensor(row).unbind() if kind == "tensors" else row
        adam.update(torch.autograd.grad(loss(ours), ours), row)
        assert all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))
    assert not any(torch.equal(*pair) for pair in zip(ours, parameters(), strict=True))


def test_numbers_for_another_device_come_as_tensors_of_the_same_lengths():
    rows = [[], [1.5, 2.5], [3.5, 4.5]]
    assert list(on_device(rows, torch.device("cpu"))) == rows
    found = list(on_device(rows, torch.device("meta")))
    assert [len(row) for row in found] == [0, 2, 2]
    assert all(x.device.type == "meta" and x.shape == () for row in found for x in row)
