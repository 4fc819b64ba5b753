"""Lesson 5: helpers, and figures that say what they show."""

import pytest
import torch
from solutions import solution
from tiny_models import ddim, random_inputs

from qdiff_lib import Recipe, quantize, save_quantized
from qdiff_lib.course import one_unit as units
from qdiff_lib.course import paper_scale
from qdiff_lib.course.figures import lesson_05 as figures
from qdiff_lib.course.one_unit import Moment
from qdiff_lib.course.packed_file import file_parts
from qdiff_lib.course.recorded import Recorded
from qdiff_lib.modules.activation_quantizer import activation_quantizers
from qdiff_lib.modules.quant_layer import quant_layers
from qdiff_lib.quantizers.adaround import AdaRound

# Helpers


@pytest.fixture(scope="module")
def tiny():
    pipe = ddim()
    return pipe, random_inputs(pipe.unet, 8)


def test_a_caught_unit_gives_its_output_again(tiny):
    pipe, inputs = tiny
    name = "up_blocks.1.resnets.0"
    caught = units.catch(pipe.unet, name, inputs, batch_size=3)
    assert len(caught.output) == 8
    with torch.no_grad():
        again = pipe.unet.get_submodule(name)(*caught.args)
    torch.testing.assert_close(again, caught.output)
    args, target = caught.draw(5, torch.Generator().manual_seed(0))
    assert len(args[0]) == len(args[1]) == len(target) == 5
    assert not pipe.unet.get_submodule(name)._forward_hooks


def test_a_quantized_unit_starts_soft_and_rounds(tiny):
    pipe, inputs = tiny
    name = "up_blocks.1.resnets.0"
    caught = units.catch(pipe.unet, name, inputs)
    recipe = Recipe.qdiffusion(4, 8, include=(name, f"{name}.*"), weight_range="min_max")
    unit = units.quantized_unit(pipe.unet, name, recipe)
    rounds = [part for layer in quant_layers(unit) for part in layer.start_rounding()]
    soft = units.unit_error(unit, caught)  # not 0: the rounded zero point leaves the ends out
    first = units.moment(0, rounds)
    assert first.flipped == 0 and 0.5 < first.undecided <= 1
    with torch.no_grad():
        for part in rounds:
            part.v.copy_(torch.where(part.h() >= 0.5, -9.0, 9.0))
    last = units.moment(1, rounds, first)
    assert last.flipped == 1 and last.undecided == 0
    for layer in quant_layers(unit):
        layer.finish_rounding()
    rounded = units.unit_error(unit, caught)
    units.observe(unit, caught, 2, torch.Generator().manual_seed(0))
    assert units.unit_error(unit, caught) > rounded > soft
    assert all(q.scale is not None and q.grid.bits == 2 for q in activation_quantizers(unit))


