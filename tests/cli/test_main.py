"""The command line: wrong input is one line and exit status 2, help is complete and light."""

import subprocess
import sys
from pathlib import Path

import pytest

from qdiff_lib.cli import arguments, output
from qdiff_lib.cli import main as cli
from qdiff_lib.utils.lock import LOCK

QUANTIZE = ["quantize", "--model", "ddpm-fashion", "--out", "new"]
SAMPLE = ["sample", "--model", "ddpm-fashion", "--out", "new.png"]
EVALUATE = ["evaluate", "--model", "ddpm-fashion", "--against", "fashion-mnist"]
ROOT = Path(__file__).parents[2]
COMMANDS = ("quantize", "sample", "evaluate", "convert", "export", "demo", "doctor")


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def refused(argv: list[str], capsys) -> str:
    """Run ``argv``, which must exit with 2 and one line on stderr; returns that line."""
    try:
        status = cli.main(argv)
    except SystemExit as stop:
        status = stop.code
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert err.endswith("\n") and err.count("\n") == 1, err
    return err


def set_command(monkeypatch, name, raised):
    """Replace the body of a command by one that raises."""

    def run(args):
        raise raised

    monkeypatch.setitem(cli.COMMANDS, name, run)


@pytest.mark.parametrize(
    ("argv", "value", "allowed"),
    [
        ([*QUANTIZE, "--weights", "9"], "'9'", "2 to 8, 16, or 32"),
        ([*QUANTIZE, "--weights", "1"], "'1'", "2 to 8, 16, or 32"),
        ([*QUANTIZE, "--weights", "-4"], "'-4'", "2 to 8, 16, or 32"),
        ([*QUANTIZE, "--activations", "8.0"], "'8.0'", "2 to 8, 16, or 32"),
        ([*QUANTIZE, "--edge-bits", "12"], "'12'", "2 to 8, 16, or 32"),
        ([*QUANTIZE, "--activations", "eight"], "'eight'", "2 to 8, 16, or 32"),
        ([*QUANTIZE, "--method", "magic"], "'magic'", "'linear', 'squant', 'ptq4dm', 'qdiffusion'"),
        ([*QUANTIZE, "--profile", "huge"], "'huge'", "'tiny', 'laptop', 'gpu', 'paper'"),
        ([*QUANTIZE, "--seed", "-1"], "'-1'", "from 0 to"),
        ([*QUANTIZE, "--seed", "9999999999"], "'9999999999'", "from 0 to"),
        ([*QUANTIZE, "--memory-gb", "0"], "'0'", "a positive number"),
        ([*QUANTIZE, "--memory-gb", "4GB"], "'4GB'", "a positive number"),
        ([*QUANTIZE, "--device", "tpu"], "'tpu'", "auto, cpu, cuda"),
        ([*QUANTIZE, "--out", ""], "''", "name a new one"),
        ([*QUANTIZE, "--wieghts", "4"], "--wieghts", "--help"),
        ([*QUANTIZE, "--weight", "4"], "--weight", "--help"),
        (["quantize", "--model", "ddpm-fashion"], "--out", "required"),
        ([*SAMPLE, "--steps", "0"], "'0'", "from 1 to 1000"),
        ([*SAMPLE, "--steps", "1001"], "'1001'", "from 1 to 1000"),
        ([*SAMPLE, "--steps", "many"], "'many'", "from 1 to 1000"),
        ([*SAMPLE, "--n", "0"], "'0'", "from 1 to 1048576"),
        ([*SAMPLE, "--n", "2000000"], "'2000000'", "from 1 to 1048576"),
        ([*QUANTIZE, "--memory-gb", "9" * 400], "999", "up to 1000000"),
        ([*QUANTIZE, "--out", "x" * 300], "xxx", "name another one"),
        ([*SAMPLE, "--out", "x" * 300 + ".png"], "xxx", "name another one"),
        ([*SAMPLE, "--out", "new.jpg"], "'new.jpg'", ".png"),
        (["evaluate", "--model", "ddpm-fashion", "--against", "cats"], "'cats'", "'fashion-mnist'"),
        ([*EVALUATE, "--n", "1"], "'1'", "from 2 to 1048576"),
        (["evaluate", "--model", "ddpm-fashion"], "--original", "required"),
        ([*EVALUATE, "--original", "x"], "--original", "not allowed with"),
        ([*SAMPLE, "--eta", "1.5"], "'1.5'", "from 0 to 1"),
        ([*SAMPLE, "--guidance", "-1"], "'-1'", "from 0 to 1000"),
        ([*SAMPLE, "--guidance", "much"], "'much'", "from 0 to 1000"),
        ([*QUANTIZE, "--samples", "1000000000"], "'1000000000'", "from 1 to 524288"),
        ([*QUANTIZE, "--iterations", "9" * 400], "999", "from 1 to 1000000"),
        ([*SAMPLE, "--sampler", "heun"], "'heun'", "'ddim', 'ddim-quadratic', 'plms'"),
        ([*SAMPLE, "--prompt", "flag", "--prompts", "file"], "--prompts", "not allowed with"),
        ([*QUANTIZE, "--preset", "sdxl"], "'sdxl'", "'sd-v1.4'"),
        (
            ["convert", "--checkpoint", "x", "--preset", "sd-v1.4", "--out", "new"],
            "'sd-v1.4'",
            "'ldm4-bedrooms'",
        ),
        ([*EVALUATE, "--extractor", "vgg"], "'vgg'", "'fashion-classifier', 'inception'"),
        ([*EVALUATE, "--out", "scores.txt"], "'scores.txt'", ".json"),
        (["demo", "--profile", "huge"], "'huge'", "'tiny'"),
        (["quantise"], "'quantise'", ", ".join(map(repr, COMMANDS))),
        ([], "COMMAND", "required"),
    ],
    ids=lambda case: " ".join(case[-2:]) if isinstance(case, list) else "",
)
def test_a_wrong_argument_is_one_line(argv, value, allowed, capsys):
    line = refused(argv, capsys)
    assert value in line and allowed in line


