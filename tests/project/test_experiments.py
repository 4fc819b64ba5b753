"""The experiments run, resume, and write what their README promises; what they find, no test says."""

import contextlib
import copy
import importlib
import io
import json
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from several_processes import together
from tiny_models import ddim

from qdiff_lib import load, sample, with_sampler
from qdiff_lib.recipes.recipe import PROFILES, STAGES, Recipe
from qdiff_lib.recipes.timestep_rules import Uniform
from qdiff_lib.utils.cache import Cache
from qdiff_lib.utils.processes import ALONE
from tools.results.page import SECTIONS, draw, page
from tools.results.source import read

ROOT = Path(__file__).resolve().parents[2]
SCORES = ["trajectory_mse", "snr_db", "frechet", "kid", "seconds", "bytes", "date", "commit"]
BITS = ["method", "weights", "activations"]


@pytest.fixture
def module(monkeypatch):
    """Imports a module of the experiments."""
    monkeypatch.syspath_prepend(ROOT / "experiments")
    return importlib.import_module


def test_the_ladder_adds_one_part_at_a_time(module):
    rungs = module("ladder").rungs(module("settings").PROFILES["laptop"])
    assert list(rungs)[-1] == "full precision" and rungs["full precision"] is None
    recipes = [recipe.flat() for recipe in list(rungs.values())[:-1]]
    changed = [{k for k in a if a[k] != b[k]} for a, b in zip(recipes, recipes[1:], strict=False)]
    assert changed == [
        {"symmetric_activations", "weight_range"},
        {"method", "weight_rounding", "step_size_iterations"},  # the last: switched off
        {"split"},
        {"step_size_iterations"},
        {"rounding_start", "learn_affine", "rule"},  # the last: of 20 steps, every one before too
        {"edge_bits"},
        {"network_iterations"},
        {"bias_correction_images"},
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


class TestTable1:
    @pytest.fixture
    def cases(self, module):
        return module("table1").cases(module("settings").PROFILES["laptop"].table1)

    def test_rows_come_in_the_order_of_importance(self, cases):
        named = [(case.label, case.weights, case.activations, case.seed) for case in cases]
        assert len(set(named)) == len(named) == 30
        assert named[:3] == [("full precision", 32, 32, 0), ("linear", 4, 8, 0), ("Q-Diffusion", 4, 8, 0)]
        assert named[3:5] == [(f"Q-Diffusion, {rest}", 4, 8, 0) for rest in ("whole network", "all stages")]
        assert {case[:3] for case in named[5:7]} == {("SQuant", 4, 8), ("PTQ4DM", 4, 8)}
        assert [case[1:3] for case in named[7:19]] == [(4, 32)] * 4 + [(8, 8)] * 4 + [(8, 32)] * 4
        assert named[19:29] == [(*case[:3], seed) for seed in (1, 2) for case in named[:5]]
        assert named[29] == ("Q-Diffusion, as in the paper", 4, 8, 0)

    def test_recipes(self, module, cases):
        lab = type("Lab", (), {"settings": module("settings").PROFILES["laptop"]})
        recipes = {(case.label, case.weights, case.seed): case.recipe(lab) for case in cases}
        assert recipes.pop(("full precision", 32, 0)) is None
        assert recipes["linear", 4, 1] == Recipe.linear(4, 8, "laptop", sampler="ddim-quadratic", seed=1)
        assert recipes["SQuant", 4, 0].rounding.weight_rounding == "squant"
        assert recipes["PTQ4DM", 4, 0].method == "ptq4dm"
        ours = recipes["Q-Diffusion", 4, 2]
        assert ours.grids.edge_bits == 16 and ours.rounding.learn_affine
        rest = ("", ", whole network", ", all stages")
        units, whole, every = (recipes[f"Q-Diffusion{name}", 4, 2] for name in rest)
        assert every == Recipe.qdiffusion(4, 8, "laptop", sampler="ddim-quadratic", seed=2, edge_bits=16)
        assert every.bias_correction.bias_correction_images > 0
        assert whole == every.replace(bias_correction_images=0)
        assert whole.whole_network.network_iterations > 0 and whole.calibration.rule == Uniform(1)
        assert units == whole.replace(network_iterations=0, rule=Uniform())
        paper = Recipe.qdiffusion(profile="paper").flat()
        plain = recipes["Q-Diffusion, as in the paper", 4, 0].flat()
        changed = {name for name in paper if plain[name] != paper[name]}
        unlike = {"second_pass"}  # recorded with the order of the other profiles, as RESULTS says
        assert changed == {*PROFILES["laptop"], "sampler"} - set(STAGES) | unlike


class TestDrawing:
    def order(self, module):
        return module("drawing").Order(n=5, batch=2, steps=3, seed=1)

    def test_images_are_those_of_sample(self, module, tmp_path):
        cache = Cache(tmp_path)
        drawn = module("drawing").draw(cache, {"model": 1}, self.order(module), ddim)
        expected = sample(ddim(), 5, 3, seed=1, batch_size=2, record=True)
        assert torch.equal(drawn.images, expected.images)
        assert torch.equal(drawn.last, expected.trajectory[-1])

    def test_a_row_goes_on_where_it_was_killed(self, module, tmp_path, monkeypatch):
        cache, drawing, order = Cache(tmp_path), module("drawing"), self.order(module)
        real, drawn = drawing.draw_batch, []

        def killed(pipe, first, count, order):
            if len(drawn) == 2:
                raise KeyboardInterrupt
            return counted(pipe, first, count, order)

        def counted(pipe, first, count, order):
            drawn.append(first)
            return real(pipe, first, count, order)

        monkeypatch.setattr(drawing, "draw_batch", killed)
        with pytest.raises(KeyboardInterrupt):
            drawing.draw(cache, {}, order, ddim)
        monkeypatch.setattr(drawing, "draw_batch", counted)
        assert len(drawing.draw(cache, {}, order, ddim).images) == 5
        assert drawn == [0, 2, 4]
        monkeypatch.undo()
        finished = drawing.draw(cache, {}, order, lambda: pytest.fail("nothing is missing"))
        assert torch.equal(finished.images, sample(ddim(), 5, 3, seed=1, batch_size=2).images)


@pytest.mark.parametrize("name", ["laptop", "tiny"])
def test_a_sweep_changes_one_thing(module, name):
    settings, sweeps = module("settings").PROFILES[name], module("sweeps")
    assert set(settings.sweeps) == set(sweeps.SWEEPS)
    for parameter, values in settings.sweeps.items():
        recipes = [sweeps.SWEEPS[parameter](settings, value).flat() for value in values]
        changed = {key for key in recipes[0] if len({str(recipe[key]) for recipe in recipes}) > 1}
        assert len(changed) == 1 and list(values) == sorted(set(values))
        usual = sweeps.unchanged(parameter, settings).flat()
        assert all({key for key in usual if usual[key] != recipe[key]} <= changed for recipe in recipes)
        assert changed.isdisjoint(sweeps.budget([sweeps.SWEEPS[parameter](settings, v) for v in values]))


class TestApart:
    def test_it_is_another_process(self, module):
        assert module("apart").apart(os.getpid) != os.getpid()
        with pytest.raises(ValueError, match="invalid literal"):
            module("apart").apart(int, "x")

    def test_settings_can_be_sent(self, module):
        settings = module("settings").PROFILES
        assert pickle.loads(pickle.dumps(settings)) == settings

    def test_it_ends_with_the_process_that_asked_for_it(self, tmp_path):
        script = tmp_path / "ask.py"
        script.write_text(
            "import os, sys, time, pathlib, apart\n"
            "apart.PRELOADED = []\n"
            "def stay(path):\n"
            "    pathlib.Path(path).write_text(str(os.getpid()) + '.')\n"
            "    time.sleep(600)\n"
            "if __name__ == '__main__':\n"
            "    apart.apart(stay, sys.argv[1])\n"
        )
        note = tmp_path / "pid"
        env = os.environ | {"PYTHONPATH": str(ROOT / "experiments")}
        asking = subprocess.Popen([sys.executable, script, note], env=env)
        assert until(lambda: note.exists() and note.read_text().endswith("."))
        worker = psutil.Process(int(note.read_text()[:-1]))
        asking.kill()
        asking.wait()
        assert until(lambda: not worker.is_running())


def until(holds, seconds=120) -> bool:
    """Wait for it; False when it does not come."""
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.05)
    return holds()


