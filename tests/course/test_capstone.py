"""The capstone's score: its definition, its budgets, hostile hand-ins, and the command."""

import os
import re
import shutil

import pytest
import torch
from tampering import CONFIG, TENSORS, edit_config, edit_json, edit_tensors

from qdiff_lib import Recipe, load, quantize, sample, save_quantized, with_sampler
from qdiff_lib.course import capstone
from qdiff_lib.course.capstone import Score, Scorer
from qdiff_lib.evaluation.trajectory_errors import trajectory_mse
from qdiff_lib.graph.cost import bops, layer_bits_of, layer_costs
from qdiff_lib.io.shipped_data import data_folder

SEED, IMAGES = 3, 2
RECIPE = Recipe.linear(weights=3, activations=8, steps=2, samples=4)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A hand-in; do not change it."""
    folder = tmp_path_factory.mktemp("written") / "amy"
    save_quantized(quantize(load(capstone.MODEL), RECIPE, progress=False), folder)
    return folder


@pytest.fixture(scope="module")
def scorer():
    return Scorer(SEED, IMAGES, steps=2)


@pytest.fixture
def folder(written, tmp_path):
    return shutil.copytree(written, tmp_path / "amy")


def points(decibels: float, **changes) -> float:
    within = dict(bytes=capstone.MOST_BYTES, bit_operations=capstone.MOST_BIT_OPERATIONS)
    rest = dict(error=0.1, decibels=decibels, spread=0.1, recipe=None)
    return Score(**{**within, **rest, **changes}).points


class TestScore:
    def test_it_compares_the_last_latents_with_full_precision(self, written, scorer):
        pipes = [with_sampler(load(name), "ddim") for name in (capstone.MODEL, written)]
        truth, mine = (sample(pipe, IMAGES, 2, SEED, record=True).trajectory for pipe in pipes)
        score = scorer.score(written)
        assert score.error == pytest.approx(trajectory_mse(truth, mine)[-1].item())
        each = [
            10 * torch.log10(a.double().square().sum() / (a.double() - b).square().sum()).item()
            for a, b in zip(truth[-1], mine[-1], strict=True)
        ]
        assert score.decibels == pytest.approx(sum(each) / 2)
        assert score.spread == pytest.approx(abs(each[0] - each[1]) / 2)

    def test_it_counts_bytes_and_bit_operations_and_reads_the_recipe(self, written, scorer):
        score, pipe = scorer.score(written), load(written)
        costs = layer_costs(pipe.unet)
        assert score.bytes == (written / TENSORS).stat().st_size < capstone.MOST_BYTES
        assert score.bit_operations == bops(costs, *layer_bits_of(pipe.unet, costs)) == bops(costs, 3, 8)
        assert score.recipe == RECIPE and score.within

    def test_other_noise_gives_another_number(self, written, scorer):
        assert Scorer(SEED + 1, IMAGES, steps=2).score(written).error != scorer.score(written).error

    def test_points_are_in_proportion_and_beyond_a_budget_there_are_none(self):
        assert points(capstone.NONE) == points(capstone.NONE - 9) == 0
        assert points(capstone.FULL) == points(capstone.FULL + 9) == capstone.POINTS
        assert points((capstone.NONE + capstone.FULL) / 2) == capstone.POINTS / 2
        assert points(capstone.FULL, bytes=capstone.MOST_BYTES + 1) == 0
        assert points(capstone.FULL, bit_operations=capstone.MOST_BIT_OPERATIONS + 1) == 0

    def test_full_precision_is_beyond_both_budgets(self, scorer, tmp_path):
        shutil.copytree(data_folder() / "models" / capstone.MODEL, tmp_path / "full")
        score = scorer.score(tmp_path / "full")
        assert score.bytes > 4 * capstone.MOST_BYTES and score.bit_operations > capstone.MOST_BIT_OPERATIONS
        assert "beyond the budget" in str(score) and capstone.changed_fields(score.recipe) == "not quantized"

    def test_the_recipe_is_told_by_what_it_changes(self):
        recipe = Recipe.qdiffusion(weights=3, exclude=("conv_in",))
        assert capstone.changed_fields(recipe) == "qdiffusion: weights=3, exclude=('conv_in',)"
        assert capstone.changed_fields(Recipe.linear()) == "linear: no change"

    def test_the_table_of_costs_has_every_layer_once(self):
        unet = load(capstone.MODEL).unet
        lines = capstone.cost_table(unet).splitlines()[1:]
        costs, rows = layer_costs(unet), [line.split() for line in lines]
        assert len({row[0] for row in rows}) == len(rows) > 20
        assert sum(float(row[1]) for row in rows) == pytest.approx(
            sum(c.parameters for c in costs) / 1e3, abs=3
        )
        assert sum(float(row[2]) for row in rows) == pytest.approx(sum(c.macs for c in costs) / 1e6, abs=3)
        assert sum(float(row[6]) for row in rows) == pytest.approx(bops(costs, 32, 32) / 1e9, abs=0.3)


def larger(folder):
    with (folder / TENSORS).open("r+b") as file:
        file.truncate(capstone.LARGEST + 1)


def linked(folder):
    (folder / "unet").rename(folder / "other")
    (folder / "unet").symlink_to(folder / "other")


def linked_file(folder):
    (folder / TENSORS).unlink()
    (folder / TENSORS).symlink_to("/dev/zero")


def pipe_for_a_file(folder):
    (folder / CONFIG).unlink()
    os.mkfifo(folder / CONFIG)


def not_finite(folder):
    def change(tensors):
        name = next(name for name, value in tensors.items() if value.is_floating_point())
        tensors[name].fill_(float("nan"))

    edit_tensors(folder, change)


HOSTILE = {
    "no network": (lambda f: shutil.rmtree(f / "unet"), "unet/config.json is no file"),
    "no weights": (lambda f: (f / TENSORS).unlink(), "safetensors is no file"),
    "pickled weights": (
        lambda f: (f / TENSORS).rename(f / "unet/diffusion_pytorch_model.bin"),
        "safetensors is no file",
    ),
    "a folder that is a link": (linked, "unet is a link"),
    "a file that is a link": (linked_file, "safetensors is no file"),
    "a pipe": (pipe_for_a_file, "config.json is no file"),
    "too large": (larger, "more than 30,000,000"),
    "no JSON": (lambda f: (f / CONFIG).write_text("{"), "it is no JSON"),
    "JSON of great depth": (lambda f: (f / CONFIG).write_text("[" * 100_000), "it is no JSON"),
    "a list": (lambda f: (f / CONFIG).write_text("[]"), "it holds no JSON object"),
    "another network": (
        lambda f: edit_json(f / CONFIG, lambda c: c.update(block_out_channels=[9000, 9000, 9000])),
        r"block_out_channels=\[9000, 9000, 9000\]",
    ),
    "a setting that is gone": (
        lambda f: edit_json(f / CONFIG, lambda c: {**c, "in_channels": None}),
        "in_channels=None",
    ),
    "code to load": (
        lambda f: edit_json(f / CONFIG, lambda c: c.update(auto_map={"AutoModel": "evil.Model"})),
        "auto_map",
    ),
    "another recipe": (
        lambda f: edit_json(f / CONFIG, lambda c: c["quantization_config"]["recipe"].update(seed=5)),
        "SHA-256",
    ),
    "a damaged recipe": (
        lambda f: edit_config(f, lambda c: c["quantization_config"]["recipe"].update(seed="x" * 10**6)),
        "damaged",
    ),
    "cut off": (lambda f: (f / TENSORS).write_bytes((f / TENSORS).read_bytes()[:1000]), "cannot be"),
    "no numbers": (not_finite, "cannot be scored"),
}


class TestHostileFolders:
    @pytest.mark.parametrize("kind", HOSTILE)
    def test_it_gets_one_clear_line(self, kind, folder, scorer):
        change, words = HOSTILE[kind]
        change(folder)
        with pytest.raises(ValueError, match=words) as caught:
            scorer.score(folder)
        message = str(caught.value)
        assert message.startswith(f"{folder} cannot be scored: ") and "\n" not in message
        assert len(message) < 400 + len(str(folder)) and "/tmp/tmp" not in message

    def test_nothing_else_of_the_folder_is_read(self, folder, scorer):
        expected = scorer.score(folder)
        (folder / "model_index.json").write_text("{")
        (folder / "vqvae/config.json").write_text("{")
        (folder / "scheduler/scheduler_config.json").unlink()
        (folder / "unet/model.py").write_text("raise SystemExit")
        (folder / "unet/diffusion_pytorch_model.bin").write_bytes(b"evil")
        assert scorer.score(folder) == expected

    def test_the_hand_in_stays_as_it_is(self, folder, scorer):
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        scorer.score(folder)
        assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class TestCommand:
    def test_the_leaderboard(self, folder, tmp_path, capsys):
        close = shutil.copytree(folder, tmp_path / "bob" / "answer")
        unquantized = data_folder() / "models" / capstone.MODEL
        shutil.copytree(unquantized, tmp_path / "cleo")
        shutil.copytree(folder, tmp_path / "dan")
        (tmp_path / "dan" / CONFIG).write_text("{")
        edit_tensors(close, lambda tensors: spoil(tensors))
        assert capstone.main([str(tmp_path), "--seed", "7", "--images", "2"]) == 1
        out, err = capsys.readouterr()
        rows = [line for line in out.splitlines() if "points;" in line]
        assert [re.search(r"(amy|bob|cleo)", row)[1] for row in rows] == ["amy", "bob", "cleo"]
        assert "beyond the budget" in rows[2] and "seed 7, 2 images, 25 steps" in out
        assert out.count("linear: weights=3, steps=2, samples=4") == 2
        (line,) = (line for line in err.splitlines() if line.startswith("capstone: "))
        assert "dan cannot be scored" in line

    @pytest.mark.parametrize(
        ("options", "words"),
        [(["--seed", "5000"], "seed=5000"), (["--seed", "1", "--images", "0"], "n=0")],
    )
    def test_wrong_input(self, options, words, written, capsys):
        assert capstone.main([str(written), *options]) == 2
        assert words in capsys.readouterr().err

    def test_a_folder_without_hand_ins(self, tmp_path, capsys):
        (tmp_path / "loop").symlink_to(tmp_path)
        assert capstone.main([str(tmp_path), "--seed", "1"]) == 2
        assert "has a folder unet" in capsys.readouterr().err


def spoil(tensors: dict) -> None:
    """Make a network worse: the bias of its last layer is no longer right."""
    tensors["conv_out.bias"] += 0.5
