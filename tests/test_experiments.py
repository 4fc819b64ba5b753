"""The experiments run, resume, and write what their README promises; what they find, no test says."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from qdiff_lib import load, sample, with_sampler

ROOT = Path(__file__).resolve().parents[1]
SCORES = ["trajectory_mse", "snr_db", "frechet", "kid", "seconds", "bytes"]
BITS = ["method", "weights", "activations"]


@pytest.fixture
def module(monkeypatch):
    """Imports a module of the experiments."""
    monkeypatch.syspath_prepend(ROOT / "experiments")
    return importlib.import_module


def test_a_cached_value_is_made_once(module, tmp_path):
    cache, calls = module("cache").Cache(tmp_path), []

    def make():
        calls.append(1)
        return {"mse": [0.5, None]}

    for _ in range(2):
        assert cache.value("rows", {"n": 1, "seed": 0}, make) == {"mse": [0.5, None]}
    assert len(calls) == 1
    cache.value("rows", {"n": 2, "seed": 0}, make)
    cache.value("other", {"n": 1, "seed": 0}, make)
    assert len(calls) == 3


def test_an_interrupted_value_is_not_kept(module, tmp_path):
    cache = module("cache").Cache(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        cache.value("rows", {}, lambda: exec("raise KeyboardInterrupt"))
    assert cache.value("rows", {}, lambda: 1) == 1


def test_the_ladder_adds_one_part_at_a_time(module):
    rungs = module("ladder").rungs(module("settings").PROFILES["laptop"])
    assert list(rungs)[-1] == "full precision" and rungs["full precision"] is None
    recipes = [recipe.to_dict() for recipe in list(rungs.values())[:-1]]
    changed = [{k for k in a if a[k] != b[k]} for a, b in zip(recipes, recipes[1:], strict=False)]
    assert changed == [
        {"symmetric_activations", "weight_range"},
        {"method", "rounding", "step_iterations"},  # the last: switched off
        {"split"},
        {"step_iterations"},
        {"rounding_start", "learn_affine"},
        {"edge_bits"},
    ]


def test_the_shipped_model_is_a_rung(module):
    settings = module("settings").PROFILES["laptop"]
    shipped = [settings.qdiffusion(*bits) for bits in module("ship_quantized").BITS]
    assert module("ladder").rungs(settings)["+ 16-bit first and last layer"] == shipped[0]


def test_rules_of_the_calibration_table(module):
    settings = module("settings").PROFILES["laptop"]
    cases = module("calibration_sampling").cases(settings.steps, settings.shares)
    assert len({label for _, _, label, _ in cases}) == len(cases) == 3 + 3 * len(settings.shares)
    for name, share, _, rule in cases:
        assert type(rule).__name__.lower() == name
        assert (share is not None) == (name in ("first", "middle", "last"))
        if share:
            assert rule.n == round(share * settings.steps)


def experiments(work, *options):
    command = [sys.executable, ROOT / "experiments" / "run.py", "--profile", "tiny", "--work", work, *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder of the whole path at numbers that mean nothing, and the tables in it."""
    work = tmp_path_factory.mktemp("tables")
    experiments(work)
    tables = {path.stem: json.loads(path.read_text()) for path in (work / "recorded").iterdir()}
    return work, tables


@pytest.mark.slow
class TestTables:
    def test_every_table_says_how_it_was_made(self, written):
        assert set(written[1]) == {
            "ladder", "error_per_step", "activation_ranges", "calibration_sampling", "seams",
        }  # fmt: skip
        for name, table in written[1].items():
            assert set(table) == {"data", "provenance"}
            made = table["provenance"]
            assert name in made["command"] and made["date"] and made["machine"]
            assert made["seeds"] == {"noise": 0, "recipe": 0}

    def test_ladder(self, written):
        data = written[1]["ladder"]["data"]
        assert [list(row) for row in data["rows"]] == [["label", *SCORES]] * 8
        assert [list(row) for row in data["besides"]] == [["label", *SCORES]] * 3
        assert data["rows"][-1]["trajectory_mse"] == 0 and data["rows"][-1]["snr_db"] is None
        assert min(row["trajectory_mse"] for row in data["rows"][:-1]) > 0
        assert max(row["bytes"] for row in data["rows"][:-1]) < data["rows"][-1]["bytes"]
        assert data["floor"] > 0 and data["n"] == 8 and data["steps"] == 10

    def test_error_per_step(self, written):
        data = written[1]["error_per_step"]["data"]
        assert [row["label"] for row in data["rows"]] == [
            "linear W8A32", "linear W5A32", "linear W4A32", "Q-Diffusion W4A32",
            "linear W8A8", "linear W4A8", "Q-Diffusion W4A8",
        ]  # fmt: skip
        for row in data["rows"]:
            assert list(row) == ["label", *BITS, "mse", "snr_db"]
            assert len(row["mse"]) == len(row["snr_db"]) == data["steps"] == 12

    def test_activation_ranges(self, written):
        data = written[1]["activation_ranges"]["data"]
        assert data["layers"][0].startswith("time_embedding") and data["layers"][-1] == "conv_out"
        assert len(data["timesteps"]) == data["steps"] == 12 and data["timesteps"][-1] < data["timesteps"][0]
        for name in ("min", "low", "high", "max"):
            assert [len(row) for row in data[name]] == [data["steps"]] * len(data["layers"])
        ordered = zip(*(sum(data[name], []) for name in ("min", "low", "high", "max")), strict=True)
        assert all(a <= b <= c <= d for a, b, c, d in ordered)

    def test_calibration_sampling(self, written):
        data = written[1]["calibration_sampling"]["data"]
        assert len(data["rows"]) == 12
        assert all(list(row) == ["rule", "share", "label", *SCORES] for row in data["rows"])

    def test_seams(self, written):
        data = written[1]["seams"]["data"]
        for row in data["rows"]:
            assert len(row["sizes"]) == 2
            for name in ("activation", "weight"):
                deep, skip = row[f"{name}_range"]
                assert row[f"{name}_ratio"] == pytest.approx(deep / skip, rel=1e-3)
        assert [row["split"] for row in data["ablation"]] == [False, True] * 4
        assert all(list(row) == ["label", *BITS, "split", *SCORES] for row in data["ablation"])

    def test_shipped_folders_load_and_draw(self, written):
        for name in ("ddpm-fashion-w4a8", "ddpm-fashion-w4a32"):
            folder = written[0] / "models" / name
            pipe = with_sampler(load(folder), "ddim")
            assert sample(pipe, 1, 2).images.shape == (1, 1, 32, 32)
            assert name in (folder / "README.md").read_text()
            assert not [path for path in folder.rglob("*.json") if "_name_or_path" in path.read_text()]

    def test_a_second_run_makes_nothing_again(self, written):
        work, tables = written
        before = {path: path.stat().st_mtime_ns for path in (work / "cache").rglob("*") if path.is_file()}
        (work / "recorded" / "ladder.json").unlink()
        experiments(work, "--only", "ladder")
        assert json.loads((work / "recorded" / "ladder.json").read_text())["data"] == tables["ladder"]["data"]
        after = {path: path.stat().st_mtime_ns for path in (work / "cache").rglob("*") if path.is_file()}
        assert before == after
        assert not list((work / "cache").rglob("*-work"))
