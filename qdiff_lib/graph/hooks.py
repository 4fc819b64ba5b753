"""Looking at what the modules of a network read and put out while it runs."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from torch import nn

Hooks = Iterable[tuple[nn.Module, Callable]]


@contextmanager
def hooked(before: Hooks = (), after: Hooks = ()) -> Iterator[None]:
    """Within the block, ``hook(module, args, kwargs)`` is called before these modules run.

    Those of ``after`` are called when their modules have run: ``hook(module, args, kwargs, output)``.
    """
    handles = [module.register_forward_pre_hook(hook, with_kwargs=True) for module, hook in before]
    handles += [module.register_forward_hook(hook, with_kwargs=True) for module, hook in after]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def watched_inputs(network: nn.Module, names: Iterable[str], look: Callable):
    """Within the block, ``look(name, x)`` sees each input of the named layers."""

    def hook(name: str) -> Callable:
        return lambda module, args, kwargs: look(name, args[0])

    return hooked(before=[(network.get_submodule(name), hook(name)) for name in names])


def watched_outputs(network: nn.Module, names: Iterable[str], look: Callable):
    """Within the block, ``look(name, output)`` sees what the named modules put out."""

    def hook(name: str) -> Callable:
        return lambda module, args, kwargs, output: look(name, output)

    return hooked(after=[(network.get_submodule(name), hook(name)) for name in names])
