"""RESULTS.md is that of the recorded files, and these hold the orderings that the course claims."""

import json
import re
import statistics
import subprocess

import pytest
from PIL import Image

from qdiff_lib.recipes.recipe import METHOD_NAMES
from tools.expansion import ROOT, SOURCES
from tools.results import ablations, engines, table1
from tools.results.page import SECTIONS, page, source
from tools.results.source import Recorded, fixed, read, short, spread, table

DATA = ROOT / "data"
PLOTS = DATA / "recorded" / "plots"
STALE = "stale: run python -m tools.results"


@pytest.fixture(scope="module")
def found():
    return read(DATA)


def test_the_page_is_that_of_the_recorded_files(found):
    written = (ROOT / "RESULTS.md").read_text(encoding="utf-8")
    assert written == page(found, PLOTS.relative_to(ROOT).as_posix()), STALE


def test_the_plots_show_the_recorded_files(found):
    shown = {
        section.name: found[section.name] for section in SECTIONS if section.plot and section.name in found
    }
    assert {path.stem for path in PLOTS.iterdir()} == set(shown), STALE
    for name, recorded in shown.items():
        with Image.open(PLOTS / f"{name}.png") as picture:
            assert picture.text["Source"] == recorded.digest(), STALE
        assert (PLOTS / f"{name}.png").stat().st_size < 60_000


BEST_FIRST = [
    ("error_per_step", "mse", ["linear W8A32", "Q-Diffusion W4A32", "linear W5A32", "linear W4A32"]),
    ("error_per_step", "mse", ["Q-Diffusion W4A8", "linear W8A8", "linear W4A8"]),
    (
        "ladder",
        "trajectory_mse",
        [
            "+ whole network",
            "+ 16-bit first and last layer",
            "linear, 16-bit first and last layer",
            "linear",
        ],
    ),
    ("ladder", "frechet", ["full precision", "+ whole network", "+ 16-bit first and last layer", "linear"]),
    ("ladder", "seconds", ["linear", "+ 16-bit first and last layer", "+ bias correction"]),
    *[
        ("calibration_sampling", "trajectory_mse", [f"{rule} {share}%" for share in (50, 10)])
        for rule in ("first", "middle", "last")
    ],
    ("table1", "trajectory_mse", ["Q-Diffusion, whole network W4A8", "Q-Diffusion W4A8"]),
    ("table1", "frechet", ["Q-Diffusion, all stages W4A8", "Q-Diffusion, whole network W4A8"]),
    *[
        ("table1", score, [f"Q-Diffusion W4A{activations}", f"linear W4A{activations}"])
        for activations in (8, 32)
        for score in ("trajectory_mse", "frechet", "kid")
    ],
    *[
        ("table1", score, ["Q-Diffusion W4A8", f"{baseline} W4A8"])
        for baseline in ("SQuant", "PTQ4DM")
        for score in ("trajectory_mse", "frechet", "kid")
    ],
    ("table1", "bytes", ["Q-Diffusion W4A8", "Q-Diffusion W8A8", "full precision W32A32"]),
    *[
        ("latent", "mse", [f"{model} Q-Diffusion {bits}", f"{model} linear {bits}"])
        for model in ("sd-emoji", "ldm-emoji")
        for bits in ("W4A32", "W4A8")
    ],
]
"""(table, score, rows from the smallest value to the largest)."""


def values(name: str, data: dict, score: str) -> dict[str, float]:
    """A number for each row that is recorded, by its label; of steps the last, of seeds the mean."""
    if name == "table1":
        groups = {f"{k[0]} W{k[1]}A{k[2]}": rows for k, rows in table1.groups(data).items() if rows}
        return {
            label: statistics.fmean(row.get(score, row["scores"][table1.OWN].get(score)) for row in rows)
            for label, rows in groups.items()
        }
    if name == "latent":
        models = data["models"].items()
        return {f"{of} {row['label']}": row[score][-1] for of, found in models for row in found["rows"][1:]}
    rows = [*data["rows"], *data.get("besides", [])]
    return {row["label"]: row[score][-1] if isinstance(row[score], list) else row[score] for row in rows}