@pytest.mark.parametrize("command", ["quantize", "demo"])
def test_an_output_folder_that_is_a_file_is_refused(command, tmp_path, capsys):
    (tmp_path / "taken").write_text("")
    argv = [*QUANTIZE[:-2], "--out", "taken"] if command == "quantize" else ["demo", "--out", "taken"]
    assert "'taken' is not a folder" in refused(argv, capsys)


def test_quantize_refuses_a_folder_with_files_and_leaves_them(tmp_path, capsys):
    kept = tmp_path / "new" / "unet.safetensors"
    kept.parent.mkdir()
    kept.write_text("weights")
    line = refused(QUANTIZE, capsys)
    assert "new is not empty" in line and "name a new folder" in line
    assert [path.name for path in kept.parent.iterdir()] == [kept.name] and kept.read_text() == "weights"


@pytest.mark.parametrize("folder", ["", "work", "unet"], ids=["no-work", "empty-work", "other-folder"])
def test_resume_needs_the_work_of_an_earlier_run(folder, tmp_path, capsys):
    (tmp_path / "new" / folder).mkdir(parents=True)
    (tmp_path / "new" / "holiday.jpg").write_text("")
    assert "no work/" in refused([*QUANTIZE, "--resume"], capsys)


def test_somebody_elses_work_is_never_touched(tmp_path, capsys):
    kept = tmp_path / "new" / "work" / "thesis.txt"
    kept.parent.mkdir(parents=True)
    kept.write_text("mine")
    assert "no work/" in refused([*QUANTIZE, "--resume"], capsys)
    assert "is not empty" in refused(QUANTIZE, capsys)
    (tmp_path / "new" / "report.json").write_text("{}")
    assert "work' holds files" in refused([*QUANTIZE, "--resume"], capsys)
    assert [path.name for path in kept.parent.iterdir()] == [kept.name] and kept.read_text() == "mine"


