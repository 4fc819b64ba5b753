"""``quantize(work=..., resume=True)``: the same bits, nobody else's files, and no damaged one."""

import contextlib
import os
import random
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from diffusers import DDPMScheduler
from tiny_models import (
    SMALL,
    assert_same_tensors,
    ddim,
    ddpm,
    random_inputs,
    snapshot,
    unet2d,
)

from qdiff_lib import Recipe, quantize, record
from qdiff_lib.calibration.calibration_set import CalibrationSet
from qdiff_lib.ptq import quantize as module
from qdiff_lib.ptq import reconstruction
from qdiff_lib.ptq.work_folder import settings_of_run
from qdiff_lib.utils import files, sealed
from qdiff_lib.utils.lock import LOCK, held

RECIPE = Recipe.qdiffusion(4, 8, **SMALL)
UNIT = "units/unit-001.safetensors"
SET = "calibration-set.safetensors"
KNOWN = "fingerprint.json"


def run(work=None, recipe=RECIPE, pipe=None, **options):
    """The tensors of a quantized UNet."""
    quantized = quantize(pipe or ddim(), recipe, work=work, progress=False, **options)
    return snapshot(quantized.unet)


def kill_after(index):
    def callback(report):
        if report.index == index:
            raise KeyboardInterrupt

    return callback


def interrupted(work, index=2, **options):
    """A work folder whose run ended after unit ``index``."""
    with pytest.raises(KeyboardInterrupt):
        run(work, callback=kill_after(index), **options)
    return work