@pytest.mark.parametrize(("name", "score", "labels"), BEST_FIRST)
def test_the_recorded_rows_are_in_the_order_that_the_course_claims(found, name, score, labels):
    """Rows that are not recorded yet may be absent, and never wrong."""
    recorded = values(name, found[name].data, score) if name in found else {}
    there = [recorded[label] for label in labels if label in recorded]
    assert there == sorted(there), dict(zip(labels, there, strict=False))


def test_sets_from_few_steps_are_far_beyond_chance(found):
    """Lesson 3: of the narrow sets most are many times worse than the worst of uniform's seeds."""
    data = found["calibration_sampling"].data
    worst = max(row["trajectory_mse"] for row in data["seeds"])
    error = {row["label"]: row["trajectory_mse"] for row in data["rows"]}
    far = {label for label, value in error.items() if value > ablations.FAR * worst}
    narrow = {f"{rule} {share}%" for rule in ("middle", "last") for share in (10, 20)}
    assert far == {*narrow, "step 11 alone", "last 50%"}
    assert len(ablations.beyond(data)[0]) > 6 and max(error.values()) > 10 * worst


def test_steps_that_were_not_calibrated_on_are_further_off(found):
    """The reason to take inputs from every step."""
    data = found["between_steps"].data
    steps = set(range(data["steps"]))
    sizes = {
        (row["label"], kind, name): statistics.median(abs(row[name][step]) for step in chosen)
        for row in data["rows"]
        for kind, chosen in (("seen", set(row["seen"])), ("between", steps - set(row["seen"])))
        for name in ("mse", "offset")
        if chosen
    }
    for name in ("mse", "offset"):
        second = "every second step, units alone"
        assert sizes[second, "seen", name] < sizes[second, "between", name]
        for label in ("every step, units alone", "every step, whole network"):
            assert sizes[label, "seen", name] < sizes[second, "between", name]


def above(data, label, score):
    """How far W4A8 of this label is above full precision, in a score of Table 1 and as a share."""
    return table1.above(data, table1.groups(data)[label, 4, 8], score)


def test_w4a8_loses_at_most_five_percent(found):
    """At the profile as it is, over the seeds; the paper's own W4A8 loses 17 % of FID."""
    assert above(found["table1"].data, "Q-Diffusion, all stages", "frechet")[1] <= 0.05


@pytest.mark.parametrize("stages", ["", ", whole network", ", all stages"])
def test_w4a8_keeps_its_kid_within_the_spread(found, stages):
    data = found["table1"].data
    full = table1.groups(data)["full precision", 32, 32][0]["scores"][table1.OWN]
    assert above(data, f"Q-Diffusion{stages}", "kid")[0] <= full["kid_std"]


@pytest.mark.parametrize("name", engines.SCORES)
def test_integers_score_as_the_simulation_does(found, name):
    """From the same noise they differ by less than the simulation does between seeds."""
    data = found["integer_scores"].data
    ways = engines.by_label(data)
    simulated = [row[name] for row in ways[engines.SIMULATED]]
    mean = statistics.fmean(row[name] for row in ways[engines.INTEGERS])
    assert min(simulated) <= mean <= max(simulated)
    assert engines.largest_change(data, name) < engines.seed_range(data, name)


