"""A copy that shares memory: no tensor is copied. Moves and casts of the copy leave the original alone."""

import torch
from tiny_models import unet2d
from torch import nn

from qdiff_lib.graph.sharing import copy_sharing_tensors


def test_a_copy_shares_the_memory_and_nothing_else():
    unet = unet2d()
    made = copy_sharing_tensors(unet)
    for (name, tensor), other in zip(unet.state_dict().items(), made.state_dict().values(), strict=True):
        assert tensor.data_ptr() == other.data_ptr(), name
    assert not {id(x) for x in unet.parameters()} & {id(x) for x in made.parameters()}


def test_a_cast_of_the_copy_leaves_the_original_alone():
    unet = unet2d()
    copy_sharing_tensors(unet).to(torch.float16)
    assert all(x.dtype == torch.float32 for x in unet.parameters())


def test_tied_parameters_stay_tied():
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    network[1].weight = network[0].weight
    made = copy_sharing_tensors(network)
    assert made[0].weight is made[1].weight is not network[0].weight
