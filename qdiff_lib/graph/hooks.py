"""Looking at what the layers of a network read and put out while it runs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def hooked(network: nn.Module, layers: list[str], look: Callable, outputs: bool = False) -> Iterator[None]:
    """Within the block, ``look(layer, x)`` sees each input (or output) of the named layers."""
    handles = []
    for layer in layers:
        module = network.get_submodule(layer)
        if outputs:
            hook = module.register_forward_hook(lambda _, args, out, name=layer: look(name, out))
        else:
            hook = module.register_forward_pre_hook(lambda _, args, name=layer: look(name, args[0]))
        handles.append(hook)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
