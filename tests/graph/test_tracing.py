"""Units in execution order, what each needs, concat splits, against hooks that know nothing of the trace."""

import pytest
import torch
from diffusers import Transformer2DModel
from tiny_models import conditional_unet, random_inputs, traced, unet2d
from torch import nn

from qdiff_lib.graph import tracing
from qdiff_lib.graph.tracing import trace, unit_modules
from qdiff_lib.modules.quant_layer import QUANTIZABLE

MODELS = {
    "attention": lambda: unet2d(),
    "resnet-sampling": lambda: unet2d(
        down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    ),
    "two-layers": lambda: unet2d(
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        layers_per_block=2,
    ),
    "dropout": lambda: unet2d(dropout=0.5),
    "text": lambda: conditional_unet(),
    "text-linear-projection": lambda: conditional_unet(use_linear_projection=True, layers_per_block=2),
}


@pytest.fixture(params=MODELS, ids=MODELS.keys())
def unet(request):
    return MODELS[request.param]()


def hooked(unet, modules, before=None, after=None):
    """Run the UNet with ``before(name, module, arguments)`` and ``after(name, out)`` at the given modules."""
    handles = []
    for name, module in modules.items():
        if before:
            handles.append(
                module.register_forward_pre_hook(
                    lambda module, args, kwargs, name=name: before(name, module, [*args, *kwargs.values()]),
                    with_kwargs=True,
                )
            )
        if after:
            handles.append(module.register_forward_hook(lambda m, args, out, name=name: after(name, out)))
    unet(**random_inputs(unet, n=1).rows(slice(None)))
    for handle in handles:
        handle.remove()


def layers_of(unet):
    return {name: module for name, module in unet.named_modules() if isinstance(module, QUANTIZABLE)}


def test_every_layer_is_in_one_unit_in_execution_order(unet):
    executed = []
    hooked(unet, layers_of(unet), before=lambda name, *_: executed.append(name))
    units = traced(unet).units
    assert [name for unit in units for name in unit.layers] == executed
    assert len(set(executed)) == len(executed) == len(layers_of(unet))
    for unit in units:
        assert all(name == unit.name or name.startswith(f"{unit.name}.") for name in unit.layers)


def test_the_order_is_that_of_execution_not_of_registration(unet):
    names = [unit.name for unit in traced(unet).units]
    registered = list(unit_modules(unet))
    assert sorted(names) == sorted(registered)
    assert names != registered  # otherwise this model shows nothing
    paths = ["up" if n.startswith("up_") else "mid" if n.startswith("mid_") else "down" for n in names[:-1]]
    assert paths == sorted(paths, key=["down", "mid", "up"].index)
    assert names[-1] == "conv_out"


def test_units_are_blocks_where_there_are_blocks():
    names = [unit.name for unit in traced(conditional_unet()).units]
    assert "down_blocks.0.resnets.0" in names
    assert "down_blocks.0.attentions.0.transformer_blocks.0" in names
    assert not [name for name in names if ".resnets.0." in name or ".transformer_blocks.0." in name]


def test_the_shape_is_that_of_the_output(unet):
    shapes = {}
    found = traced(unet)
    hooked(
        unet,
        {unit.name: unet.get_submodule(unit.name) for unit in found.units},
        after=lambda name, out: shapes.update({name: tuple(out.shape[1:])}),
    )
    assert {unit.name: unit.shape for unit in found.units} == shapes


def test_concat_splits_are_the_sizes_that_were_concatenated(unet, monkeypatch):
    concatenated, seen = [], {}
    original = torch.cat

    def cat(tensors, dim=0, **kwargs):
        out = original(tensors, dim=dim, **kwargs)
        if out.ndim == 4 and dim == 1:  # others are no images: the time step's sines and cosines
            concatenated.append((out, tuple(t.shape[1] for t in tensors)))
        return out

    def look(name, module, arguments):
        for out, sizes in concatenated:
            if out is arguments[0]:
                seen[name] = sizes

    with monkeypatch.context() as patch:
        patch.setattr(torch, "cat", cat)
        hooked(unet, layers_of(unet), before=look)
    assert traced(unet).concat_splits == seen
    assert set(seen) == {name for name in layers_of(unet) if "up_" in name and name.endswith("conv_shortcut")}


def test_concat_splits_are_deep_and_skip_in_this_order():
    # conv_in and the down path leave 8, 8, 8 and 24 channels for the way up, which takes them from the end.
    assert traced(unet2d()).concat_splits == {
        "up_blocks.0.resnets.0.conv_shortcut": (24, 24),
        "up_blocks.0.resnets.1.conv_shortcut": (24, 8),
        "up_blocks.1.resnets.0.conv_shortcut": (24, 8),
        "up_blocks.1.resnets.1.conv_shortcut": (8, 8),
    }


