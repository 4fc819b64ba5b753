"""The README's commands and code, as written, with smaller numbers where they would take minutes."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

import qdiff_lib
from qdiff_lib.cli.demo import AFTER_UNITS, PROMISE
from qdiff_lib.cli.main import main
from qdiff_lib.recipes.recipe import PROFILES, Recipe

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROGRAM = "python -m qdiff_lib "
NAMED = re.compile(r"`(\w+)[^`]*`")
SMALLER = {"sample": ["--n", "2", "--steps", "2"], "evaluate": ["--n", "4", "--steps", "2"]}
SMALL = dict(steps=2, samples=8, iterations=2, step_size_iterations=1, batch_size=4)


def commands(name: str) -> list[list[str]]:
    """The arguments of each indented ``python -m qdiff_lib NAME ...`` line."""
    lines = re.findall(rf"^    {PROGRAM}({name} .*)$", README, re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


@pytest.fixture(scope="module")
def small_profiles():
    with pytest.MonkeyPatch.context() as patch:
        for profile in PROFILES:
            patch.setitem(PROFILES, profile, SMALL)
        yield


@pytest.mark.slow
def test_quantize_sample_evaluate_work_as_written(small_profiles, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "data/prompts", tmp_path / "data/prompts")
    for name in ("quantize", "sample", "evaluate"):
        assert commands(name), f"the README shows no {name} command"
        for arguments in commands(name):
            assert main([*arguments, *SMALLER.get(name, [])]) == 0, capsys.readouterr().err
    assert (tmp_path / "build/w4a8/unet/config.json").is_file()
    assert (tmp_path / "build/w4a8.png").is_file()
    assert not (tmp_path / "build/w4a8/work").exists()
    assert (tmp_path / "build/emoji.png").is_file()


@pytest.mark.slow
def test_python_example_works_as_written(small_profiles, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = re.search(r"^    from qdiff_lib import .*?(?=^\S)", README, re.MULTILINE | re.DOTALL).group()
    names = {}
    exec("\n".join(line[4:] for line in code.splitlines()), names)
    assert tuple(names["images"].shape) == (16, 1, 32, 32)
    assert type(names["quantized"]) is type(names["pipe"])


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_profile_table_has_the_numbers_of_the_code(name):
    recipe = Recipe.qdiffusion(profile=name)
    row = next(line for line in README.splitlines() if line.startswith(f"| `{name}` "))
    numbers = [int(n.replace(",", "")) for n in re.findall(r"\d[\d,]*", row.split("|", 3)[3])]
    iterations = [
        recipe.rounding.iterations,
        recipe.step_sizes.step_size_iterations,
        recipe.whole_network.network_iterations,
    ]
    assert numbers == [
        recipe.calibration.steps,
        recipe.calibration.samples,
        *iterations,
        recipe.bias_correction.bias_correction_images,
    ]


def test_demo_table_is_the_recorded_one():
    report = json.loads((ROOT / "data/recorded/demo/report.json").read_text())
    _, _, linear, learned = (row["trajectory_mse"] for row in report["rows"])
    assert learned <= PROMISE * linear
    for row in report["rows"]:
        assert f"| {row['trajectory_mse']:.5f} | {row['frechet']:.1f} |" in README
    assert report["provenance"]["machine"] in README and report["provenance"]["date"] in README


def test_the_stages_of_the_demonstration_are_those_of_its_code():
    numbers = AFTER_UNITS["network_iterations"], AFTER_UNITS["bias_correction_images"]
    assert "{} iterations for the whole network, and {} images".format(*numbers) in README


def test_the_public_names_are_listed_and_documented():
    table = README.partition("names are the public library")[2].partition("A recipe has a part")[0]
    listed = [
        name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in NAMED.findall(row)
    ]
    assert sorted(listed) == sorted(qdiff_lib.__all__) and len(listed) == 16
    assert all(getattr(qdiff_lib, name).__doc__ for name in listed)


def test_links_and_pictures_exist():
    targets = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert targets and all((ROOT / target).exists() for target in targets)


def test_doctor_finds_nothing_wrong_here(capsys):
    assert main(["doctor"]) == 0, capsys.readouterr().out
