"""Cached inputs advance from unit to unit, and are what a direct pass gives, within the budget."""

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor
from tiny_models import ADDED, CLASSES, GUIDED, conditional_unet, output, random_inputs, traced, unet2d
from torch import nn
from torch.utils._pytree import tree_leaves

from qdiff_lib.modules.quant_layer import QUANTIZABLE
from qdiff_lib.ptq.activation_store import RowStore
from qdiff_lib.ptq.memory_budget import Budget
from qdiff_lib.ptq.replay import InputRows, Replay

N, BATCH = 6, 4  # two batches, the second of them smaller
BATCHES = 2
UNLIMITED = 2**30

MODELS = {
    "plain": unet2d,
    "text": conditional_unet,
    "classes": lambda: unet2d(**CLASSES),
    "sdxl": lambda: conditional_unet(**ADDED),
    "lcm": lambda: conditional_unet(**GUIDED),
    "resnet-sampling": lambda: unet2d(
        down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    ),
}


@pytest.fixture(params=MODELS, ids=MODELS.keys())
def unet(request):
    return MODELS[request.param]().requires_grad_(False)


def replay_of(unet, budget=UNLIMITED, folder=None):
    return Replay(unet, traced(unet), random_inputs(unet, N), RowStore(Budget(budget), folder), BATCH)


def walk(replay):
    """Advance through all units; yields each unit's index, arguments and output, all rows in RAM."""
    for k in range(len(replay.trace.units)):
        given = replay.collect(k)
        rows = replay.advance(k, given)
        arguments, out = tree_leaves(given.batch(slice(0, N), torch.device("cpu"))), rows[slice(0, N)]
        given.free(replay.store)
        replay.finish(k)
        yield k, arguments, out


def directly(replay):
    """Arguments and outputs of each unit in plain passes over the same batches, seen by hooks."""
    seen, handles = {k: ([], []) for k in range(len(replay.modules))}, []

    def hook(k):
        def keep(module, args, kwargs, out):
            seen[k][0].append(tree_leaves((args, kwargs)))
            seen[k][1].append(out)

        return keep

    for k, module in enumerate(replay.modules):
        handles.append(module.register_forward_hook(hook(k), with_kwargs=True))
    for rows in replay.batches():
        replay.unet(**replay.inputs.rows(rows))
    for handle in handles:
        handle.remove()
    return seen


def test_batches_cover_all_rows(unet):
    assert replay_of(unet).batches() == [slice(0, 4), slice(4, 6)]


def assert_close(actual, expected, name):
    """Equal but for rounding: cached rows are contiguous, so kernels may sum them in another order."""
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5, msg=lambda m: f"{name}: {m}")


def test_arguments_and_outputs_are_those_of_a_direct_pass(unet):
    replay = replay_of(unet)
    seen = directly(replay)
    for k, leaves, out in walk(replay):
        name = replay.trace.units[k].name
        batches, outputs = seen[k]
        assert_close(out, torch.cat(outputs), name)
        assert [len(leaves)] * BATCHES == [len(batch) for batch in batches]
        for i, leaf in enumerate(leaves):
            expected = [batch[i] for batch in batches]
            if isinstance(leaf, torch.Tensor):
                assert_close(leaf, torch.cat(expected), name)
            else:
                assert [leaf] * BATCHES == expected
    final = torch.cat([replay.unet(**replay.inputs.rows(rows)).sample for rows in replay.batches()])
    assert_close(out, final, "the network")


def test_advancing_without_collected_arguments_gives_the_same(unet):
    collected, direct = replay_of(unet), replay_of(unet)
    for k, _, out in walk(collected):
        assert torch.equal(direct.advance(k)[slice(0, N)], out)
        direct.finish(k)


def test_a_change_of_one_unit_reaches_the_later_ones():
    unet = unet2d().requires_grad_(False)
    replay = replay_of(unet)
    before = [out for _, _, out in walk(replay_of(unet))]
    k = [unit.name for unit in replay.trace.units].index("mid_block.resnets.0")
    unet.mid_block.resnets[0].conv1.weight.mul_(1.5)
    same = [torch.equal(out, before[i]) for i, _, out in walk(replay)]
    assert all(same[:k]) and not any(same[k:])


def watch_peak(store):
    """The list in which the bytes in RAM are noted after every allocation."""
    seen, allocate = [], store.allocate

    def noting(shape):
        rows = allocate(shape)
        seen.append(store.ram_bytes)
        return rows

    store.allocate = noting
    return seen


@pytest.mark.parametrize("kib", [0, 40], ids=["nothing-in-ram", "little-in-ram"])
def test_a_budget_bounds_the_memory_and_changes_no_bit(unet, kib, tmp_path):
    unlimited, bounded = replay_of(unet), replay_of(unet, kib * 1024, tmp_path)
    peaks = [watch_peak(unlimited.store), watch_peak(bounded.store)]
    for (_, leaves, out), (_, other_leaves, other_out) in zip(walk(unlimited), walk(bounded), strict=True):
        assert torch.equal(out, other_out)
        for leaf, other in zip(leaves, other_leaves, strict=True):
            assert torch.equal(leaf, other) if isinstance(leaf, torch.Tensor) else leaf == other
    assert max(peaks[0]) > kib * 1024  # so the budget was too small for all
    assert max(peaks[1]) <= kib * 1024
    assert not list(tmp_path.rglob("*.bin"))
    bounded.store.close()
    assert not list(tmp_path.iterdir())


