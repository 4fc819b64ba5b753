"""Lesson 4: figures say what they show, stretching keeps the function."""

import pytest
import torch
from tiny_models import ddpm, random_inputs, traced, unet2d

from qdiff_lib.calibration.calibration_set import CalibrationSet
from qdiff_lib.course.figures import lesson_04 as figures
from qdiff_lib.course.shortcuts import (
    both_sides_of_equation_8,
    groups_straddle,
    input_ranges,
    layer_error,
    quantize_shortcuts,
    relative_error,
    stretch_skips,
    watch,
)


@pytest.fixture(scope="module")
def pipe():
    """A tiny untrained pipeline; its skip and deep channels share no group of the norms."""
    return ddpm(unet2d(block_out_channels=(8, 8), layers_per_block=1))


def test_ranges_have_one_entry_a_side(pipe):
    found, inputs = traced(pipe.unet), random_inputs(pipe.unet, n=40)
    ranges = input_ranges(pipe.unet, found, inputs)
    assert list(ranges) == [name for unit in found.units for name in unit.layers]
    assert all(len(sides) == (2 if name in found.concat_splits else 1) for name, sides in ranges.items())
    with torch.no_grad():
        seen = watch(pipe.unet, found.concat_splits, inputs.rows(slice(None)))
    for name, sizes in found.concat_splits.items():
        for (low, high), part in zip(ranges[name], seen[name][0].split(sizes, 1), strict=True):
            assert low == pytest.approx(min(part.min().item(), 0), rel=1e-5)
            assert high == pytest.approx(max(part.max().item(), 0), rel=1e-5)


def test_stretching_keeps_the_function_but_not_the_one_grid(pipe):
    found, inputs = traced(pipe.unet), random_inputs(pipe.unet, n=16)
    rows = inputs.rows(slice(None))
    whole = [
        name for name, sizes in found.concat_splits.items() if not groups_straddle(pipe.unet, name, sizes)
    ]
    assert whole
    stretched = stretch_skips(pipe, found.concat_splits, dict.fromkeys(whole, 50.0))
    assert traced(stretched.unet).concat_splits == found.concat_splits
    with torch.no_grad():
        before, after = (p.unet(**rows).sample for p in (pipe, stretched))
    assert relative_error(after, before) < 1e-4
    errors = {}
    for split in (False, True):
        unet = quantize_shortcuts(stretched, found.concat_splits, inputs, 4, 8, split).unet
        seen = watch(stretched.unet, whole, rows)
        errors[split] = [relative_error(unet.get_submodule(s)(x), y) for s, (x, y) in seen.items()]
    assert all(one > 3 * two for one, two in zip(errors[False], errors[True], strict=True))


def test_stretching_refuses_small_factors_and_shared_groups(pipe):
    splits = traced(pipe.unet).concat_splits
    with pytest.raises(ValueError, match="0.5"):
        stretch_skips(pipe, splits, {next(iter(splits)): 0.5})
    uneven = ddpm(unet2d(block_out_channels=(8, 12)))
    splits = traced(uneven.unet).concat_splits
    straddled = [name for name, sizes in splits.items() if groups_straddle(uneven.unet, name, sizes)]
    with pytest.raises(ValueError, match="cannot be stretched"):
        stretch_skips(uneven, splits, {straddled[0]: 50.0})


def test_halves_of_a_layer_give_its_output(pipe):
    found, inputs = traced(pipe.unet), random_inputs(pipe.unet, n=8)
    unet = quantize_shortcuts(pipe, found.concat_splits, inputs, 4, 8, True).unet
    for name, (x, _) in watch(pipe.unet, found.concat_splits, inputs.rows(slice(None))).items():
        layer = unet.get_submodule(name)
        joined, exact = both_sides_of_equation_8(layer, x)
        expected = (layer(x) - layer.bias[:, None, None]).movedim(1, -1).flatten(0, 2)
        assert relative_error(expected, exact) < 1e-5 and relative_error(joined, exact) < 1e-12


def test_toy_layer_error_depends_on_the_number_of_grids():
    generator = torch.Generator().manual_seed(0)
    x, weight = (2 * torch.rand(n, 16, generator=generator) - 1 for n in (64, 8))
    factor = torch.tensor([50.0] * 8 + [1.0] * 8)
    assert layer_error(x * factor, weight / factor, (16,)) > 4 * layer_error(
        x * factor, weight / factor, (8, 8)
    )


def test_image_rows_say_how_far_each_row_is():
    black = torch.zeros(3, 1, 4, 4, dtype=torch.uint8)
    figure = figures.pictures({"first": black, "second, white": black + 255}, steps=20)
    assert "second, white 1.0000" in figure.get_label()


def test_ranges_figure_counts_the_concatenations():
    figure = figures.ranges_along_network([1.0, 2.0, 3.0, 9.0], [False, False, False, True], n=7)
    assert (
        "has a range of 9.0. This is 4.5 times the median of the 3 other layers (2.0)" in figure.get_label()
    )


def test_halves_figure_gives_both_ratios():
    x = torch.cat([torch.full((2, 3, 2, 2), 4.0), torch.full((2, 1, 2, 2), -2.0)], 1)
    weight = torch.cat([torch.full((5, 3, 1, 1), 0.5), torch.full((5, 1, 1, 1), 1.0)], 1)
    figure = figures.halves({"case": (x, weight)}, deep=3)
    assert "the range of X1 is 2.00 times that of X2, W1's is 0.50 times W2's" in figure.get_label()


@pytest.mark.parametrize(("ratio", "deep_codes"), [(1, 16), (5, 5), (200, 1)])
def test_magnifier_counts_the_codes(ratio, deep_codes):
    line = torch.linspace(-1, 1, 999)
    figure = figures.magnifier(line, line, ratio=ratio, bits=4)
    label = figure.get_label()
    used = int(label.rsplit("uses ", 1)[1].split()[0].rstrip("."))
    _, black, _ = figure.axes[1].collections  # grey below black, and blue
    assert len(black.get_segments()) == used  # a reader can count them
    assert f"Skip / deep = {ratio}" in label
    assert abs(used - deep_codes) <= 1


def test_toy_figure_names_where_the_smaller_side_is_lost():
    figure = figures.toy_errors([1, 15, 200], {4: [0.07, 1, 1], 8: [0.01, 0.1, 0.8]}, {"one": [1, 2, 3]}, 1.7)
    assert "with 4 bits from a ratio of 15 on, with 8 bits not up to 200" in figure.get_label()


def test_gains_figure_gives_the_span():
    figure = figures.split_gains(["a", "b"], {"W4A8": [0.9, 1.1], "W8A4": [1.2, 1.3]}, [1.2, 1.3], n=4)
    assert "over 2 shortcut layers: W4A8 0.90 to 1.10; W8A4 1.20 to 1.30" in figure.get_label()


def test_calibration_sets_longer_than_a_pass_are_read_whole(pipe):
    inputs = random_inputs(pipe.unet, n=33)
    last = {name: value.clone() for name, value in inputs.inputs.items()}
    last["sample"][-1] *= 100
    found = traced(pipe.unet)
    wide = input_ranges(pipe.unet, found, CalibrationSet(last, inputs.step, {}))
    assert wide["conv_in"][0][1] > input_ranges(pipe.unet, found, inputs)["conv_in"][0][1]
