"""One traced forward pass of a UNet: its units in execution order, their dependencies, and the concat splits.

The trace does not depend on source code or module names. Hooks see the modules run, and a torch function mode
sees the operations between them. So it works for any diffusers UNet without changes.
"""

from dataclasses import dataclass, field

import torch
from diffusers import Transformer2DModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D, ResnetBlockCondNorm2D
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from ..modules.quant_layer import QUANTIZABLE
from .finite import is_finite
from .hooks import hooked
from .model_inputs import flat_inputs

BLOCKS = (ResnetBlock2D, ResnetBlockCondNorm2D, BasicTransformerBlock, Attention)
OUTLETS = (Transformer2DModel,)
KEEPS_CHANNELS = {"contiguous", "to", "clone", "float", "half", "dropout", "interpolate"}
MOST_ROWS = 64  # the most inputs that run through a network at once
MOST_NUMBERS = 2**28  # the most numbers in its widest layer at once: 1 GiB


@dataclass
class Unit:
    """The unit of reconstruction: a residual, transformer or attention block, or a layer outside of these.

    Args:
        name: the module's name in the UNet.
        layers: names of the quantizable layers that ran in the unit, in order.
        needs: indices of earlier units whose outputs this unit, or its outlet, reads.
        shape: the shape of its output, without the batch.
        given: how many numbers its arguments hold for one sample. Inputs of the network itself do not count.
        outlet: the name of the module that ends with this unit and adds something to its output; "" for none.
            Later units read only the output of the outlet. So that output is kept instead of the outputs
            inside.
        outlet_shape: the shape of the outlet's output, without the batch.
    """

    name: str
    layers: list[str] = field(default_factory=list)
    needs: frozenset[int] = frozenset()
    shape: tuple[int, ...] = ()
    given: int = 0
    outlet: str = ""
    outlet_shape: tuple[int, ...] = ()


@dataclass
class Trace:
    """The result of ``trace``.

    Args:
        units: the units, in execution order.
        concat_splits: for each layer that reads a concatenation, the number of channels of each piece: (deep,
            skip) for a shortcut layer.
        widest: the most numbers that a layer reads or returns for one input.
    """

    units: list[Unit]
    concat_splits: dict[str, tuple[int, ...]]
    widest: int = 0

    def last_use(self, index: int) -> int:
        """Return the index of the last unit that reads the output of unit ``index``; or ``index``."""
        return max([k for k, unit in enumerate(self.units) if index in unit.needs], default=index)

    @property
    def batch_size(self) -> int:
        """How many inputs run through the network at once, where the result does not depend on it."""
        return min(MOST_ROWS, max(1, MOST_NUMBERS // max(1, self.widest)))


class _Marks(TorchFunctionMode):
    """Passes two marks from tensor to tensor: the units it comes from, and the pieces of its channels."""

    def __init__(self):
        super().__init__()
        self.origins: dict[int, frozenset[int]] = {}
        self.concat_splits: dict[int, tuple[int, ...]] = {}
        self.alive: list[Tensor] = []  # an id is unique only while its tensor is alive

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
            self.concat_splits[id(out)] = tuple(piece.shape[1] for piece in args[0])
        elif name in KEEPS_CHANNELS and args and id(args[0]) in self.concat_splits:
            self.concat_splits[id(out)] = self.concat_splits[id(args[0])]
        return out


def _is_channel_axis(args: tuple, kwargs: dict, out: Tensor) -> bool:
    axis = kwargs.get("dim", args[1] if len(args) > 1 else 0)
    return out.ndim == 4 and axis in (1, -3)


class _Tracer:
    """Hooks that record modules in the order in which they run. ``inputs``: the network's own, by name."""

    def __init__(self, inputs: dict):
        self.found, self.marks, self.open_units = Trace([], {}), _Marks(), []
        self.inputs = {id(value) for value in flat_inputs(inputs).values()}

    def enter_unit(self, name: str):
        def hook(module, args, kwargs):
            if any(unit.name == name for unit in self.found.units):
                raise ValueError(f"unit {name!r} runs twice in one pass, which is not supported")
            leaves = {id(v): v for v in tree_leaves((args, kwargs)) if isinstance(v, Tensor) and v.ndim}
            given = sum(v[0].numel() for key, v in leaves.items() if key not in self.inputs)
            needs = self.marks.origins_of((args, kwargs))
            self.open_units.append(len(self.found.units))
            self.found.units.append(Unit(name, needs=needs, given=given))

        return hook

    def leave_unit(self, module, args, kwargs, out):
        index = self.open_units.pop()
        unit = self.found.units[index]
        if not isinstance(out, Tensor):
            kind = type(out).__name__
            raise ValueError(f"unit {unit.name!r} returns {kind}, not one tensor: not supported")
        unit.shape = tuple(out.shape[1:])
        self.marks.mark(out, frozenset([index]))

    def leave_outlet(self, name: str):
        def hook(module, args, kwargs, out):
            if not (isinstance(out, tuple) and len(out) == 1 and isinstance(out[0], Tensor)):
                return
            last, unit = len(self.found.units) - 1, self.found.units[-1]
            unit.outlet, unit.outlet_shape = name, tuple(out[0].shape[1:])
            unit.needs |= self.marks.origins_of(out) - {last}
            self.marks.mark(out[0], frozenset([last]))

        return hook

    def enter_layer(self, name: str):
        def hook(module, args, kwargs):
            self.found.units[self.open_units[-1]].layers.append(name)
            x, concat_splits = args[0] if args else kwargs["input"], self.marks.concat_splits
            self.found.widest = max(self.found.widest, x[0].numel())
            if id(x) in concat_splits and sum(concat_splits[id(x)]) == module.weight.shape[1]:
                self.found.concat_splits[name] = concat_splits[id(x)]

        return hook

    def leave_layer(self, name: str):
        def hook(module, args, kwargs, out):
            self.found.widest = max(self.found.widest, out[0].numel())
            if not is_finite(out):
                raise ValueError(f"layer {name!r} puts out values that are not finite: look for an overflow")

        return hook


def trace(unet: nn.Module, inputs: dict) -> Trace:
    """Run ``unet(**inputs)`` once and return its units, their dependencies and the concat splits.

    Args:
        unet: a diffusers UNet, which may be on the meta device.
        inputs: the keyword arguments of the forward pass. A batch of one is enough.

    Raises:
        ValueError: a unit runs twice in the pass, or does not return exactly one tensor. Its output could not
            be cached. Or a layer puts out a value that is not finite.
    """
    tracer = _Tracer(inputs)
    before = [(module, tracer.enter_unit(name)) for name, module in unit_modules(unet).items()]
    after = [(module, tracer.leave_unit) for module, _ in before]
    for name, module in unet.named_modules():
        if isinstance(module, OUTLETS):
            after.append((module, tracer.leave_outlet(name)))
        if isinstance(module, QUANTIZABLE):
            before.append((module, tracer.enter_layer(name)))
            after.append((module, tracer.leave_layer(name)))
    with hooked(before, after), torch.no_grad(), tracer.marks:
        unet(**inputs)
    return tracer.found


def unit_modules(unet: nn.Module) -> dict[str, nn.Module]:
    """Return the blocks, and the quantizable layers outside of blocks, by name in registration order."""
    units: dict[str, nn.Module] = {}
    for name, module in unet.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in units)
        if not inside and isinstance(module, BLOCKS + QUANTIZABLE):
            units[name] = module
    return units