def needs_by_autograd(unet, units, outlets):
    """Which kept outputs reach each unit's inputs or outlet: cut the graph at each, then ask autograd."""
    leaves, needs = {}, {}

    def reached(arguments):
        tensors = [v for v in arguments if isinstance(v, torch.Tensor) and v.requires_grad]
        grads = [None] * len(leaves)
        if tensors and leaves:
            total = sum(t.sum() for t in tensors)
            grads = torch.autograd.grad(total, list(leaves.values()), allow_unused=True, retain_graph=True)
        return {units[other] for other, g in zip(leaves, grads, strict=True) if g is not None}

    def before(name, module, arguments):
        if name in units:
            needs[name] = reached(arguments)

    def after(name, out):
        unit = outlets.get(name, name)
        if name in outlets:
            needs[unit] |= reached(out) - {units[unit]}
            out = out[0]
        leaves[unit] = out.detach().requires_grad_()
        return (leaves[unit],) if name in outlets else leaves[unit]

    modules = {name: unet.get_submodule(name) for name in [*units, *outlets]}
    hooked(unet.requires_grad_(False), modules, before, after)
    return needs


def test_needs_agrees_with_autograd(unet):
    found = traced(unet)
    index = {unit.name: k for k, unit in enumerate(found.units)}
    outlets = {unit.outlet: unit.name for unit in found.units if unit.outlet}
    expected = needs_by_autograd(unet, index, outlets)
    assert {unit.name: set(unit.needs) for unit in found.units} == expected
    for k in range(len(found.units)):
        users = [index[name] for name, needed in expected.items() if k in needed]
        assert found.last_use(k) == max(users, default=k)


def test_a_skip_is_needed_until_the_way_up_takes_it():
    found = traced(unet2d())
    names = [unit.name for unit in found.units]
    last = {name: names[found.last_use(k)] for k, name in enumerate(names)}
    assert last["conv_in"] == "up_blocks.1.resnets.1"
    assert last["down_blocks.0.resnets.0"] == "up_blocks.1.resnets.0"
    assert last["down_blocks.1.attentions.0"] == "up_blocks.0.resnets.0"
    assert last["mid_block.resnets.0"] == "mid_block.attentions.0"
    assert last["conv_out"] == "conv_out"


def test_a_transformer_is_kept_as_one_output():
    unet = conditional_unet(layers_per_block=2)
    found = traced(unet)
    outlets = {unit.outlet: unit for unit in found.units if unit.outlet}
    names = {name for name, module in unet.named_modules() if isinstance(module, Transformer2DModel)}
    assert outlets.keys() == names and len(names) == 6
    for name, unit in outlets.items():
        assert unit.name == f"{name}.proj_out" and unit.outlet_shape == unit.shape
    first = next(k for k, unit in enumerate(found.units) if unit.name == "down_blocks.0.resnets.0")
    assert found.units[found.last_use(first)].name == "down_blocks.0.attentions.0.proj_out"


def test_what_a_unit_is_given_but_for_the_networks_own_inputs():
    units = {unit.name: unit for unit in traced(conditional_unet()).units}
    assert units["conv_in"].given == 0
    assert units["time_embedding.linear_1"].given == 8
    assert units["down_blocks.0.resnets.0"].given == 8 * 64 + 32  # image and time
    assert units["down_blocks.0.attentions.0.transformer_blocks.0"].given == 8 * 64  # the text is an input
    assert units["up_blocks.1.resnets.1"].given == (8 + 8) * 64 + 32


@pytest.mark.parametrize(
    "make, widest",
    [(unet2d, (24 + 8) * 64), (conditional_unet, 2 * 4 * 8 * 64)],
    ids=["concatenation", "geglu"],
)
def test_the_widest_layer_bounds_the_batch(make, widest, monkeypatch):
    found = traced(make())
    assert found.widest == widest and found.batch_size == 64
    monkeypatch.setattr(tracing, "MOST_NUMBERS", 5 * widest + 1)
    assert found.batch_size == 5
    monkeypatch.setattr(tracing, "MOST_NUMBERS", 1)
    assert found.batch_size == 1


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, sample):
        return self.layer(self.layer(sample))


class Pair(nn.Linear):
    def forward(self, x):
        return super().forward(x), x


class Pairs(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = Pair(3, 3)

    def forward(self, sample):
        return self.layer(sample)[0]


@pytest.mark.parametrize(
    "module, message",
    [(Twice(), "'layer' runs twice"), (Pairs(), "'layer' returns tuple")],
    ids=["runs-twice", "returns-a-tuple"],
)
def test_what_cannot_be_cached_is_refused(module, message):
    with pytest.raises(ValueError, match=message):
        trace(module, {"sample": torch.zeros(1, 3)})
    assert not module.layer._forward_hooks and not module.layer._forward_pre_hooks


def test_a_trace_leaves_no_hooks(unet):
    traced(unet)
    assert not [name for name, m in unet.named_modules() if m._forward_hooks or m._forward_pre_hooks]
