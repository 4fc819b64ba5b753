"""What a calibration caches and what fitting a unit takes: foretold, measured, and at the size of SD v1.4."""

import copy
import itertools
import json
import random
import re
import shutil
from math import prod
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from live_bytes import LiveBytes
from tiny_models import SMALL, conditional_unet, ddim, random_inputs, traced, unet2d
from torch.utils._pytree import tree_leaves, tree_map

from qdiff_lib import Recipe, quantize
from qdiff_lib.graph.cost import parameter_count
from qdiff_lib.graph.model_inputs import example_inputs
from qdiff_lib.graph.networks import build
from qdiff_lib.graph.tracing import trace
from qdiff_lib.modules.activation_quantizer import activation_quantizers
from qdiff_lib.modules.quant_layer import quant_layers
from qdiff_lib.modules.state import quantized_state
from qdiff_lib.ptq import run
from qdiff_lib.ptq.activation_store import Rows, RowStore
from qdiff_lib.ptq.adam import Adam, adam_numbers
from qdiff_lib.ptq.fitting import Batch, UnitFitter
from qdiff_lib.ptq.gptq import MOST_BYTES, is_compensable, moment_bytes
from qdiff_lib.ptq.insertion import insert_quantizers
from qdiff_lib.ptq.memory_budget import (
    CPU,
    DEVICE,
    FILES,
    GIB,
    LEFT_FREE,
    RAM,
    Budget,
    cache_line,
    cached_bytes,
    check_disk,
)
from qdiff_lib.ptq.reconstruction import reconstruct
from qdiff_lib.ptq.replay import UnitInputs
from qdiff_lib.ptq.run import Run
from qdiff_lib.recipes.paper_networks import SD_V1_4
from qdiff_lib.recipes.presets import PRESETS
from qdiff_lib.recipes.recipe import PROFILES
from qdiff_lib.utils.constants import MOST_INPUTS

ROOT = Path(__file__).parents[2]
FLOAT_BYTES = 4
TEXT, README = ((ROOT / name).read_text(encoding="utf-8") for name in ("docs/memory.md", "README.md"))
PAPER = PRESETS["sd-v1.4"].recipe()
RECIPE = Recipe.qdiffusion(**{**SMALL, "iterations": 1, "step_size_iterations": 1})
TEXT_MODELS = 0.83e9  # bytes of the text encoder (123 M parameters) and the autoencoder (84 M)


# Rows in RAM and in files


