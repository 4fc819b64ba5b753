"""Lesson 02: hooks see and go, figures tell."""

import pytest
import torch
from matplotlib.figure import Figure
from tiny_models import ddim, random_inputs

from qdiff_lib.course import watching
from qdiff_lib.course.exercises.lesson_02 import used_share
from qdiff_lib.course.figures import lesson_02 as figures

quiet = pytest.mark.filterwarnings("error")  # a tensor that matplotlib cannot take as it is only warns


def test_used_share_of_a_known_grid():
    x = torch.tensor([-9.0, 0.0, 1.0])  # codes 0, 4, 6 on a grid of steps 0.5
    assert used_share(x, torch.tensor(0.5), torch.tensor(4.0), bits=3) == 7 / 8


@pytest.fixture(scope="module")
def pipe():
    """A tiny untrained pipeline."""
    return ddim()


class TestWatching:
    def test_outputs_are_those_of_one_pass(self, pipe):
        inputs = random_inputs(pipe.unet, watching.BATCH + 3)
        found = watching.layer_outputs(pipe.unet, ["conv_out"], inputs)
        with torch.no_grad():
            expected = pipe.unet(**inputs.rows(slice(None))).sample
        torch.testing.assert_close(found["conv_out"], expected.flatten())

    def test_sampled_inputs_keep_the_extremes_of_each_step(self, pipe):
        values, runs = watching.sampled_inputs(pipe, ["conv_in"], n=16, steps=3, kept=10)
        assert values["conv_in"].shape[0] == 3 and len(runs.trajectory) == 3
        before = runs.trajectory[:-1].flatten(1)  # what the second and the third step read
        assert torch.equal(values["conv_in"][1:].amin(1), before.amin(1))
        assert torch.equal(values["conv_in"][1:].amax(1), before.amax(1))

    def test_sampled_inputs_refuse_half_a_batch(self, pipe):
        with pytest.raises(ValueError, match="n=12"):
            watching.sampled_inputs(pipe, ["conv_in"], n=12, steps=2)

    def test_range_table_and_histograms(self):
        values = {"conv_in": torch.tensor([[0.0, 1.0, 1.0, 3.0], [-1.0, 0.0, 0.0, 0.0]])}
        table = watching.range_table(values, n=8)
        assert (table["steps"], table["n"], table["layers"]) == (2, 8, ["conv_in"])
        assert (table["min"], table["max"]) == ([[0.0, -1.0]], [[3.0, 0.0]])
        counts = watching.histograms(values, bins=4)["conv_in"]  # bins from -1 to 3
        assert counts.tolist() == [[0, 1, 2, 1], [1, 3, 0, 0]]

    def test_chosen_inputs_fit_and_are_enough(self, pipe):
        inputs = random_inputs(pipe.unet, 10)
        few = watching.chosen(inputs, inputs.step == inputs.step[0], 1)
        assert len(few) == 1 and few.step.tolist() == [inputs.step[0]]
        assert torch.equal(few.inputs["sample"], inputs.inputs["sample"][:1])
        with pytest.raises(ValueError, match="count=11"):
            watching.chosen(inputs, inputs.step >= 0, 11)


def table(layers: int, steps: int = 4) -> dict:
    """Ranges that shrink from [-8, 8] to [-1, 1] along the run, alike in all layers."""
    high = [[8.0 * 8 ** (-t / (steps - 1)) for t in range(steps)]] * layers
    low = [[-value for value in row] for row in high]
    names = ["time_emb_proj", *(f"down_blocks.{i}.conv" for i in range(layers - 1))]
    return {"steps": steps, "n": 5, "layers": names, "min": low, "max": high, "low": low, "high": high}


def test_shares_are_of_the_range_that_serves_all_steps():
    one_sided = {"min": [[2.0, 1.0]], "max": [[4.0, 3.0]]}  # both contain 0 once widened
    assert figures.shares(one_sided).tolist() == [[1.0, 0.75]]


@quiet
@pytest.mark.parametrize("layers", [3, 12])
def test_heat_map_names_the_layer_that_drifts_most(layers):
    ranges = table(layers)
    ranges["min"] = [row if i == 1 else [row[0]] * 4 for i, row in enumerate(ranges["min"])]
    ranges["max"] = [row if i == 1 else [row[0]] * 4 for i, row in enumerate(ranges["max"])]
    figure = figures.heat_map(ranges)
    assert isinstance(figure, Figure)
    assert f"{layers} layers over 4 steps, 5 runs" in figure.get_label()
    assert "100% for the median layer" in figure.get_label()
    assert "12% for down_blocks.0.conv" in figure.get_label()


@quiet
@pytest.mark.parametrize("densities", [False, True])
def test_ridges_give_the_narrowest_and_the_widest_step(densities):
    ranges = table(2)
    counts = {name: torch.ones(4, 6) for name in ranges["layers"]} if densities else None
    label = figures.ridges(ranges, ranges["layers"], counts).get_label()
    assert "Ranges at 4 of 4 steps, n = 5" in label
    assert label.count("from 2.0 at step 4 to 16.0 at step 1") == 2


@quiet
def test_utilisation_gives_shares_and_the_worst_ratio():
    used, lost = {"conv_in": torch.tensor([1.0, 0.25])}, {"conv_in": torch.tensor([1.0, 15.5])}
    label = figures.utilisation(used, lost, 8).get_label()
    assert "One 8-bit range" in label
    assert "conv_in uses 25% to 100% of the codes, largest error ratio 15.5" in label


@quiet
@pytest.mark.parametrize("clipped, cause", [(6.0, "clipping"), (1.0, "a coarse grid")])
def test_fixed_range_names_the_cause(clipped, cause):
    rounding, clipping = torch.tensor([1.0, 2.0]), torch.tensor([0.0, clipped])
    label = figures.fixed_range(rounding, clipping, torch.tensor([1.0, 0.5]), "conv_in", "step 1").get_label()
    assert label == f"The largest error is at step 2: {2 * (2 + clipped):.1f} times the floor, from {cause}."


@quiet
def test_divergences_give_the_mean_of_each_set():
    found = {"all": {"a": 0.01, "b": 0.03}, "few": {"a": 0.2, "b": 0.4}}
    label = figures.divergences(found, 40).get_label()
    assert label == "Mean KL divergence over 2 layers, 40 held-out inputs: all 0.0200; few 0.3000 nats."
