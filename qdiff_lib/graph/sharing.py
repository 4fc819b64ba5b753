"""A copy of a network that shares the memory of its tensors, so that it takes almost none."""

import copy
import itertools

from torch import Tensor, nn


def copy_sharing_tensors(network: nn.Module) -> nn.Module:
    """Return a copy whose modules, parameters and buffers are new and share the memory of ``network``.

    So modules of the copy can be replaced, and the copy can be moved or cast alone. A change of a value in
    place changes both networks.
    """
    tensors = itertools.chain(network.parameters(), network.buffers())
    return copy.deepcopy(network, memo={id(tensor): same_memory(tensor) for tensor in tensors})


def same_memory(tensor: Tensor) -> Tensor:
    """Return another tensor, or another parameter, with the same memory."""
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(tensor.detach(), requires_grad=tensor.requires_grad)
    return tensor.detach()
