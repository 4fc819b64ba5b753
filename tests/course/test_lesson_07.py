"""Lesson 7: a unit as a function of its weights, the library's result, and the solution on a real unit."""

import pytest
import torch
from solutions import solution
from tiny_models import ddim, random_inputs

from qdiff_lib import Recipe
from qdiff_lib.course import unit_function as units
from qdiff_lib.course.checks import check
from qdiff_lib.course.exercises import rounding_07
from qdiff_lib.course.figures import lesson_07 as figures
from qdiff_lib.course.one_unit import catch, quantized_unit, unit_error
from qdiff_lib.modules.quant_layer import quant_layers
from qdiff_lib.ptq.fitting import annealed_beta
from qdiff_lib.quantizers.adaround import AdaRound

NAME, SPLIT = "down_blocks.1.resnets.0", "up_blocks.1.resnets.0"


def recipe_of(name: str, **choices) -> Recipe:
    choices = dict(iterations=40, rounding_start="fraction", learn_affine=False) | choices
    return Recipe.qdiffusion(4, 8, include=(name, f"{name}.*"), **choices)


@pytest.fixture(scope="module")
def tiny():
    pipe = ddim()
    return pipe.unet, random_inputs(pipe.unet, 12)


@pytest.mark.parametrize("name", [NAME, SPLIT])
def test_a_unit_is_a_function_of_its_weights(tiny, name):
    unet, inputs = tiny
    caught = catch(unet, name, inputs)
    unit, layers = units.take_apart(unet, name, recipe_of(name))
    with torch.no_grad():
        same = unit([layer.w for layer in layers], *caught.args)
    torch.testing.assert_close(same, caught.output)
    assert len(unit.names) == len(layers) >= 3
    quantized = quantized_unit(unet, name, recipe_of(name))
    for layer in quant_layers(quantized):
        layer.round_weight()
    torch.testing.assert_close(
        unit.error(units.nearest_weights(layers), caught), unit_error(quantized, caught), rtol=1e-4, atol=0
    )


@pytest.mark.parametrize("name", [NAME, SPLIT])
def test_the_solution_does_what_the_library_does(tiny, name):
    """On the same batches, both for a plain unit and for one whose layer has two grids."""
    unet, inputs = tiny
    recipe, caught = recipe_of(name), catch(unet, name, inputs)
    unit, layers = units.take_apart(unet, name, recipe)
    batches = units.random_batches(len(caught.output), recipe.rounding.batch_size, 40, seed=3)
    rounding = recipe.rounding
    given = unit, layers, caught.args, caught.output, batches, rounding.regularization, rounding.lr
    mine = units.attempt(
        check("07.learn_rounding", solution("07.learn_rounding")), solution("07.learn_rounding"), *given
    )
    library = units.library_weights(unet, name, recipe, caught, seed=3)
    different = [(a - b).abs() > 1e-3 * layer.s for a, b, layer in zip(mine, library, layers, strict=True)]
    assert torch.cat([part.flatten() for part in different]).float().mean() < 0.02
    nearest = unit.error(units.nearest_weights(layers), caught)
    assert unit.error(library, caught) < nearest and unit.error(mine, caught) < nearest
    assert not torch.equal(library[0], units.library_weights(unet, name, recipe, caught, 3, strength=0.0)[0])


def test_a_loop_that_is_not_right_does_not_run(capsys):
    outcome = check("07.learn_rounding", lambda *given: None)
    assert units.attempt(outcome, lambda *given: 1 / 0) is None
    assert "first make its check right" in capsys.readouterr().out


def test_references_are_what_the_library_computes():
    recipe = Recipe.qdiffusion(4, 8, profile="tiny")
    for iteration in (0, 51, 52, 100, 259):
        beta = rounding_07.beta_at(iteration, 260)
        assert (beta is None) == (iteration < recipe.rounding.warmup * 260)
        assert beta is None or beta == pytest.approx(annealed_beta(iteration, recipe.rounding))
    generator = torch.Generator().manual_seed(0)
    w, s, z = torch.randn(5, 9, generator=generator), torch.full((5, 1), 0.25), torch.full((5, 1), 7.0)
    library = AdaRound(w, s, z, 4)
    v = rounding_07.start_of([(w, s, z)])[0]
    torch.testing.assert_close(v, library.v.detach(), rtol=1e-4, atol=1e-4)
    layer = rounding_07.Layer(w, s, z)
    torch.testing.assert_close(rounding_07.on_grid(layer, rounding_07.share(v)), library().detach())
    torch.testing.assert_close(rounding_07.penalty_of(library.h(), 3.0), library.regularizer(3.0))


def test_batches_are_drawn_without_replacement():
    batches = units.random_batches(10, 4, 7, seed=1)
    assert batches.shape == (7, 4) and all(len(set(rows)) == 4 for rows in batches.tolist())
    assert torch.equal(batches, units.random_batches(10, 4, 7, seed=1))
    assert len(units.random_batches(3, 16, 2, seed=1)[0]) == 3


def test_figures_say_what_they_show():
    label = figures.unit_errors({"nearest": 0.2, "learned": 0.05}, 1234).get_label()
    assert "1,234 weights" in label and "nearest 0.200, learned 0.050" in label
    assert "2 at h = 0.5, 2 at h = 0.6 and 2 at h = 0.9" in figures.penalty(1).get_label()
    assert "0.00026 at h = 0.6" not in figures.penalty(4).get_label()
    h = rounding_07.share(torch.tensor([-1.0, 0.0, 1.0])).tolist()
    assert "V starts near 0.00" in figures.toy_weight(2.5, [-1.0, 0.0, 1.0], h).get_label()
    slope = torch.autograd.functional.jacobian(lambda x: 1 - (2 * x - 1).abs().pow(3.0), torch.tensor(0.8))
    torch.testing.assert_close(figures.slope(torch.tensor(0.8), 3.0), slope.abs())