def test_only_what_is_needed_later_stays(unet):
    replay = replay_of(unet)
    last = [replay.trace.last_use(k) for k in range(len(replay.trace.units))]
    for k, _, _ in walk(replay):
        assert sorted(replay.outputs) == [i for i in range(k + 1) if last[i] > k]
        assert len(replay.store.held) == len(replay.outputs)
    assert replay.store.ram_bytes == 0


@pytest.mark.parametrize("make", [unet2d, conditional_unet], ids=["plain", "text"])
def test_no_attention_matrix_is_cached(make, monkeypatch):
    unet = make().requires_grad_(False)
    for module in unet.modules():
        if isinstance(module, Attention):
            module.set_processor(AttnProcessor())
    matrices, cached = set(), set()
    scores, allocate = Attention.get_attention_scores, RowStore.allocate

    def get_attention_scores(self, *args):
        out = scores(self, *args)
        matrices.add(tuple(out.shape[-2:]))
        return out

    def keep_shape(self, shape):
        cached.add(tuple(shape[-2:]))
        return allocate(self, shape)

    monkeypatch.setattr(Attention, "get_attention_scores", get_attention_scores)
    monkeypatch.setattr(RowStore, "allocate", keep_shape)
    for _ in walk(replay_of(unet)):
        pass
    assert (16, 16) in matrices and cached
    assert not matrices & cached


def test_the_networks_own_inputs_are_not_stored_again():
    replay = replay_of(conditional_unet().requires_grad_(False))
    shapes, allocate = [], replay.store.allocate
    replay.store.allocate = lambda shape: shapes.append(shape) or allocate(shape)
    text = replay.inputs.rows(slice(0, N))["encoder_hidden_states"]
    for k, arguments, _ in walk(replay):
        texts = [v for v in arguments if isinstance(v, torch.Tensor) and v.shape == text.shape]
        assert all(torch.equal(v, text) for v in texts)
        assert bool(texts) == replay.trace.units[k].name.endswith("transformer_blocks.0")
    assert tuple(text.shape) not in shapes
    assert shapes.count((N, 1, 8, 8)) == 1  # the network's output, not its input


def test_an_input_of_the_network_that_a_unit_reads_comes_from_the_calibration_set():
    replay = replay_of(conditional_unet(**GUIDED).requires_grad_(False))
    first = replay.trace.units[0]
    found = replay.collect(0).leaves
    assert first.name == "time_embedding.cond_proj" and first.given == 0
    assert [leaf.name for leaf in found if isinstance(leaf, InputRows)] == ["timestep_cond"]
    assert torch.equal(found[0][slice(0, N)], replay.inputs.inputs["timestep_cond"])
    assert not replay.store.held


def test_repeated_arguments_share_their_rows():
    unet = unet2d().requires_grad_(False)
    replay = replay_of(unet)
    shared = torch.arange(4 * 3.0).view(4, 3)
    other = shared.clone()
    batch = {"sample": torch.zeros(4, 1)}
    kept = replay._allocate([shared, other, shared, 1.5, None, torch.tensor(2.0)], batch)
    assert kept[0] is kept[2] and kept[0] is not kept[1]
    assert kept[0].shape == (N, 3) and kept[3:] == [1.5, None, torch.tensor(2.0)]
    assert len(replay.store.held) == 2


def count_layer_calls(unet, monkeypatch):
    """Real forward passes of each layer; stubs replace whole units, so their layers do not run."""
    names = {id(module): name for name, module in unet.named_modules() if isinstance(module, QUANTIZABLE)}
    calls = dict.fromkeys(names.values(), 0)
    for kind in (nn.Conv2d, nn.Linear):

        def forward(self, x, original=kind.forward):
            if id(self) in names:
                calls[names[id(self)]] += 1
            return original(self, x)

        monkeypatch.setattr(kind, "forward", forward)
    return calls


def test_no_unit_runs_twice_on_the_same_rows(unet, monkeypatch):
    replay = replay_of(unet)
    calls = count_layer_calls(unet, monkeypatch)
    done = []
    for k, _, _ in walk(replay):
        done += replay.trace.units[k].layers
        assert calls == {name: BATCHES * (name in done) for name in calls}
    assert len(done) == len(calls)


def test_the_network_is_left_as_it_was(unet):
    replay = replay_of(unet)
    before = output(unet, replay.inputs)
    replay.arguments(0, slice(0, 4))
    for _ in walk(replay):
        pass
    assert not [name for name, module in unet.named_modules() if "forward" in vars(module)]
    assert torch.equal(output(unet, replay.inputs), before)