def test_the_parts_of_a_file_add_up(tiny, tmp_path):
    pipe, inputs = tiny
    path = save_quantized(quantize(pipe, Recipe.linear(4, 8), inputs, progress=False), tmp_path)
    parts = file_parts(path)
    assert sum(parts.values()) == path.stat().st_size and min(parts.values()) > 0
    weights = [
        m.weight.numel() for m in pipe.unet.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)
    ]
    assert parts["codes"] == sum(-(-count // 2) for count in weights)


def test_results_at_scale_say_what_is_missing(monkeypatch):
    assert paper_scale.table(("DDPM, CIFAR-10",)).count(paper_scale.MISSING) == 3
    row = {"network": "DDPM, CIFAR-10", "label": "Q-Diffusion W4A8", "fid": 5.0}
    monkeypatch.setattr(paper_scale, "recorded", lambda name: Recorded({"rows": [row]}, {}))
    lines = paper_scale.table(("DDPM, CIFAR-10",)).splitlines()
    assert "4.93" in lines[-1] and "5.00" in lines[-1] and paper_scale.MISSING in lines[1]


# Figures


def test_pictures_name_the_difference():
    dark, light = torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.full((3, 1, 8, 8), 10, dtype=torch.uint8)
    label = figures.pictures({"original": dark, "other": light}, columns=2).get_label()
    assert "2 pictures from each of 2 models" in label and "all 3 pictures: other 10" in label


def test_roundings_have_a_place():
    errors = torch.tensor([[4.0, 1.0, 2.0, 3.0], [4.0, 1.0, 2.0, 3.0]])
    assert figures.places(errors, torch.tensor([2.0 + 1e-9, 4.0])).tolist() == [2, 4]
    nearest, learned = torch.tensor([3.0, 3.0]), torch.tensor([1.0, 2.0])
    label = figures.all_roundings(errors, nearest, learned).get_label()
    assert "place of nearest is 3, that of the learned rounding is 1" in label
    assert "3.0 and 1.5 times that of the best rounding" in label


def moments():
    nearest = torch.tensor([True, False, True, False])
    return [
        Moment(0, torch.tensor([0.6, 0.4, 0.9, 0.1]), nearest),
        Moment(10, torch.tensor([0.0, 0.0, 1.0, 0.5]), nearest),
    ]


def test_rounding_variables():
    label = figures.rounding_variables(moments()[1]).get_label()
    assert "25.0% of 4 weights are undecided, and 50.0%" in label


def test_learning():
    label = figures.learning([0.1, 0.2], moments(), 1.0, 0.25).get_label()
    assert "from 100% to 25.0%" in label and "0.25. With nearest it is 1.00" in label


def test_file_parts_figure():
    label = figures.file_parts({"codes": 900_000, "header": 100_000}, 8e6).get_label()
    assert "1.00 MB instead of 8.00 MB" in label and "codes 90%" in label


def test_ladder():
    scores = dict(snr_db=10.0, kid=0.01, bytes=100)
    rows = [
        {"label": "linear", "trajectory_mse": 0.2, "frechet": 7.0, "seconds": 20.0, **scores},
        {"label": "learned", "trajectory_mse": 0.01, "frechet": 3.0, "seconds": 200.0, **scores},
        {"label": "full precision", "trajectory_mse": 0.0, "frechet": 2.6, "seconds": 0.0, **scores},
    ]
    figure = figures.ladder(rows, 128, 0.7)
    assert "from 0.200 to 0.0100" in figure.get_label() and "real images 0.7, n = 128" in figure.get_label()
    assert len(figure.axes) == 3
    lines = figures.ladder_table(rows).splitlines()
    assert len(lines) == 4 and "5%" in lines[2] and len({len(line) for line in lines}) == 1


def test_the_codes_of_the_exercise_are_those_of_the_library():
    generator = torch.Generator().manual_seed(6)
    w, h = torch.randn(40, generator=generator), torch.rand(40, generator=generator)
    library = AdaRound(w, torch.tensor(0.125), torch.tensor(7.0), 4)
    library.h = lambda: h
    assert torch.equal(library.decided() / 0.125 + 7, solution("05.decide_codes")(w, 0.125, 7.0, h, 4))


def test_notable_stages():
    columns = zip("abcd", (0.2, 0.1, 0.3, 0.03), (10.0, 90.0, 20.0, 60.0), strict=True)
    rows = [dict(label=label, trajectory_mse=mse, seconds=seconds) for label, mse, seconds in columns]
    assert figures.notable_stages(rows) == ("d", "b", ["c"])


def test_costs_and_what_was_recorded_on_a_gpu():
    lines = paper_scale.costs().splitlines()
    assert len(lines) == 4 and lines[0].startswith("ddpm-cifar10") and "35.7" in lines[0]
    rows = [
        {"label": "full precision"},
        {"label": "linear W4A8", "trajectory_mse": [0.5, 0.25], "calibration_seconds": 3.4},
    ]
    found = paper_scale.recorded_on_a_gpu({"rows": rows})
    assert found == "linear W4A8        error 0.2500, calibrated in 3 s"