@pytest.mark.parametrize("more", [[], ["--resume"]], ids=["new", "resume"])
@pytest.mark.parametrize("target", ["of-another-run", "absent"])
def test_work_that_is_a_link_is_refused(target, more, tmp_path, capsys):
    kept = tmp_path / "of-another-run" / "fingerprint.json"
    kept.parent.mkdir()
    for name in (LOCK, kept.name):
        (kept.parent / name).write_text("theirs")
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "work").symlink_to(tmp_path / target)
    (tmp_path / "new" / "report.json").write_text("{}")
    assert "new/work is a symbolic link: remove the link" in refused([*QUANTIZE, *more], capsys)
    assert kept.read_text() == "theirs" and (tmp_path / "new" / "work").is_symlink()


def test_prompts_of_any_size_are_refused_at_once(tmp_path, capsys):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("flag\n\n" + "x" * 10**7 + "\n")
    line = refused([*SAMPLE, "--prompts", "prompts.txt"], capsys)
    assert "prompts.txt, line 3: 'xxx" in line and "10,000,000 characters" in line
    prompts.write_text("x\n" * 2**25 + "x")
    assert "more than 67,108,864 bytes" in refused([*SAMPLE, "--prompts", "prompts.txt"], capsys)
    line = refused([*SAMPLE, "--prompt", "flag", "--prompt", "x" * 10_001], capsys)
    assert "--prompt 2: 'xxx" in line and len(line) < 200
    assert "not UTF-8" in refused([*SAMPLE, "--prompt", "\udcff"], capsys)


def test_a_device_of_any_number_is_refused(capsys):
    assert "CUDA devices; use auto" in refused([*SAMPLE, "--device", "cuda:" + "9" * 30], capsys)


@pytest.mark.parametrize("resume", [False, True])
def test_new_and_empty_folders_are_accepted(tmp_path, resume):
    output.check_new_or_resumed(tmp_path / "absent", resume)
    output.check_new_or_resumed(tmp_path, resume)
    (tmp_path / "work").mkdir()  # of a run that was killed in its first moments
    output.check_new_or_resumed(tmp_path, resume)
    (tmp_path / "work" / LOCK).write_text("")
    output.check_new_or_resumed(tmp_path, resume)


def test_resume_accepts_the_work_of_a_run(tmp_path):
    (tmp_path / "work").mkdir()
    for name in (LOCK, "fingerprint.json"):
        (tmp_path / "work" / name).write_text("")
    output.check_new_or_resumed(tmp_path, resume=True)
    with pytest.raises(FileExistsError, match="add --resume"):
        output.check_new_or_resumed(tmp_path, resume=False)


