"""Observing the inputs and outputs of a network's modules while it runs."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from torch import nn

Hooks = Iterable[tuple[nn.Module, Callable]]


@contextmanager
def hooked(before: Hooks = (), after: Hooks = ()) -> Iterator[None]:
    """Attach hooks to modules within the block.

    Args:
        before: pairs (module, hook); ``hook(module, args, kwargs)`` is called before the module runs.
        after: pairs (module, hook); ``hook(module, args, kwargs, output)`` is called after the module has
            run.
    """
    handles = [module.register_forward_pre_hook(hook, with_kwargs=True) for module, hook in before]
    handles += [module.register_forward_hook(hook, with_kwargs=True) for module, hook in after]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def watched_inputs(network: nn.Module, names: Iterable[str], look: Callable):
    """Within the block, call ``look(name, x)`` with each input of the named layers.

    Raises:
        AttributeError: the network has no module of a name.
    """

    def hook(name: str) -> Callable:
        return lambda module, args, kwargs: look(name, args[0])

    return hooked(before=[(network.get_submodule(name), hook(name)) for name in names])


def watched_outputs(network: nn.Module, names: Iterable[str], look: Callable):
    """Within the block, call ``look(name, output)`` with each output of the named modules.

    Raises:
        AttributeError: the network has no module of a name.
    """

    def hook(name: str) -> Callable:
        return lambda module, args, kwargs, output: look(name, output)

    return hooked(after=[(network.get_submodule(name), hook(name)) for name in names])
