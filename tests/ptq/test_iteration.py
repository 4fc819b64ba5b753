"""One iteration of a fit: the bits of the simple loop, few operations, no waiting, no needless copies."""

from collections import Counter

import pytest
import torch
from tiny_models import SMALL, conditional_unet, random_inputs, traced, unet2d, with_quantizers
from torch._dynamo.backends.debugging import aot_eager
from torch.utils._python_dispatch import TorchDispatchMode

from qdiff_lib import Recipe
from qdiff_lib.modules.activation_quantizer import activation_quantizers
from qdiff_lib.modules.quant_layer import quant_layers
from qdiff_lib.ptq.activation_store import RowStore
from qdiff_lib.ptq.adam import Adam, adam_numbers
from qdiff_lib.ptq.fitting import UnitFitter, annealed_beta, biases_of, decide, unit_seed
from qdiff_lib.ptq.memory_budget import DEVICE, FILES, GIB, RAM, Budget
from qdiff_lib.ptq.replay import Replay

N, BATCH = 12, 4
UNITS = {
    "residual": (unet2d, "down_blocks.0.resnets.0"),
    "split-residual": (unet2d, "up_blocks.1.resnets.0"),
    "attention": (unet2d, "mid_block.attentions.0"),
    "transformer": (conditional_unet, "down_blocks.0.attentions.0.transformer_blocks.0"),
}
every_unit = pytest.mark.parametrize(("make", "name"), UNITS.values(), ids=UNITS.keys())
GRAPHS = ("split-residual", "attention")  # what the other two consist of
AS_THE_PAPER = dict(rounding_start="fraction", learn_affine=False)


def fitter_of(make, name, changes=None, budget=None, folder=None):
    """A fitter whose unit has weight ranges, and what it learns from, where ``budget`` puts it."""
    unet = make().requires_grad_(False)
    recipe = Recipe.qdiffusion(4, 8, **{**SMALL, "iterations": 10, "batch_size": BATCH, **(changes or {})})
    found, inputs = traced(unet), random_inputs(unet, N)
    k = [unit.name for unit in found.units].index(name)
    store = RowStore(budget or Budget(GIB), folder)
    original, replaced = (
        Replay(u, found, inputs, store) for u in (unet, with_quantizers(unet, recipe.grids))
    )
    for i in range(k):
        for replay in (original, replaced):
            replay.advance(i)
            replay.finish(i)
    given, target = replaced.collect(k), original.advance(k)
    settings = (recipe.rounding, recipe.step_sizes, unit_seed(0, k), lambda: None)
    fitter = UnitFitter(replaced.modules[k], given, target, original.batches(), *settings)
    fitter.find_weight_ranges()
    fitter.store = store  # its files live as long as it does
    return fitter


def fitted(fitter):
    """The codes, scales and biases of the unit after all learning, by name."""
    fitter.fit_weights()
    fitter.fit_activations()
    return {name: value.clone() for name, value in fitter.unit.state_dict().items()}


# The same bits as the simple loop


def simple_weights(fitter):
    """``fit_weights`` as the equations are usually written: autograd, torch's Adam, Python's numbers."""
    rounding, layers = fitter.rounding, quant_layers(fitter.unit)
    levels = fitter.compensated_levels(layers) if rounding.rounding_start == "gptq" else {}
    parts = [part for layer in layers for part in layer.start_rounding(levels.get(layer))]
    groups = [{"params": [part.v for part in parts], "lr": rounding.lr}]
    if rounding.learn_affine:
        affine = [part.learn_scale() for part in parts]
        affine += [bias.requires_grad_(True) for bias in biases_of(layers)]
        groups.append({"params": affine, "lr": fitter.step_sizes.lr_step_sizes})
    optimizer = torch.optim.Adam(groups)
    for iteration in range(rounding.iterations):
        loss = fitter.loss(fitter.rows(fitter.draw()))
        if iteration >= rounding.warmup * rounding.iterations:
            beta = annealed_beta(iteration, rounding)
            loss = loss + rounding.regularization * sum(part.regularizer(beta) for part in parts)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    decide(layers)