def test_resume_is_not_advised_where_it_is_refused(tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is not empty; name a new folder$"):
        output.check_new_or_resumed(tmp_path, resume=False)
    with pytest.raises(ValueError, match="holds no work/"):
        output.check_new_or_resumed(tmp_path, resume=True)


def test_scores_in_words():
    found = [cli.in_words(value) for value in (float("nan"), 0.123456, "cpu", 3)]
    assert found == ["not known from so few images", "0.1235", "cpu", "3"]


def test_numbers_that_json_cannot_write_become_none():
    assert cli.json_form([1.5, float("nan"), -float("inf")]) == [1.5, None, None]
    assert [cli.json_form(value) for value in (float("inf"), 3, "nan")] == [None, 3, "nan"]


def test_a_device_that_is_not_here_is_refused():
    torch = pytest.importorskip("torch")
    absent = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(ValueError, match=f"{absent}.*use auto"):
        cli.find_device(absent)
    assert cli.find_device("cpu") == "cpu"


@pytest.mark.parametrize("kind", [ValueError, TypeError, FileNotFoundError, FileExistsError, PermissionError])
def test_an_error_of_a_command_is_one_line(kind, monkeypatch, capsys):
    set_command(monkeypatch, "sample", kind("no model 'ddpm-fashoin';\n  use one of: ddpm-fashion"))
    line = refused(SAMPLE, capsys)
    assert line == f"{cli.PROGRAM} sample: error: no model 'ddpm-fashoin'; use one of: ddpm-fashion\n"


def test_traceback_lets_the_error_through(monkeypatch):
    set_command(monkeypatch, "sample", ValueError("with its traceback"))
    with pytest.raises(ValueError, match="with its traceback"):
        cli.main([*SAMPLE, "--traceback"])


@pytest.mark.parametrize("kind", [AttributeError, KeyError, RuntimeError, RecursionError, AssertionError])
def test_another_error_is_one_line_with_its_type(kind, monkeypatch, capsys):
    set_command(monkeypatch, "sample", kind("deep inside"))
    line = refused(SAMPLE, capsys)
    assert f"sample: error: {kind.__name__}: " in line and "deep inside" in line
    assert line.endswith("; add --traceback to see where\n")
    with pytest.raises(kind):
        cli.main([*SAMPLE, "--traceback"])


def help_of(argv, capsys) -> str:
    with pytest.raises(SystemExit) as stop:
        cli.main([*argv, "--help"])
    assert stop.value.code == 0
    return capsys.readouterr().out


def test_help_lists_every_command(capsys):
    shown = help_of([], capsys)
    assert all(f"\n    {command}" in shown for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_that_is_valid(command, capsys):
    shown = help_of([command], capsys)
    examples = shown.split("example:\n")[1].split("\n\n")[0].replace("\\\n", " ").splitlines()
    for example in examples:
        assert arguments.build_parser(cli.COMMANDS).parse_args(example.split()[3:]).command == command
    assert examples


@pytest.mark.parametrize("command", ["quantize", "sample", "evaluate"])
def test_help_says_what_the_numbers_mean(command, capsys):
    assert "what the numbers mean:" in help_of([command], capsys)


def test_the_choices_are_those_of_the_library():
    from qdiff_lib.io import compvis, models
    from qdiff_lib.recipes import presets

    assert set(arguments.ORIGINALS) == set(compvis.ORIGINALS)
    assert {preset.hub for preset in presets.PRESETS.values() if preset.hub} <= set(models.HUB)


def test_the_optional_install_is_that_of_the_library(capsys):
    from qdiff_lib.evaluation.features import INSTALL_INCEPTION

    assert " ".join(help_of(["evaluate"], capsys).split()).count(INSTALL_INCEPTION) == 1


def test_defaults():
    args = arguments.build_parser(cli.COMMANDS).parse_args(QUANTIZE)
    chosen = (args.method, args.weights, args.activations, args.seed, args.resume, args.device)
    assert chosen == ("qdiffusion", 4, 8, 0, False, "auto")


HEAVY = ("torch", "torchvision", "diffusers", "numpy", "matplotlib")
LOADED = """
import sys
from qdiff_lib.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print("loaded:", *(name for name in {names} if name in sys.modules))
"""


@pytest.mark.parametrize("argv", [["--help"], ["quantize", "--help"], [*QUANTIZE, "--weights", "9"]])
def test_help_and_wrong_arguments_do_not_import_torch(argv):
    program = [sys.executable, "-c", LOADED.format(names=HEAVY), *argv]
    ended = subprocess.run(program, capture_output=True, text=True, cwd=ROOT, check=True)
    assert ended.stdout.splitlines()[-1] == "loaded:"


def test_the_module_runs_as_a_program():
    program = [sys.executable, "-m", "qdiff_lib", *QUANTIZE, "--weights", "9"]
    ended = subprocess.run(program, capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr and ended.stderr.count("\n") == 1
    assert ended.stderr.startswith("python -m qdiff_lib quantize: error: argument --weights: '9'")