def experiments(work, *options):
    command = [sys.executable, ROOT / "experiments" / "run.py", "--profile", "tiny", "--work", work, *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


QUICK = ("error_per_step", "activation_ranges", "layer_divergence", "sensitivity", "integer_scores")


def tables_of(work: Path) -> dict[str, dict]:
    return {path.stem: json.loads(path.read_text()) for path in (work / "recorded").glob("*.json")}


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The folder of the tables that take seconds, at numbers that mean nothing, and these tables."""
    work = tmp_path_factory.mktemp("quick")
    experiments(work, "--only", *QUICK)
    return work, tables_of(work)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder of the whole path at numbers that mean nothing, and the tables in it."""
    work = tmp_path_factory.mktemp("tables")
    experiments(work)
    return work, tables_of(work)


def check_seeds(data):
    assert all(list(row) == ["seed", *SCORES] for row in data["seeds"])
    assert [row["seed"] for row in data["seeds"]] == [0, 1]
    assert len({row["trajectory_mse"] for row in data["seeds"]}) == 2


@pytest.mark.slow
class TestQuickTables:
    def test_every_table_says_how_it_was_made(self, quick):
        assert set(quick[1]) == set(QUICK)
        for name, table in quick[1].items():
            assert set(table) == {"data", "provenance"}
            made = table["provenance"]
            assert name in made["command"] and made["date"] and made["machine"]
            assert made["seeds"] == {"noise": 0, "recipe": 0}

    def test_error_per_step(self, quick):
        data = quick[1]["error_per_step"]["data"]
        assert [row["label"] for row in data["rows"]] == [
            "linear W8A32", "linear W5A32", "linear W4A32", "Q-Diffusion W4A32",
            "linear W8A8", "linear W4A8", "Q-Diffusion W4A8",
        ]  # fmt: skip
        for row in data["rows"]:
            assert [*row] == ["label", *BITS, "mse", "snr_db", "date", "commit"]
            assert len(row["mse"]) == len(row["snr_db"]) == data["steps"] == 12

    def test_activation_ranges(self, quick):
        data = quick[1]["activation_ranges"]["data"]
        assert data["layers"][0].startswith("time_embedding") and data["layers"][-1] == "conv_out"
        assert len(data["timesteps"]) == data["steps"] == 12 and data["timesteps"][-1] < data["timesteps"][0]
        for name in ("min", "low", "high", "max"):
            assert [len(row) for row in data[name]] == [data["steps"]] * len(data["layers"])
        ordered = zip(*(sum(data[name], []) for name in ("min", "low", "high", "max")), strict=True)
        assert all(a <= b <= c <= d for a, b, c, d in ordered)

    def test_layer_divergence(self, quick):
        data = quick[1]["layer_divergence"]["data"]
        assert [row["label"] for row in data["rows"]] == ["linear W4A8", "Q-Diffusion W4A8"]
        for row in data["rows"]:
            values = torch.tensor(row["values"])
            assert values.shape == (len(data["layers"]), data["steps"]) and (values > 0).all()

    def test_integer_scores(self, quick):
        data = quick[1]["integer_scores"]["data"]
        assert data["engine"] == "reference" and data["n"] == 8 and data["steps"] == 10
        ways = ["full precision", "simulated", "integers"]
        assert [(row["seed"], row["label"]) for row in data["rows"]] == [
            (seed, way) for seed in (0, 1) for way in ways
        ]
        for row in data["rows"]:
            before = ways[: ways.index(row["label"])]
            assert list(row["against"]) == before and row["kid_std"] > 0 and row["commit"]
            assert all(found["mse"] > 0 for found in row["against"].values())

    def test_a_second_run_makes_nothing_again(self, quick):
        work, tables = quick
        names = ("error_per_step", "layer_divergence")
        before = {path: path.stat().st_mtime_ns for path in (work / "cache").rglob("*") if path.is_file()}
        for name in names:
            (work / "recorded" / f"{name}.json").unlink()
        experiments(work, "--only", *names)
        for name in names:
            assert (
                json.loads((work / "recorded" / f"{name}.json").read_text())["data"] == tables[name]["data"]
            )
        after = {path: path.stat().st_mtime_ns for path in (work / "cache").rglob("*") if path.is_file()}
        assert before == after
        assert not list((work / "cache").rglob("*-work"))


@pytest.mark.slow
@pytest.mark.exhaustive
class TestTables:
    def test_all_tables_are_written(self, written):
        assert set(written[1]) == {
            "ladder", "error_per_step", "activation_ranges", "calibration_sampling", "shortcut_split",
            "table1", "layer_divergence", "calibration_interval", "calibration_inputs", "adaround_iterations",
            "softmax_bits", "latent", "between_steps", "sensitivity", "integer_scores",
        }  # fmt: skip

    def test_ladder(self, written):
        data = written[1]["ladder"]["data"]
        assert [list(row) for row in data["rows"]] == [["label", *SCORES]] * 10
        assert [list(row) for row in data["besides"]] == [["label", *SCORES]] * 3
        assert data["rows"][-1]["trajectory_mse"] == 0 and data["rows"][-1]["snr_db"] is None
        assert min(row["trajectory_mse"] for row in data["rows"][:-1]) > 0
        assert max(row["bytes"] for row in data["rows"][:-1]) < data["rows"][-1]["bytes"]
        assert data["floor"] > 0 and data["n"] == 8 and data["steps"] == 10

    def test_latent(self, written):
        data = written[1]["latent"]["data"]
        assert list(data["models"]) == ["sd-emoji"] and data["models"]["sd-emoji"]["sampler"] == "plms"
        full, linear, learned = data["models"]["sd-emoji"]["rows"]
        assert [full["label"], linear["label"], learned["label"]] == [
            "full precision", "linear W4A8", "Q-Diffusion W4A8",
        ]  # fmt: skip
        for row in (linear, learned):
            assert len(row["mse"]) == len(row["snr_db"]) == 4 and min(row["mse"]) > 0  # PLMS: a call more
            assert row["bytes"] < full["bytes"] / 5 and row["bops"] < full["bops"] / 14
        assert (written[0] / "recorded" / "latent" / "sd-emoji.png").is_file()

    def test_calibration_sampling(self, written):
        data = written[1]["calibration_sampling"]["data"]
        assert len(data["rows"]) == 6
        assert all(list(row) == ["rule", "share", "label", *SCORES] for row in data["rows"])
        check_seeds(data)
        assert {k: v for k, v in data["rows"][0].items() if k in SCORES} == {
            k: v for k, v in data["seeds"][0].items() if k in SCORES
        }

    def test_shortcut_split(self, written):
        data = written[1]["shortcut_split"]["data"]
        for row in data["rows"]:
            assert len(row["sizes"]) == 2
            for name in ("activation", "weight"):
                deep, skip = row[f"{name}_range"]
                assert row[f"{name}_ratio"] == pytest.approx(deep / skip, rel=1e-3)
        assert [row["split"] for row in data["ablation"]] == [False, True] * 6
        assert all(list(row) == ["label", *BITS, "split", *SCORES] for row in data["ablation"])

    def test_sweeps(self, written):
        for name, values in (("calibration_interval", [1, 5]), ("softmax_bits", [4, 8])):
            data = written[1][name]["data"]
            assert [row["value"] for row in data["rows"]] == data["planned"] == values
            assert all(list(row) == ["value", *SCORES] for row in data["rows"])
            check_seeds(data)

    def test_between_steps(self, written):
        data = written[1]["between_steps"]["data"]
        second, _, every = data["rows"]
        assert second["seen"] == [0, 2, 4, 6, 8] and every["seen"] == list(range(data["steps"]))
        for row in data["rows"]:
            assert len(row["mse"]) == len(row["offset"]) == data["steps"] == 10
            assert all(mse > offset**2 for mse, offset in zip(row["mse"], row["offset"], strict=True))
        assert len({row["mse"][0] for row in data["rows"]}) == 3

    def test_sensitivity(self, written):
        rows = written[1]["sensitivity"]["data"]["rows"]
        assert [row["kind"] for row in rows] == ["none"] + ["brightness"] * 4 + ["noise"] * 3
        unchanged = written[1]["table1"]["data"]["rows"][0]["scores"]["fashion-classifier"]
        assert {name: rows[0][name] for name in ("frechet", "kid")}.items() <= unchanged.items()
        darker, brighter = rows[1], rows[4]
        assert (darker["levels"], brighter["levels"]) == (-0.5, 0.5)
        assert len({row["frechet"] for row in (rows[0], darker, brighter)}) == 3

    def test_table1(self, written):
        data = written[1]["table1"]["data"]
        assert [[row[name] for name in case] for row, case in zip(data["rows"], data["planned"], strict=True)]
        full, linear, ours = data["rows"][:3]
        assert full["trajectory_mse"] == full["memory"] == 0 and full["snr_db"] is None
        assert linear["trajectory_mse"] > 0 and linear["trajectory_mse_error"] > 0
        assert 20 * full["bops"] > 20 * ours["bops"] > 20 * linear["bops"] > full["bops"]
        assert full["bytes"] > ours["bytes"] > linear["bytes"]
        for row in data["rows"]:
            assert row["commit"] and row["date"] and row["scores"]["fashion-classifier"]["kid_std"] > 0
            assert row["memory"] == 0 if row is full else row["memory"] >= row["memory_before"] * 0.99
        other = next(row for row in data["rows"] if row["label"] == full["label"] and row["seed"] == 1)
        whole, every = (row for row in data["rows"][3:5])
        # The network's stage moves every scale. Bias correction may find images as bright as they should be,
        # and leave them: that it is done is tested by the recipes above, and in test_bias_correction.py.
        assert whole["trajectory_mse"] != ours["trajectory_mse"] and every["label"].endswith("all stages")
        assert whole["bytes"] == every["bytes"] == ours["bytes"]
        assert other["scores"] != full["scores"]  # another noise
        assert data["real"]["fashion-classifier"]["groups"] == 5

    def test_the_page_and_its_plots(self, written):
        found = read(written[0])
        text = page(found, "plots")
        assert "Not recorded yet: `python experiments" not in text and "nan" not in text
        assert all(f"## {section.title}" in text for section in SECTIONS)
        draw(found, written[0] / "plots")
        drawn = {path.stem for path in (written[0] / "plots").iterdir()}
        assert drawn == {section.name for section in SECTIONS if section.plot}

    def test_shipped_folders_load_and_draw(self, written):
        for name in ("ddpm-fashion-w4a8", "ddpm-fashion-w4a32"):
            folder = written[0] / "models" / name
            pipe = with_sampler(load(folder), "ddim")
            assert sample(pipe, 1, 2).images.shape == (1, 1, 32, 32)
            assert name in (folder / "README.md").read_text()
            assert not [path for path in folder.rglob("*.json") if "_name_or_path" in path.read_text()]


def experiment(processes, work, names, killed=None):
    """(status, stdout, stderr) of the experiments in one of several processes; ``killed`` dies drawing."""
    sys.path.insert(0, str(ROOT / "experiments"))
    if killed == processes.number:
        importlib.import_module("drawing").draw_batch = lambda *_: os._exit(9)
    sys.argv = ["run.py", "--profile", "tiny", "--work", str(work), "--only", *names]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = importlib.import_module("run").main()
    return status, out.getvalue(), err.getvalue()


def drawn_and_recorded(processes, work):
    """A trajectory and a calibration set, as a process has them."""
    sys.path.insert(0, str(ROOT / "experiments"))
    lab, settings = importlib.import_module("lab"), importlib.import_module("settings").PROFILES["tiny"]
    found = lab.Lab(settings, Cache(work, processes))
    inputs, _ = found.calibration(settings.linear(4, 8))
    return found.reference(3, 2), inputs.tensors()


class TestSeveralProcesses:
    NAMES = ("activation_ranges", "layer_divergence", "sensitivity")
    LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]

    def test_all_have_what_one_process_draws_and_records(self, module, tmp_path):
        trajectory, inputs = drawn_and_recorded(ALONE, tmp_path / "one")
        for found, others in together(2, drawn_and_recorded, tmp_path / "two"):
            assert torch.equal(found, trajectory)
            assert inputs.keys() == others.keys() and all(torch.equal(inputs[k], others[k]) for k in inputs)

    @pytest.mark.slow
    @pytest.mark.exhaustive
    def test_after_a_kill_the_same_command_makes_the_tables_of_one_process(self, quick, tmp_path):
        killed, _ = together(2, experiment, tmp_path, ["sensitivity"], 1, silent=1)
        assert killed[0] == 2 and killed[2].splitlines()[-1] == (
            "experiments/run.py: error: another process of this run has ended, or was killed: look for its "
            "reason; then repeat the command, with any number of processes"
        )
        main, other = together(2, experiment, tmp_path, self.NAMES)
        assert main[0] == other[0] == 0 and other[1] == "" and "%|" not in other[2]
        assert main[1].count("[2/3] layer_divergence") == main[2].count("  batches:   0%") == 1
        found = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "recorded").iterdir()}
        assert sorted(found) == sorted(self.NAMES)
        command = "torchrun --standalone --nproc_per_node 2 experiments/run.py --profile tiny --only "
        for name in self.NAMES:
            assert found[name]["provenance"]["command"] == command + name
        data = {name: found[name]["data"] for name in self.NAMES}
        one = {name: copy.deepcopy(quick[1][name]["data"]) for name in self.NAMES}
        learned, expected = (tables["layer_divergence"]["rows"].pop() for tables in (data, one))
        near = pytest.approx(torch.tensor(expected["values"]).mean().item(), rel=0.5)
        assert (
            learned["label"] == "Q-Diffusion W4A8" and torch.tensor(learned["values"]).mean().item() == near
        )
        for tables in (data, one):
            for row in (*tables["layer_divergence"]["rows"], *tables["sensitivity"]["rows"]):
                del row["date"], row["commit"]
        assert data == one

    @pytest.mark.slow
    @pytest.mark.exhaustive
    def test_a_launcher(self, quick, tmp_path):
        command = [*self.LAUNCHER, ROOT / "experiments" / "run.py", "--profile", "tiny", "--work", tmp_path]
        done = subprocess.run([*command, "--only", "activation_ranges"], capture_output=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        found = json.loads((tmp_path / "recorded" / "activation_ranges.json").read_text())
        assert found["data"] == quick[1]["activation_ranges"]["data"]


def test_the_library_counts_but_not_its_command_line(tmp_path, module, monkeypatch):
    made = module("code_of_results")
    for folder in ("ptq", "cli"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.py").write_text("x = 1")
    monkeypatch.setattr(made, "LIBRARY", tmp_path)
    hashes = []
    for folder in ("", "cli", "ptq"):
        if folder:
            (tmp_path / folder / "a.py").write_text("x = 2")
        made.code_hash.cache_clear()
        hashes.append(made.code_hash())
    assert hashes[0] == hashes[1] != hashes[2] != made.code_hash(__file__)
    made.code_hash.cache_clear()
