"""Calibration in several processes: each has its share of the rows, and all learn what one process learns."""

import os

import pytest
import torch
from several_processes import together
from tiny_models import SMALL, assert_same_tensors, ddim

from qdiff_lib import Recipe, quantize
from qdiff_lib.modules.state import quantized_state
from qdiff_lib.ptq.activation_store import RowStore
from qdiff_lib.ptq.fitting import Fitter
from qdiff_lib.ptq.run import Run
from qdiff_lib.ptq.share import Share
from qdiff_lib.utils.processes import ALONE, Lost, Processes

ROWS = 192  # three parts of the most rows that run through a network at once
LEARNED = dict(SMALL, samples=ROWS, batch_size=8, rounding_start="fraction")
LATER = dict(network_iterations=3, bias_correction_images=4)
PAPER = Recipe.qdiffusion(weights=4, activations=8, **LEARNED)
GPTQ = Recipe.qdiffusion(weights=4, activations=8, **{**LEARNED, **LATER, "rounding_start": "gptq"})
TWO_PASSES = Recipe.qdiffusion(weights=4, activations=8, **LEARNED, second_pass=True)
LINEAR = Recipe.named("linear", weights=4, activations=8, **LEARNED)
FIRST = ("time_embedding", "down_blocks.0.resnets.0")  # names of the first units


def quantized_together(processes, recipe=PAPER, **options):
    """The quantized state, and the errors of the units."""
    made = quantize(ddim(), recipe, progress=False, processes=processes, **options)
    return quantized_state(made.unet), [report.error for report in made.unet.quantization.units]


def codes(state):
    return torch.cat([value.flatten().float() for name, value in state.items() if "codes" in name])


# What is divided


def test_the_rows_are_divided_in_whole_batches_of_a_single_process():
    shares = [Share.of(Processes(number, 2), 200, 64) for number in range(2)]
    assert shares[0].parts == shares[1].parts == Share.of(ALONE, 200, 64).parts
    assert torch.cat([share.rows for share in shares]).sort()[0].tolist() == list(range(200))
    assert shares[0].rows.tolist() == [*range(64), *range(128, 192)]
    assert [share.most for share in shares] == [128, 128]


@pytest.mark.parametrize("count", [2, 3, 5, 12])
def test_every_process_has_rows_even_if_there_are_few(count):
    assert all(len(Share.of(Processes(number, count), 12, 64).rows) for number in range(count))


def test_more_processes_than_rows_are_refused():
    with pytest.raises(ValueError, match="2 calibration inputs cannot be divided among 3 processes"):
        Share.of(Processes(0, 3), 2, 64)


def cached_rows(processes):
    found, allocate = set(), RowStore.allocate

    def watched(store, shape):
        found.add((shape[0], store.budget.ram))
        return allocate(store, shape)

    RowStore.allocate = watched
    quantized_together(processes, memory_gb=3)
    return found


def test_each_process_caches_its_own_rows_only_in_its_share_of_the_memory():
    assert together(3, cached_rows) == [{(ROWS // 3, 2**30)}] * 3


# What is learned


def gradients(processes):
    """Of a loss that is a mean over the rows of a batch, for some batches."""
    share, values = Share.of(processes, 50, 8), torch.arange(50.0).sin()
    learned, given = torch.tensor(2.0, requires_grad=True), values[share.rows]
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randperm(50, generator=generator)[:3] for _ in range(9)]  # some processes have no row
    found = []
    for index, weight in zip(*share.draws(batches), strict=True):
        loss = (learned * given[index]).square().mean() * (1 if weight is None else weight)
        found += share.processes.added(torch.autograd.grad(loss, [learned]))
    return [gradient.item() for gradient in found]


@pytest.mark.parametrize("count", [2, 3])
def test_the_gradients_are_those_of_one_process(count):
    assert together(count, gradients) == [pytest.approx(gradients(ALONE), rel=1e-6)] * count


def test_methods_without_learning_have_the_same_bits():
    expected, _ = quantized_together(ALONE, LINEAR)
    for state, _ in together(2, quantized_together, LINEAR):
        assert_same_tensors(state, expected)


def in_another_order(recipe):
    """The codes of one process in which only the order of the rows in each batch is another."""
    draw = Fitter.draw
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Fitter, "draw", lambda self: draw(self).flip(0))
        return codes(quantized_together(ALONE, recipe)[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "count"),
    [
        pytest.param(PAPER, 2, id="two", marks=pytest.mark.exhaustive),
        pytest.param(PAPER, 3, id="three", marks=pytest.mark.exhaustive),
        pytest.param(TWO_PASSES, 2, id="two-passes", marks=pytest.mark.exhaustive),
        pytest.param(GPTQ, 3, id="gptq-and-all-stages"),
    ],
)
def test_codes_are_as_near_as_those_of_one_process_to_itself(recipe, count):
    """The first units are the same. Later, rounding is amplified as by any other order of the sums."""
    expected, errors = quantized_together(ALONE, recipe)
    found = together(count, quantized_together, recipe)
    state, near_errors = found[0]
    for other, _ in found[1:]:
        assert_same_tensors(other, state)
    early = [name for name in expected if name.startswith(FIRST) and "codes" in name]
    assert early and all(torch.equal(state[name], expected[name]) for name in early)
    known = codes(expected)
    usual = (in_another_order(recipe) != known).float().mean()
    assert (codes(state) != known).float().mean() <= 2 * usual + 0.01
    assert near_errors == pytest.approx(errors, rel=0.3)


# Killed and resumed


def killed_in_a_unit(processes, work):
    restored = Run.restored

    def counted(run, index, unit):
        if index == 3 and processes.number == 1:
            os._exit(9)
        return restored(run, index, unit)

    Run.restored = counted
    return quantized_together(processes, work=work)


@pytest.mark.slow
def test_a_killed_run_goes_on_with_another_number_of_processes(tmp_path):
    work = tmp_path / "work"
    error = together(2, killed_in_a_unit, work, silent=1)[0]
    assert isinstance(error, Lost)
    kept = files_of(work)
    assert sorted(kept) == [f"unit-00{k}.safetensors" for k in range(3)]
    states = [state for state, _ in together(3, resumed, work)]
    assert all(files_of(work)[name] == kept[name] for name in kept)
    assert_same_tensors(states[0], states[2])
    assert_same_tensors(resumed(ALONE, work)[0], states[0])  # all units are finished


def resumed(processes, work):
    return quantized_together(processes, work=work, resume=True)


def files_of(work):
    return {path.name: path.read_bytes() for path in (work / "units").iterdir()}