def held_by_unit(monkeypatch, unet, n, bits):
    """The most bytes that the store held during each unit of a real reconstruction."""
    most = [0]

    class Watched(RowStore):
        def allocate(self, shape):
            rows = super().allocate(shape)
            most[-1] = max(most[-1], sum(held.bits // 8 * prod(held.shape) for held in self.held))
            return rows

    monkeypatch.setattr(run, "RowStore", Watched)
    found, inputs = traced(unet), random_inputs(unet, n)
    quantized = insert_quantizers(unet, RECIPE.grids, found)
    how = Run(cache_bits=bits, progress=False, callback=lambda _: most.append(0))
    reconstruct(unet, quantized, found, inputs, RECIPE.rounding, RECIPE.step_sizes, how)
    return found, most[:-1]


@pytest.mark.parametrize(
    ("make", "bits"),
    [
        (unet2d, 32),
        (conditional_unet, 16),
        pytest.param(unet2d, 16, marks=pytest.mark.exhaustive),
        pytest.param(conditional_unet, 32, marks=pytest.mark.exhaustive),
    ],
)
def test_every_byte_that_is_cached_was_foretold(make, bits, monkeypatch):
    for n in (4, 6):
        found, most = held_by_unit(monkeypatch, make(), n, bits)
        assert most == cached_bytes(found, n, bits)
        assert 32 // bits * max(most) == max(cached_bytes(found, n))


@pytest.mark.parametrize(
    ("n", "budget", "line"),
    [
        (1, Budget(GIB), "caches up to 40.0 kB: 40.0 kB in memory, 0.0 GB in files"),
        (100, Budget(GIB), "caches up to 4.0 MB: 4.0 MB in memory, 0.0 GB in files"),
        (10**5, Budget(4 * GIB), "caches up to 4.0 GB: 4.0 GB in memory, 0.0 GB in files"),
        (10**5, Budget(10**9), "caches up to 4.0 GB: 1.0 GB in memory, 4.0 GB in files"),
        (
            10**5,
            Budget(0, 5 * 10**9),
            "caches up to 4.0 GB: 4.0 GB on the device, 0.0 GB in memory, 0.0 GB in files",
        ),
        (
            10**5,
            Budget(4 * 10**9, 10**9),
            "caches up to 4.0 GB: 1.0 GB on the device, 4.0 GB in memory, 0.0 GB in files",
        ),
        (
            10**5,
            Budget(2 * 10**9, 3 * 10**9),
            "caches up to 4.0 GB: 3.0 GB on the device, 2.0 GB in memory, 4.0 GB in files",
        ),
    ],
)
def test_the_need_in_one_line(n, budget, line):
    """One unit with 5,000 numbers in its output, for each of two networks."""
    unit = SimpleNamespace(shape=(5000,), outlet_shape=(), outlet=None, given=0)
    assert cache_line(SimpleNamespace(units=[unit], last_use=lambda i: 0), n, budget) == line


@pytest.mark.parametrize(("device", "ram"), [(0, 0), (40, 0), (40, 40), (100, 20), (20, 100), (300, 0)])
def test_no_place_ever_holds_more_than_its_share_of_the_report(device, ram, tmp_path):
    """For every order of sizes: the report is an upper bound, and the limits are kept."""
    budget, chance = Budget(4 * ram, 4 * device), random.Random(device + ram)
    for _ in range(20):
        store, total = RowStore(budget, tmp_path), 4 * sum(sizes := chance.choices(range(1, 60), k=5))
        for n in sizes:
            store.allocate((n,))
            used = {place: store.used(place) for place in (DEVICE, RAM, FILES)}
            assert all(used[place] <= most for place, most in budget.at_most(total).items()), used
            assert used[DEVICE] <= 4 * device and used[RAM] <= 4 * ram
        store.close()


def test_the_budget_of_a_network():
    unet = unet2d()
    assert Budget.of(unet, 0.5) == Budget(GIB // 2, 0, CPU)
    assert Budget.of(unet, 0.5, sharing=2) == Budget(GIB // 4, 0, CPU, 2)
    with pytest.raises(ValueError, match="device_gb=2: .* where memory_gb limits the cache"):
        Budget.of(unet, 4, 2)
    with pytest.raises(ValueError, match="device_gb=2"):
        quantize(ddim(unet), RECIPE, device_gb=2, progress=False)
    elsewhere = Budget.of(unet.to("meta"), 4, 2)
    assert elsewhere == Budget(4 * GIB, 2 * GIB, torch.device("meta"))
    assert Budget.of(unet, 4, 2, sharing=4).limit(DEVICE) == 2 * GIB  # each has a device of its own
    assert Budget.of(unet, 4).device == 0  # only of GPUs is it known what is free


@pytest.mark.parametrize("name", ["ram", "device"])
def test_a_negative_budget_is_refused(name):
    with pytest.raises(ValueError, match=f"{name}=-1"):
        Budget(**{"ram": 0, name: -1})


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_the_budget_of_a_network_on_a_gpu():
    unet = unet2d().cuda()
    free = torch.cuda.mem_get_info()[0]
    budget = Budget.of(unet, 4)
    assert budget.on.type == "cuda" and abs(budget.device - max(0, free - LEFT_FREE)) < 2**28


def test_a_disk_that_is_too_small_is_refused_before_any_work(tmp_path):
    work, total = tmp_path / "not" / "yet", shutil.disk_usage(tmp_path).total
    sizes = (2**k for k in itertools.count(6))  # the images are so large that a recipe may ask for enough
    unets = (unet2d(sample_size=size) for size in sizes)
    unet, enough = next(
        (unet, enough)
        for unet in unets
        if (enough := max(cached_bytes(traced(unet), 1))) * MOST_INPUTS > total
    )
    found, beyond = traced(unet), total // enough + 1
    check_disk(found, beyond, Budget(beyond * enough), work)  # all in RAM
    check_disk(found, beyond, Budget(0, beyond * enough), work)  # all on the device
    with pytest.raises(ValueError, match=rf"on {beyond:,} inputs may write up to .* GB to '{tmp_path}'"):
        check_disk(found, beyond, Budget(GIB), work)
    recipe = Recipe.qdiffusion(**{**SMALL, "samples": beyond})
    with pytest.raises(ValueError, match="fewer samples"):
        quantize(ddim(unet), recipe, work=work, progress=False)
    assert not work.exists()


def test_processes_on_one_machine_share_its_disk(tmp_path):
    found = traced(unet2d())
    enough, free = max(cached_bytes(found, 1)), shutil.disk_usage(tmp_path).free
    half = free * 6 // 10 // enough  # of the disk, and a little more
    check_disk(found, half, Budget(GIB), tmp_path)
    check_disk(found, half, Budget(half * enough, sharing=2), tmp_path)  # all in RAM
    reason = f"memory_gb=1: calibration on {half:,} inputs in each of 2 processes may write up to "
    with pytest.raises(ValueError, match=reason):
        check_disk(found, half, Budget(GIB // 2, sharing=2), tmp_path)


# Stable Diffusion v1.4 at full size, without memory


@pytest.fixture(scope="module")
def full_size():
    unet = build(SD_V1_4, device="meta")
    return unet, trace(unet, example_inputs(unet, device="meta"))


def on_a_grid(unet):
    """Give every quantizer of a network without memory a grid, as fitting would."""
    for layer in quant_layers(unet):
        ones = torch.ones(layer.weight.shape[0], len(layer.sizes), device=layer.weight.device)
        layer.weight_scale, layer.weight_zero_point = ones, torch.zeros_like(ones)
    for quantizer in activation_quantizers(unet):
        one = torch.ones((), device=next(unet.parameters()).device)
        quantizer.set_range(one, torch.zeros_like(one))
    return unet


def arguments_of_units(unet, found):
    """(args, kwargs) of each unit for one input."""
    kept, handles = {}, []
    for unit in found.units:

        def keep(module, args, kwargs, name=unit.name):
            kept[name] = (args, kwargs)

        handles.append(unet.get_submodule(unit.name).register_forward_pre_hook(keep, with_kwargs=True))
    with torch.no_grad():
        unet(**example_inputs(unet, device=next(unet.parameters()).device))
    for handle in handles:
        handle.remove()
    return kept


def repeated(value, rows):
    """An argument for more inputs."""
    is_row = isinstance(value, torch.Tensor) and value.ndim and len(value) == 1
    return value.repeat(rows, *[1] * (value.ndim - 1)) if is_row else value


def fitting_bytes(unit, arguments, rows, weights):
    """The most bytes that two iterations make on the device: of the rounding, or else of the step sizes."""
    fitter = UnitFitter(unit, UnitInputs([], None), Rows((1,)), [], PAPER.rounding, PAPER.step_sizes, 0, None)
    with LiveBytes() as live:
        if weights:
            fitter.rounded = quant_layers(unit)
            variables = [part.v for layer in fitter.rounded for part in layer.start_rounding()]
        else:
            variables = [quantizer.start_learning() for quantizer in activation_quantizers(unit)]
        args, kwargs = tree_map(lambda value: repeated(value, rows), arguments)
        with torch.no_grad():
            batch = Batch(slice(0, rows), args, kwargs, torch.empty_like(unit(*args, **kwargs)))
        adam = Adam([variables])
        for _ in range(2):
            fitter.iterate(batch, adam, adam_numbers([[1e-3]])[0], (3.5, 2.5))
    for layer in quant_layers(unit):
        layer.rounding = None
    for quantizer in activation_quantizers(unit):
        quantizer.log_scale = None
    return live.peak


def run_bytes(unit, arguments, rows):
    """The most bytes that running a unit on some rows makes on the device."""
    with LiveBytes() as live, torch.no_grad():
        args, kwargs = tree_map(lambda value: repeated(value, rows), arguments)
        unit(*args, **kwargs)
    return live.peak


def quantized_with_arguments(unet, found, recipe):
    quantized = on_a_grid(insert_quantizers(unet, recipe.grids, found))
    return quantized, arguments_of_units(quantized, found)


def looks(unit, arguments):
    """All that the bytes of a unit depend on: its modules, and the shapes of its tensors and arguments."""
    tensors = [*unit.named_parameters(), *unit.named_buffers(), *enumerate(tree_leaves(arguments))]
    return repr(unit), *((name, getattr(tensor, "shape", tensor)) for name, tensor in tensors)


def measured(measure, unet, given, found):
    """``measure(unit, arguments)`` of every unit by name; units that look the same are measured once."""
    known, values = {}, {}
    for name in (unit.name for unit in found.units):
        unit = unet.get_submodule(name)
        key = looks(unit, given[name])
        if key not in known:
            known[key] = measure(unit, given[name])
        values[name] = known[key]
    return values


def test_networks_without_memory_measure_what_real_ones_hold():
    """So that the numbers at full size, below, are those of a real device."""
    peaks = []
    for device in ("cpu", "meta"):
        unet = conditional_unet().to(device)
        found = trace(unet, example_inputs(unet, device=device))
        quantized, given = quantized_with_arguments(unet, found, RECIPE)
        peaks.append(
            [
                peak
                for unit in found.units
                for module in [quantized.get_submodule(unit.name)]
                for peak in (
                    fitting_bytes(module, given[unit.name], 8, weights=True),
                    fitting_bytes(module, given[unit.name], 8, weights=False),
                    run_bytes(module, given[unit.name], 8),
                )
            ]
        )
    real, foretold = (torch.tensor(found, dtype=torch.float64) for found in peaks)
    assert (real / foretold - 1).abs().max() < 0.05, (real / foretold).tolist()


@pytest.mark.slow
def test_the_calibration_of_stable_diffusion_fits(full_size):
    """Every number of docs/memory.md is measured here."""
    unet, found = full_size
    quantized, given = quantized_with_arguments(unet, found, PAPER)
    rows = PAPER.rounding.batch_size
    fitting = measured(
        lambda unit, args: max(fitting_bytes(unit, args, rows, weights) for weights in (True, False)),
        quantized,
        given,
        found,
    )
    running = max(
        measured(lambda unit, args: run_bytes(unit, args, found.batch_size), quantized, given, found).values()
    )
    weights = FLOAT_BYTES * parameter_count(unet)
    cached = cached_bytes(found, PAPER.calibration.samples)
    inputs = (
        PAPER.calibration.samples * FLOAT_BYTES * prod(example_inputs(unet, device="meta")["sample"].shape)
    )
    text = FLOAT_BYTES * 129 * 77 * 768
    for layer in quant_layers(quantized):
        layer.hold_integers()
    finished = sum(tensor.nbytes for tensor in quantized_state(quantized).values())
    device = 2 * weights + finished + TEXT_MODELS + max(running, *fitting.values())
    ram = 16 * 2**30 + inputs + text
    moments = [moment_bytes(layer) for layer in quant_layers(quantized) if is_compensable(layer)]
    gptq = MOST_BYTES + max(running, *moments)
    assert gptq < max(fitting.values())  # so that it changes nothing in the sum
    stated = {
        "inputs": inputs + text,
        "cache": max(cached),
        "finished": finished,
        "disk": max(cached) + finished + inputs + text,
        "ram": ram,
        "weights": 2 * weights,
        "fitting": max(fitting.values()),
        "running": running,
        "gptq": gptq,
        "device": device,
    }
    for name, value in stated.items():
        assert f"{value / 1e9:.1f} GB | <!-- {name} -->" in TEXT, (name, value / 1e9)
    assert f"`{found.units[cached.index(max(cached))].name}`" in TEXT
    assert f"`{max(fitting, key=fitting.get)}`" in TEXT
    assert ram + 2e9 < 24e9 and device < 16e9
    for profile in PROFILES:
        recipe = PRESETS["sd-v1.4"].recipe(profile=profile)
        assert recipe.calibration.samples <= PAPER.calibration.samples
        assert recipe.rounding.batch_size == PAPER.rounding.batch_size
        assert not recipe.whole_network.network_iterations


def test_the_full_precision_unit_holds_no_attention_matrix(full_size):
    """It is the worst one at its real size and on a real device, for few rows; diffusers attends there."""
    unet, found = full_size
    name = "down_blocks.0.attentions.0.transformer_blocks.0"
    unit = copy.deepcopy(unet.get_submodule(name)).to_empty(device="cpu")
    for parameter in unit.parameters():
        torch.nn.init.zeros_(parameter)
    given = {"hidden_states": torch.zeros(1, 64 * 64, 320), "encoder_hidden_states": torch.zeros(1, 77, 768)}
    one, two = (run_bytes(unit, ((), given), rows) for rows in (1, 2))
    matrix = FLOAT_BYTES * 8 * (64 * 64) ** 2
    assert two == 2 * one < matrix
    assert f"would take {found.batch_size * matrix / 1e9:.1f} GB for each" in TEXT
    assert f"{found.batch_size * one / 1e9:.1f} GB | <!-- full -->" in TEXT, found.batch_size * one / 1e9


def test_the_numbers_in_words(full_size):
    """The largest unit's inputs and outputs for all N, which held in memory would be the alternative."""
    found = full_size[1]
    unit = max(found.units, key=lambda unit: unit.given + prod(unit.shape))
    held = FLOAT_BYTES * PAPER.calibration.samples * (unit.given + prod(unit.shape))
    assert f"needs {held / 1e9:.0f} GB for the largest one" in TEXT
    assert f"{max(cached_bytes(found, 1)) / 1e6:.1f} MB an input" in TEXT
    disk = re.search(r"([\d.]+) GB \| <!-- disk -->", TEXT)[1]
    for text in (f"{float(disk):.0f} GB on a disk", f"{float(disk):.0f} GB of files"):
        assert text in TEXT + README


def test_the_cache_grows_with_the_inputs_alone(full_size):
    found = full_size[1]
    for n in (1024, 2560):
        gigabytes = max(cached_bytes(found, n)) / 1e9
        assert re.search(rf"^\| {n:,} \| {gigabytes:.0f} GB \|$", TEXT, re.MULTILINE), gigabytes


def test_the_recorded_milliseconds_of_an_iteration():
    found = json.loads((ROOT / "data/recorded/gpu_calibration.json").read_text())["data"]["results"]
    device, arithmetic = (found[name]["seconds_per_iteration"] for name in ("device", "arithmetic"))
    for part in (f"takes {1000 * device:.2f} ms", f"{1000 * arithmetic:.2f} ms for the arithmetic alone"):
        assert part in TEXT
    assert f"is {100 * (1 - arithmetic / device):.0f} % of the time" in TEXT
    assert "graph" not in found and "has not been recorded" in TEXT