def contents(folder):
    """The bytes of all files below a folder."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def uninterrupted():
    """The tensors of a run that nothing disturbed."""
    return run()


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """The files of an interrupted run; do not change them."""
    return interrupted(tmp_path_factory.mktemp("kept") / "work")


@pytest.fixture
def work(kept, tmp_path):
    """A copy of those files."""
    copy = tmp_path / "work"
    (copy / "units").mkdir(parents=True)
    for path, value in contents(kept).items():
        (copy / path.relative_to(kept)).write_bytes(value)
    return copy


@pytest.fixture
def fitted(monkeypatch):
    """The numbers of the units that are fitted from here on."""
    numbers, fit_unit = [], reconstruction.fit_unit

    def count(k, *args, **kwargs):
        numbers.append(k)
        return fit_unit(k, *args, **kwargs)

    monkeypatch.setattr(reconstruction, "fit_unit", count)
    return numbers


# Going on


def test_an_interrupted_run_ends_with_the_same_bits(work, uninterrupted, fitted, monkeypatch):
    monkeypatch.setattr(module, "record", lambda *args, **kwargs: pytest.fail("recorded again"))
    assert_same_tensors(run(work, resume=True), uninterrupted)
    assert fitted[0] == 3


@pytest.mark.parametrize("index", [pytest.param(2, marks=pytest.mark.exhaustive), 1000])
def test_a_run_that_is_interrupted_in_either_pass_ends_with_the_same_bits(tmp_path, index):
    recipe = RECIPE.replace(second_pass=True)
    seen = []
    expected = run(recipe=recipe, callback=seen.append)
    count = len(seen) // 2 + 1 if index == 1000 else index  # in the second pass, or in the first

    def stop(report):
        seen.append(report)
        if len(seen) == count:
            raise KeyboardInterrupt

    seen.clear()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "work", recipe, callback=stop)
    assert_same_tensors(run(tmp_path / "work", recipe, resume=True), expected)


def test_a_finished_run_fits_nothing_again(work, uninterrupted, fitted):
    run(work, resume=True)
    fitted.clear()
    assert_same_tensors(run(work, resume=True), uninterrupted)
    assert not fitted


def test_a_given_calibration_set_is_not_kept(tmp_path, uninterrupted, fitted):
    inputs = record(ddim(), RECIPE.calibration.rule, RECIPE.calibration.samples, RECIPE.calibration.steps)
    interrupted(tmp_path, calibration=inputs)
    assert not (tmp_path / SET).exists()
    fitted.clear()
    assert_same_tensors(run(tmp_path, calibration=inputs, resume=True), uninterrupted)
    assert fitted[0] == 3


def test_an_interrupted_recording_starts_anew(tmp_path, uninterrupted, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "record", stop)
        run(tmp_path / "work")
    assert not (tmp_path / "work").exists()
    assert_same_tensors(run(tmp_path / "work", resume=True), uninterrupted)


@pytest.mark.parametrize(
    "there",
    [pytest.param(False, id="missing", marks=pytest.mark.exhaustive), pytest.param(True, id="empty")],
)
def test_resume_without_files_starts(tmp_path, there, uninterrupted):
    if there:
        (tmp_path / "work").mkdir()
    assert_same_tensors(run(tmp_path / "work", resume=True), uninterrupted)


def test_what_a_killed_run_left_is_cleared(work):
    (work / "activations-abc").mkdir()
    (work / "activations-abc" / "1.bin").write_bytes(b"rows")
    half = work / "units" / f"{files.TEMPORARY}01234567-unit-003.safetensors"
    half.write_bytes(b"half")
    run(work, resume=True)
    assert not half.exists() and not list(work.glob("activations-*"))


def test_a_half_written_file_never_exists(tmp_path, uninterrupted, monkeypatch):
    written, save_file = [], sealed.save_file

    def fail(tensors, path, metadata):
        written.append(path)
        if len(written) == 4:  # the calibration set, then units
            path.write_bytes(b"half")
            raise OSError("no space left on device")
        save_file(tensors, path, metadata)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space left"):
        patch.setattr(sealed, "save_file", fail)
        run(tmp_path)
    left = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert left == [SET, KNOWN, LOCK, "unit-000.safetensors", "unit-001.safetensors"]
    assert_same_tensors(run(tmp_path, resume=True), uninterrupted)


# What is refused, and stays as it was


OTHER = {
    "recipe": (dict(recipe=RECIPE.replace(lr=0.5)), "recipe.rounding.lr: 0.03 there, 0.5 here"),
    "seed": (dict(recipe=RECIPE.replace(seed=1)), "recipe.seed: 0 there, 1 here"),
    "method": (dict(recipe=Recipe.linear(4, 8, **SMALL)), 'recipe.method: "qdiffusion" there, "linear" here'),
    "model": (dict(pipe=ddim(unet2d(seed=1))), 'model: "'),
    "config": (dict(pipe=ddim(unet2d(act_fn="gelu"))), 'unet.act_fn: "silu" there, "gelu" here'),
    "calibration": (dict(calibration=random_inputs(unet2d())), "calibration: null there"),
    "scheduler": (dict(recipe=RECIPE.replace(sampler=None)), 'calibration.sampler: "ddim" there, null here'),
}


@pytest.mark.parametrize("change", OTHER)
def test_files_of_another_run_are_refused_and_kept(work, change):
    (options, words), before = OTHER[change], contents(work)
    with pytest.raises(ValueError, match="another model or other options") as refused:
        run(work, resume=True, **options)
    assert words in str(refused.value) and str(work) in str(refused.value)
    assert contents(work) == before


def test_a_file_from_another_folder_is_refused(work, tmp_path):
    other = interrupted(tmp_path / "other", recipe=RECIPE.replace(seed=1))
    (work / UNIT).write_bytes((other / UNIT).read_bytes())
    with pytest.raises(ValueError, match="unit-001.safetensors is of another model"):
        run(work, resume=True)


@pytest.mark.parametrize("left", [(SET,), (UNIT,)], ids=["calibration-set", "units"])
def test_without_resume_nothing_is_deleted(work, left):
    for path in contents(work):
        if path.name not in (KNOWN, LOCK) and str(path.relative_to(work)) not in left:
            path.unlink()
    before = contents(work)
    with pytest.raises(
        ValueError, match="earlier run: go on from them with resume=True .*or name another one"
    ) as refused:
        run(work)
    assert repr(str(work)) in str(refused.value)
    assert contents(work) == before


def test_resume_needs_a_work_folder():
    with pytest.raises(ValueError, match="resume=True needs work=FOLDER"):
        run(resume=True)


@pytest.mark.parametrize("resume", [False, True])
def test_somebody_elses_folder_is_never_touched(tmp_path, resume):
    (tmp_path / "units").mkdir()
    (tmp_path / "units" / "unit-000.safetensors").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="and no qdiff.lock .* name a new or empty folder"):
        run(tmp_path, resume=resume)
    assert contents(tmp_path) == before


def test_a_refused_request_leaves_no_folder(tmp_path):
    with pytest.raises(ValueError, match="prompts"):
        run(tmp_path / "work", prompts=["red apple"])
    assert not (tmp_path / "work").exists()


def cut(value):
    return value[: len(value) // 2]


def without_end(value):
    return value[:-1]


def emptied(value):
    return b""


def no_json(value):
    return b"\xff" * len(value)


@pytest.mark.parametrize("name", [KNOWN, SET, UNIT])
def test_a_damaged_file_is_named_with_the_cure(work, name, uninterrupted):
    path, before = work / name, contents(work)
    for damage in (cut, without_end, emptied, no_json):
        path.write_bytes(damage(before[path].rstrip()))
        with pytest.raises(
            ValueError, match="is damaged.*: delete this file, and resume once more"
        ) as refused:
            run(work, resume=True)
        assert str(path) in str(refused.value), damage
        assert {**contents(work), path: before[path]} == before
    path.unlink()
    assert_same_tensors(run(work, resume=True), uninterrupted)


@pytest.mark.parametrize("name", [SET, UNIT])
def test_every_flipped_bit_is_noticed(work, name):
    """But of the spaces that fill up the header of a safetensors file, which say nothing."""
    path, chance = work / name, random.Random(0)
    value = path.read_bytes()
    length = 8 + int.from_bytes(value[:8], "little")
    head = len(value[:length].rstrip(b" "))
    expected, about = sealed.load_sealed(path)
    for place in [*range(0, head, 7), *chance.sample(range(length, len(value)), 100)]:
        bit = 1 << chance.randrange(8)
        path.write_bytes(value[:place] + bytes([value[place] ^ bit]) + value[place + 1 :])
        with contextlib.suppress(ValueError):
            tensors, found = sealed.load_sealed(path)
            pytest.fail(f"bit {bit} of byte {place} of {name} went unnoticed")


def test_flipped_digits_of_the_fingerprint_are_noticed(work):
    text = (work / KNOWN).read_text()
    (work / KNOWN).write_text(text.replace('"samples": 12', '"samples": 13'))
    with pytest.raises(ValueError, match="fingerprint.json is damaged .its sha256"):
        run(work, resume=True)


# One process at a time


HOLD = """
import sys, time
from qdiff_lib.utils.lock import held
with held(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such locks")
def test_a_second_process_is_kept_out_until_the_first_dies(work, uninterrupted):
    first = subprocess.Popen([sys.executable, "-c", HOLD, str(work)], stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout.readline() == "held\n"
        before = contents(work)
        with pytest.raises(ValueError, match="in use by another quantize") as refused:
            run(work, resume=True)
        assert str(work) in str(refused.value) and contents(work) == before
    finally:
        first.kill()
        first.wait()
        first.stdout.close()
    assert_same_tensors(run(work, resume=True), uninterrupted)


def test_a_folder_may_be_held_twice_and_goes_when_nothing_is_in_it(tmp_path):
    folder = tmp_path / "new" / "work"
    with held(folder):
        with held(folder):
            pass
        assert (folder / LOCK).is_file()
    assert not folder.exists()
    with held(folder):
        (folder / "result").write_text("kept")
    assert (folder / LOCK).is_file()


# What decides a run


def test_the_settings_do_not_depend_on_the_order_of_tensors(tmp_path):
    inputs = random_inputs(unet2d())
    inputs.save(tmp_path / "set.safetensors")
    read = CalibrationSet.load(tmp_path / "set.safetensors")
    turned = CalibrationSet(dict(reversed(inputs.inputs.items())), inputs.step, inputs.made_by)
    first, *others = (settings_of_run(ddim(), RECIPE, None, each) for each in (inputs, read, turned))
    assert others == [first, first]


def test_the_steps_of_the_inputs_count():
    inputs = random_inputs(unet2d())
    later = replace(inputs, step=inputs.step + torch.arange(len(inputs)))
    assert settings_of_run(ddim(), RECIPE, None, inputs) != settings_of_run(ddim(), RECIPE, None, later)


def test_the_schedulers_numbers_count():
    pipe, other = ddpm(), ddpm()
    other.scheduler = DDPMScheduler(num_train_timesteps=100, beta_end=0.5)
    assert settings_of_run(pipe, RECIPE) != settings_of_run(other, RECIPE)


def test_where_a_model_was_loaded_from_does_not_count(tmp_path):
    pipe = ddpm()
    pipe.save_pretrained(tmp_path / "moved")
    again = type(pipe).from_pretrained(tmp_path / "moved")
    assert settings_of_run(pipe, RECIPE) == settings_of_run(again, RECIPE)


def test_the_file_of_another_unit_is_refused(work):
    (work / UNIT).write_bytes((work / UNIT).with_name("unit-000.safetensors").read_bytes())
    with pytest.raises(
        ValueError, match="unit-001.safetensors is of unit 0, not of unit 1: delete this file"
    ):
        run(work, resume=True)