def test_neighbouring_steps_have_the_more_alike_ranges(found):
    from qdiff_lib.course.figures.lesson_02 import shares

    covered = shares(found["activation_ranges"].data)
    near, far = (
        (covered[:, k:] - covered[:, :-k]).abs().mean()
        for k in (1, found["activation_ranges"].data["steps"] // 2)
    )
    assert near < far / 5


def test_the_halves_of_the_shortcuts_differ_little(found):
    for row in found["shortcut_split"].data["rows"]:
        assert all(1 / 3 < row[f"{kind}_ratio"] < 3 for kind in ("activation", "weight"))


def test_every_recorded_result_of_the_course_has_an_ordering():
    used = set().union(
        *(re.findall(r'recorded\("(\w+)"\)', path.read_text()) for path in SOURCES.glob("*.py"))
    )
    used -= {"capstone"}  # docs/capstone-answers.md has its numbers, and test_teaching.py their order
    used -= {"engines", "gpu_engines", "gpu_cifar10"}  # lessons 5 and 6 claim what they say of these
    assert used and used <= {name for name, _, _ in BEST_FIRST} | {"activation_ranges", "shortcut_split"}
    assert used <= {section.name for section in SECTIONS}


class TestPaper:
    def test_every_number_has_a_mark(self):
        theirs = table1.paper()
        assert set(theirs["marks"]) == {"V", "R"} and "arXiv 2302.04304" in theirs["source"]
        marks = {pair[1] for row in theirs["rows"] for pair in (row["fid"], row["inception_score"])}
        assert marks | {entry["mark"] for entry in theirs["setting"].values()} == {"V", "R"}

    def test_what_was_read_in_a_source_is_what_the_course_prints(self):
        read_there = {
            table1.key(row): row["fid"][0] for row in table1.paper()["rows"] if row["fid"][1] == "V"
        }
        assert read_there == {
            ("linear", 4, 8): 188.11,
            ("PTQ4DM", 4, 8): 5.14,
            ("Q-Diffusion", 4, 8): 4.93,
        }

    def test_its_methods_are_ours(self):
        labels = {row["label"] for row in table1.paper()["rows"]}
        assert labels == {table1.FULL, *METHOD_NAMES.values()}
        assert table1.OURS in METHOD_NAMES.values()


def row(label, weights, activations, seed=0, frechet=2.0, **scores):
    """A row of Table 1 as ``experiments/table1.py`` writes it."""
    own = {"frechet": frechet, "kid": frechet / 1e3, "kid_std": 1e-4, "inception_score": 9.0}
    own["inception_score_std"] = 0.25
    measured = {"bytes": 1_240_000, "bops": 27e9, "seconds": 12.0, "memory": 800_000_000, "memory_before": 7}
    measured |= {"trajectory_mse": 0.0123, "trajectory_mse_error": 0.001, "snr_db": 17.25}
    case = {"label": label, "weights": weights, "activations": activations, "seed": seed}
    return {**case, **measured, "scores": {"fashion-classifier": own, **scores}}


def data(rows, planned, **more):
    """Table 1 with these rows."""
    real = {"groups": 5, "frechet": [0.7, 0.05], "kid": [0.0001, 0.0002], "inception_score": [9.5, 0.1]}
    calibration = {"steps": 50, "samples": 1024, "iterations": 1200, "step_size_iterations": 200}
    calibration |= {"network_iterations": 600, "bias_correction_images": 128}
    sizes = {
        "sampler": "ddim-quadratic",
        "steps": 50,
        "n": 1000,
        "parameters": 2_250_000,
        "profile": "laptop",
    }
    cases = [dict(zip(("label", "weights", "activations", "seed"), case, strict=True)) for case in planned]
    about = {**sizes, "calibration": calibration, "edge_bits": 16, "seeds": [0, 1], "planned": cases}
    return {**about, "real": {"fashion-classifier": real, **more}, "rows": rows}


PLANNED = [("full precision", 32, 32, 0), ("linear", 4, 8, 0), ("linear", 4, 8, 1), ("SQuant", 4, 8, 0)]


def line(text, start):
    """The cells of the first line of a table that starts so."""
    found = next(line for line in text.splitlines() if line.startswith(start))
    return [cell.strip() for cell in found.strip("|").split("|")]


class TestTable1:
    def test_a_method_is_compared_with_full_precision_of_its_seeds(self):
        rows = [row("full precision", 32, 32, seed, frechet) for seed, frechet in ((0, 2.0), (1, 4.0))]
        rows += [
            row("linear", 4, 8, 0, 3.0),
            row("Q-Diffusion", 4, 8, 0, 2.2),
            row("Q-Diffusion", 4, 8, 1, 4.4),
        ]
        planned = [(case["label"], case["weights"], case["activations"], case["seed"]) for case in rows]
        above = table1.text(data(rows, planned)).split("### Above full precision")[1]
        cells = [line.split(" | ")[1:4] for line in above.splitlines() if line.startswith("| 4/8")]
        assert cells == [["Q-Diffusion", "+0.30", "+10.0 %"], ["linear", "+1.00", "+50.0 %"]]

    def test_a_row_that_is_not_recorded_is_empty(self):
        text = table1.text(data([row("full precision", 32, 32), row("linear", 4, 8, frechet=6.0)], PLANNED))
        assert set(line(text, "| 4/8 | SQuant |")[2:]) == {""}
        assert "2 of 4 rows are not recorded yet" in text
        above = text.split("### Above full precision")[1]
        assert line(above, "| 4/8")[1:] == ["linear", "+4.00", "+200.0 %", "+4357.6 %"]
        assert "SQuant" not in above

    def test_full_precision_is_not_compared_with_itself(self):
        assert line(table1.text(data([row("full precision", 32, 32)], PLANNED)), "| 32/32")[-4:] == [""] * 4

    def test_several_processes_measured_no_memory(self):
        alone, together = row("linear", 4, 8), row("linear", 4, 8, 1) | {"memory": None}
        assert table1.cells([alone, together])[-1] == "800" and table1.cells([together])[-1] == ""

    def test_spread_of_one_seed_and_of_two(self):
        rows = [row("full precision", 32, 32), row("linear", 4, 8, 0, 6.0)]
        planned = [*PLANNED, ("full precision", 32, 32, 1)]
        one = line(table1.text(data(rows, PLANNED)), "| 4/8 | linear")
        assert one[2] == "1" and one[5:8] == ["6.00 ± 0.10", "6.00", "9.00 ± 0.25"]
        rows += [row("full precision", 32, 32, 1), row("linear", 4, 8, 1, 8.0)]
        two = line(table1.text(data(rows, planned)), "| 4/8 | linear")
        assert two[2] == "2" and two[5:7] == ["7.00 ± 1.41", "7.00 ± 1.41"]

    def test_fid_stands_where_inception_was_there(self):
        inception = {"frechet": 31.5, "kid": 0.01, "kid_std": 0.002, "inception_score": None}
        rows = [row("full precision", 32, 32, inception=inception), row("linear", 4, 8)]
        real = {"groups": 5, "frechet": [20.0, 0.5], "kid": [0.0, 0.001]}
        text = table1.text(data(rows, PLANNED, inception=real))
        assert line(text, "| 32/32")[8] == "31.50" and line(text, "| 4/8 | linear")[8] == ""
        assert line(text, "|  | real images")[8] == "20.00 ± 0.50"

    def test_the_papers_numbers_stand_with_their_marks(self):
        text = table1.text(data([row("full precision", 32, 32)], PLANNED)).split("### Beside the paper")[1]
        assert line(text, "| 4/8 | linear")[2:4] == ["188.11 [V]", "2.45 [R]"]
        assert "35.7 million, on CIFAR-10" in text and "50,000 [R]" in text


def test_a_sweep_leaves_what_is_not_recorded_empty():
    found = {"trajectory_mse": 0.002, "snr_db": 25.0, "kid": 0.011, "frechet": 2.0, "seconds": 90.0}
    about = {"weights": 4, "activations": 8, "steps": 20, "n": 128, "calibration": {"iterations": 40}}
    about["seeds"] = [{**found, "trajectory_mse": mse} for mse in (0.0021, 0.004)]
    text = ablations.sweep(
        "calibration_inputs", {**about, "planned": [64, 5120], "floor": 0.7, "rows": [{"value": 64, **found}]}
    )
    assert "2 calibrations with the usual value, which differ only in their seed" in text
    assert "MSE x 1000 from 2.1 to 4," in text and text.endswith(
        "Values with a larger MSE: none. Values with a smaller MSE: 64."
    )
    assert line(text, "| 64")[1:] == ["2", "25.0", "11.00", "2.00", "90"]
    assert line(text, "| 5120")[1:] == [""] * 5
    assert "Fréchet distance of 0.70" in text and "in all rows 40 iterations" in text


def test_the_spread_of_real_images_stands_where_it_is_recorded():
    real = {"groups": 5, "kid": [0.0001, 0.0004], "frechet": [0.71, 0.05]}
    text = ablations.conditions({"n": 128, "steps": 20, "floor": 0.71, "real": real})
    assert "5 groups of as many real images have KID x 1000 0.10 ± 0.40" in text and "0.71 ± 0.05" in text


def test_a_table_that_is_missing_says_how_to_make_it():
    text = page({}, "plots")
    for section in SECTIONS:
        assert f"Not recorded yet: `{section.command}`" in text


def test_a_table_of_several_days_says_so():
    made = {
        "date": "2026-01-03",
        "machine": "a laptop",
        "commit": "abc",
        "command": "run",
        "seeds": {"noise": 0},
    }
    one, two = ({"rows": [{"date": date}, {}]} for date in ("2026-01-03", "2026-01-01"))
    assert source(Recorded(one, made), {}).startswith("*Recorded on 2026-01-03 on a laptop")
    assert source(Recorded(two, made), {}).startswith("*Recorded on 2026-01-01 to 2026-01-03 on a laptop")


def test_the_commits_of_rows_are_named():
    made = {"date": "d", "machine": "a laptop", "commit": "new", "command": "c", "seeds": {"noise": 0}}
    own = {"rows": [{"commit": "old"}, {"commit": "new"}, {"commit": "new"}], "seeds": [0, 1]}
    assert "at old (1 row), new (2 rows) by" in source(Recorded(own, made), {})
    assert "at new by" in source(Recorded({"rows": [{}]}, made), {})
    assert "noise 0; rows added in abc (1 row).*" in source(Recorded({"rows": [{}]}, made), {"abc": 1})


def test_commits_outside_of_the_history_are_named_on_the_page(found):
    def git(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)

    if git("rev-parse", "--is-shallow-repository").stdout.strip() != "false":
        pytest.skip("this is not a whole copy of the repository")
    stated = " ".join(json.dumps([recorded.data, recorded.provenance]) for recorded in found.values())
    commits = set(re.findall(r'"commit": "([0-9a-f]{7,})', stated))
    missing = {name for name in commits if git("merge-base", "--is-ancestor", name, "HEAD").returncode}
    line = re.search(r"Two of them, (\w+) and (\w+), are not in this", (ROOT / "RESULTS.md").read_text())
    assert len(commits) > 10 and missing == set(line.groups())


def test_the_digest_is_that_of_the_data():
    first, second = Recorded({"n": 1}, {"date": "a"}), Recorded({"n": 1}, {"date": "b"})
    assert first.digest() == second.digest() != Recorded({"n": 2}, {"date": "a"}).digest()


def test_numbers_as_text():
    assert [short(value) for value in (None, 0.0, 0.00012345, 1234.5, 164.02)] == [
        "",
        "0",
        "0.000123",
        "1230",
        "164",
    ]
    assert fixed(0.0117787, 2, 1e3) == "11.78" and fixed(None) == ""
    assert spread([2.0], None, 1) == "2.0" and spread([2.0], 0.5, 1) == "2.0 ± 0.5"
    assert spread([1.0, 3.0], 9.0, 1, 10) == "20.0 ± 14.1"
    assert table(["a", "b"], [["x", "1"]]) == "| a | b |\n| --- | ---: |\n| x | 1 |"
