"""One traced forward pass of a UNet: its units in execution order, what each needs, and the shortcut seams.

Nothing is read from the source or from module names: hooks see the modules run, and a torch function mode
sees the operations between them. So it serves any diffusers UNet without editing it.
"""

from dataclasses import dataclass, field

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D, ResnetBlockCondNorm2D
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from .layers import QUANTIZABLE

BLOCKS = (ResnetBlock2D, ResnetBlockCondNorm2D, BasicTransformerBlock, Attention)
KEEPS_CHANNELS = {"contiguous", "to", "clone", "float", "half", "dropout", "interpolate"}


@dataclass
class Unit:
    """What is reconstructed as one: a residual, transformer or attention block, or a layer outside of these.

    name: the module's name in the UNet. layers: names of the quantizable layers that ran in it, in order.
    needs: indices of the units whose outputs its inputs are made of. shape: its output's, without the batch.
    """

    name: str
    layers: list[str] = field(default_factory=list)
    needs: frozenset[int] = frozenset()
    shape: tuple[int, ...] = ()


@dataclass
class Trace:
    """units: in execution order. seams: for each layer that reads a channel concatenation, the part sizes."""

    units: list[Unit]
    seams: dict[str, tuple[int, ...]]

    def last_use(self, index: int) -> int:
        """The last unit that needs the output of unit ``index`` (itself when none does)."""
        return max([k for k, unit in enumerate(self.units) if index in unit.needs], default=index)


class _Marks(TorchFunctionMode):
    """Carries two marks from tensor to tensor: the units it comes from, and its channel seams."""

    def __init__(self):
        super().__init__()
        self.origins: dict[int, frozenset[int]] = {}
        self.seams: dict[int, tuple[int, ...]] = {}
        self.alive: list[Tensor] = []  # an id is only unique while its tensor lives

    def mark(self, tensor: Tensor, origins: frozenset[int]) -> None:
        self.alive.append(tensor)
        self.origins[id(tensor)] = origins

    def origins_of(self, values) -> frozenset[int]:
        tensors = [v for v in tree_leaves(values) if isinstance(v, Tensor)]
        return frozenset().union(*(self.origins.get(id(t), frozenset()) for t in tensors))

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        results = [v for v in tree_leaves(out) if isinstance(v, Tensor)]
        origins = self.origins_of((args, kwargs)) if results else frozenset()
        for result in results:
            self.mark(result, origins | self.origins.get(id(result), frozenset()))
        name = getattr(func, "__name__", "")
        if name in ("cat", "concat") and _is_channel_axis(args, kwargs, out):
            self.seams[id(out)] = tuple(piece.shape[1] for piece in args[0])
        elif name in KEEPS_CHANNELS and args and id(args[0]) in self.seams:
            self.seams[id(out)] = self.seams[id(args[0])]
        return out


def _is_channel_axis(args: tuple, kwargs: dict, out: Tensor) -> bool:
    axis = kwargs.get("dim", args[1] if len(args) > 1 else 0)
    return out.ndim == 4 and axis in (1, -3)


def trace(unet: nn.Module, inputs: dict) -> Trace:
    """Run ``unet(**inputs)`` once and return its units, their dependencies and the seams.

    inputs: the forward's keyword arguments; a batch of one is enough. Raises ValueError if a unit runs twice
    in a pass or returns something other than one tensor, since its output could not be cached.
    """
    marks, found, open_units, handles = _Marks(), Trace([], {}), [], []

    def enter_unit(name):
        def hook(module, args, kwargs):
            if any(unit.name == name for unit in found.units):
                raise ValueError(f"unit {name!r} runs twice in one pass, which is not supported")
            found.units.append(Unit(name, needs=marks.origins_of((args, kwargs))))
            open_units.append(len(found.units) - 1)

        return hook

    def leave_unit(module, args, kwargs, out):
        index = open_units.pop()
        if not isinstance(out, Tensor):
            name = found.units[index].name
            raise ValueError(f"unit {name!r} returns {type(out).__name__}, not one tensor: not supported")
        found.units[index].shape = tuple(out.shape[1:])
        marks.mark(out, frozenset([index]))

    def enter_layer(name):
        def hook(module, args, kwargs):
            found.units[open_units[-1]].layers.append(name)
            x = args[0] if args else kwargs["input"]
            if id(x) in marks.seams and sum(marks.seams[id(x)]) == module.weight.shape[1]:
                found.seams[name] = marks.seams[id(x)]

        return hook

    for name, module in unit_modules(unet).items():
        handles.append(module.register_forward_pre_hook(enter_unit(name), with_kwargs=True))
        handles.append(module.register_forward_hook(leave_unit, with_kwargs=True))
    for name, module in unet.named_modules():
        if isinstance(module, QUANTIZABLE):
            handles.append(module.register_forward_pre_hook(enter_layer(name), with_kwargs=True))
    try:
        with torch.no_grad(), marks:
            unet(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found


def unit_modules(unet: nn.Module) -> dict[str, nn.Module]:
    """Blocks, and the quantizable layers outside of blocks, by name; registration order."""
    units: dict[str, nn.Module] = {}
    for name, module in unet.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in units)
        if not inside and isinstance(module, BLOCKS + QUANTIZABLE):
            units[name] = module
    return units