def simple_step_sizes(fitter):
    """``fit_step_sizes`` in the same way."""
    quantizers = activation_quantizers(fitter.unit)
    optimizer = torch.optim.Adam([q.start_learning() for q in quantizers], fitter.step_sizes.lr_step_sizes)
    iterations = fitter.step_sizes.step_size_iterations
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    for _ in range(iterations):
        loss = fitter.loss(fitter.rows(fitter.draw()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    for quantizer in quantizers:
        quantizer.finish_learning()


@pytest.mark.parametrize(
    ("make", "name", "changes"),
    [
        pytest.param(*unit, changes, id=f"{name}-{how}", marks=() if how in often else pytest.mark.exhaustive)
        for (name, unit), often in zip(UNITS.items(), ("paper", "extras", "extras", "paper"), strict=True)
        for how, changes in (("paper", AS_THE_PAPER), ("extras", {}))
    ],
)
def test_the_result_has_the_bits_of_the_simple_loop(make, name, changes, monkeypatch):
    many = {"iterations": 30, "step_size_iterations": 10, "lr": 0.2, **changes}
    fast = fitted(fitter_of(make, name, many))
    start = fitter_of(make, name, {**many, "iterations": 1, "step_size_iterations": 1})
    start = fitted(start)
    monkeypatch.setattr(UnitFitter, "fit_weights", simple_weights)
    monkeypatch.setattr(UnitFitter, "fit_step_sizes", simple_step_sizes)
    simple = fitted(fitter_of(make, name, many))
    assert fast.keys() == simple.keys()
    assert not [key for key in fast if not torch.equal(fast[key], simple[key])]
    assert [
        key for key in fast if "codes" in key and not torch.equal(fast[key], start[key])
    ]  # much is learned


# Operations


class Operations(TorchDispatchMode):
    """Counts what torch is asked to do, by the name of the operation; views are among them."""

    def __init__(self):
        super().__init__()
        self.count = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count[str(func)] += 1
        return func(*args, **(kwargs or {}))


def operations_of_an_iteration(fitter, learn):
    """The operations of the last iteration that ``learn`` runs, the gathering of its rows included."""
    seen = []
    with Operations() as operations:
        fitter.tick = lambda: seen.append(operations.count.copy())
        learn(fitter)
    return seen[-1] - seen[-2]


BEFORE = {  # operations of an iteration, at commit 21dcbcc
    "paper": {"residual": 267, "split-residual": 412, "attention": 414, "transformer": 939},
    "extras": {"residual": 347, "split-residual": 534, "attention": 526, "transformer": 1171},
    "step-sizes": {"residual": 128, "split-residual": 186, "attention": 334, "transformer": 694},
}


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize(("learned", "share"), [("paper", 0.5), ("extras", 0.5), ("step-sizes", 0.8)])
def test_few_operations_in_an_iteration(unit, learned, share):
    fitter = fitter_of(*UNITS[unit], AS_THE_PAPER if learned == "paper" else {})
    if learned == "step-sizes":
        fitter.observe()
        found = operations_of_an_iteration(fitter, UnitFitter.fit_step_sizes)
    else:
        found = operations_of_an_iteration(fitter, UnitFitter.fit_weights)
    assert sum(found.values()) <= share * BEFORE[learned][unit], found.most_common()
    assert not found["aten._local_scalar_dense.default"]  # an item()


# Nothing waits, and a graph can hold the whole iteration


def prepared(fitter, weights=True):
    """The parameters of an iteration in the middle of a fit, and its numbers as tensors."""
    if weights:
        fitter.rounded = quant_layers(fitter.unit)
        parts = [part for layer in fitter.rounded for part in layer.start_rounding()]
        adam, beta = Adam([[part.v for part in parts], [part.learn_scale() for part in parts]]), (3.5, 2.5)
    else:
        fitter.observe()
        adam, beta = Adam([[q.start_learning() for q in activation_quantizers(fitter.unit)]]), ()
    numbers = adam_numbers([[0.01] * 5] * len(adam.sizes))[4]
    return adam, [torch.tensor(x) for x in numbers], [torch.tensor(x) for x in beta]


@pytest.mark.parametrize(
    ("make", "name", "weights"),
    [
        pytest.param(
            *unit, weights, id=f"{name}-{kind}", marks=() if name in GRAPHS else pytest.mark.exhaustive
        )
        for name, unit in UNITS.items()
        for kind, weights in (("weights", True), ("step-sizes", False))
    ],
)
def test_one_graph_holds_an_iteration(make, name, weights):
    """``fullgraph`` refuses graph breaks, and among them every value that Python would wait for."""
    if not weights and torch.__version__.startswith("2.11."):
        pytest.skip("graphs of torch 2.11 lose the gradients of step sizes; the library uses no graphs")
    results = []
    for compiled in (False, True):
        fitter = fitter_of(make, name)
        adam, *numbers = prepared(fitter, weights)
        batch, iterate, graphs = fitter.rows(torch.arange(BATCH)), fitter.iterate, []
        if compiled:

            def keep(graph, inputs, graphs=graphs):
                graphs.append(graph)
                return aot_eager(graph, inputs)

            torch._dynamo.reset()
            iterate = torch.compile(iterate, fullgraph=True, backend=keep)
        with torch._dynamo.config.patch(trace_autograd_ops=True):
            for _ in range(2):
                iterate(batch, adam, *numbers)
        assert len(graphs) == compiled
        results.append([value.detach().clone() for value in adam.parameters])
    for eager, captured in zip(*results, strict=True):
        torch.testing.assert_close(captured, eager, rtol=1e-5, atol=1e-6)


# Copies


@pytest.mark.parametrize("place", [DEVICE, RAM, FILES])
@every_unit
def test_the_place_of_the_cache_changes_what_is_copied_and_no_bit(make, name, place, tmp_path):
    budget = {DEVICE: Budget(0, GIB), RAM: Budget(GIB), FILES: Budget(0)}[place]
    fitter, plain = fitter_of(make, name, budget=budget, folder=tmp_path), fitter_of(make, name)
    found, expected = fitted(fitter), fitted(plain)
    assert not [key for key in expected if not torch.equal(found[key], expected[key])]
    rows = [column for column in [*fitter.inputs.columns(), fitter.target] if hasattr(column, "place")]
    assert {column.place for column in rows} == {place}
    iterations = fitter.rounding.iterations + fitter.step_sizes.step_size_iterations
    each = BATCH * sum(column.nbytes // N for column in rows)
    assert dict(fitter.feed.copied) == ({(FILES, RAM): iterations * each} if place == FILES else {})
    assert not plain.feed.copied
