"""Latent and text-guided pipelines end to end: quantized, with every sampler, saved, by the command line."""

import copy
import json

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, PNDMScheduler
from latent_models import PROMPTS, latent_diffusion, stable_diffusion
from safetensors.torch import load_file
from tiny_models import SMALL, assert_same_tensors, random_inputs, snapshot

from qdiff_lib import Recipe, load, quantize, sample, save_quantized, with_sampler
from qdiff_lib.cli import main as cli
from qdiff_lib.cli.arguments import build_parser
from qdiff_lib.cli.main import main
from qdiff_lib.evaluation.trajectory_errors import image_psnr, trajectory_mse
from qdiff_lib.modules.activation_quantizer import activation_quantizers
from qdiff_lib.recipes.recipe import PROFILES

EVALUATED = ("green apple", "dog")


@pytest.fixture(scope="module")
def text_pair():
    """A text-guided pipeline and its quantized copy; do not change either."""
    pipe = stable_diffusion()
    recipe = Recipe.qdiffusion(weights=4, activations=8, **{**SMALL, "iterations": 1})
    return pipe, quantize(pipe, recipe, prompts=PROMPTS, progress=False)


@pytest.fixture(scope="module")
def latent_pair():
    """The same for an unconditional latent pipeline, to nearest."""
    pipe = latent_diffusion()
    return pipe, quantize(pipe, Recipe.linear(weights=8, activations=8, **SMALL), progress=False)


def test_components_and_provenance(text_pair):
    pipe, quantized = text_pair
    assert type(quantized) is type(pipe) and quantized.vae is pipe.vae
    assert quantized.text_encoder is pipe.text_encoder and quantized.scheduler is pipe.scheduler
    about = quantized.unet.quantization
    assert about.calibration["prompts"] == list(PROMPTS) and about.calibration["guidance"] == 7.5
    assert about.report()["calibration"] == about.calibration
    blocks = [unit for unit in about.trace.units if unit.name.endswith("transformer_blocks.0")]
    parts = ["attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0"]
    parts += ["attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0", "ff.net.0.proj", "ff.net.2"]
    assert blocks and all(b.layers == [f"{b.name}.{part}" for part in parts] for b in blocks)


def test_text_pipelines_need_prompts():
    with pytest.raises(ValueError, match="StableDiffusionPipeline draws what a text says: give prompts"):
        quantize(stable_diffusion(), Recipe.linear(**SMALL))


@pytest.mark.parametrize("sampler", [None, "plms", "ddim", "dpm++"], ids=["own", "plms", "ddim", "dpm++"])
@pytest.mark.parametrize("kind", ["text", "latent"])
def test_samplers_work_unchanged(kind, sampler, request):
    options = dict(prompts=EVALUATED) if kind == "text" else {}
    full, found = (
        sample(with_sampler(pipe, sampler), 2, 4, record=True, **options)
        for pipe in request.getfixturevalue(f"{kind}_pair")
    )
    assert found.images.shape == (2, 3, 16, 16) and found.trajectory.isfinite().all()
    errors = trajectory_mse(full.trajectory, found.trajectory)
    power = full.trajectory.double().square().flatten(1).mean(dim=1)
    assert ((errors > 0) & (errors < 0.1 * power)).all()


def test_a_checkpoint_of_a_text_pipeline(text_pair, tmp_path):
    _, quantized = text_pair
    save_quantized(quantized, tmp_path)
    folders = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert folders == {"scheduler", "text_encoder", "tokenizer", "unet", "vae"}
    tensors = load_file(tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    assert {value.dtype for name, value in tensors.items() if name.endswith(".codes")} == {torch.uint8}
    again = load(tmp_path)
    assert again.unet.quantization.calibration == quantized.unet.quantization.calibration
    assert again.unet.quantization.recipe == quantized.unet.quantization.recipe
    for name in ("unet", "vae", "text_encoder"):
        assert_same_tensors(snapshot(getattr(again, name)), snapshot(getattr(quantized, name)))
    images = [sample(pipe, 2, 3, prompts=EVALUATED).images for pipe in (again, quantized)]
    assert torch.equal(*images)


def test_half_precision_components_stay_so_on_disk(latent_pair, tmp_path):
    pipe = latent_diffusion()
    pipe.save_pretrained(tmp_path / "single")
    pipe.to(torch.float16).save_pretrained(tmp_path / "half")
    for name, kind in (("single", torch.float32), ("half", torch.float16)):
        loaded = load(tmp_path / name)
        assert loaded.vqvae.dtype == loaded.unet.dtype == torch.float32
        quantized = quantize(loaded, Recipe.linear(**SMALL), progress=False)
        save_quantized(quantized, tmp_path / f"{name}-packed")
        tensors = load_file(tmp_path / f"{name}-packed" / "vqvae" / "diffusion_pytorch_model.safetensors")
        assert {tensor.dtype for tensor in tensors.values()} == {kind}
        again = load(tmp_path / f"{name}-packed")
        assert_same_tensors(snapshot(again.vqvae), snapshot(quantized.vqvae))
        assert torch.equal(sample(again, 1, 2).images, sample(quantized, 1, 2).images)


def test_grids_stay_in_single_precision_when_the_network_is_halved(text_pair):
    """65,535 steps of a 16-bit softmax are more than float16 can count."""
    full, single = (pipe.unet for pipe in text_pair)
    half = copy.deepcopy(single).half()
    quantizers = activation_quantizers(half)
    assert any(q.grid.bits == 16 for q in quantizers)
    assert {q.scale.dtype for q in quantizers} == {torch.float32} and half.dtype == torch.float16
    inputs = random_inputs(single, 4).rows(slice(None))
    with torch.no_grad():
        original, expected = (unet(**inputs).sample for unet in (full, single))
        found = half(**{name: x.half() if x.is_floating_point() else x for name, x in inputs.items()}).sample
    assert (found - expected).square().mean() < (expected - original).square().mean()  # a few codes flip


# The command line


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A text-guided model in a folder, and a file of prompts."""
    folder = tmp_path_factory.mktemp("models")
    stable_diffusion().save_pretrained(folder / "sd")
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    return folder


@pytest.fixture(scope="module")
def packed(folder):
    """The model quantized by the command line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROFILES, "tiny", SMALL)
        argv = ["quantize", "--model", str(folder / "sd"), "--method", "linear", "--guidance", "3"]
        assert main([*argv, "--prompts", str(folder / "prompts.txt"), "--out", str(folder / "w4a8")]) == 0
    return folder / "w4a8"


def test_quantize_records_prompts_and_guidance(packed):
    about = json.loads((packed / "unet" / "config.json").read_text())["quantization_config"]
    assert about["calibration"]["prompts"] == list(PROMPTS) and about["calibration"]["guidance"] == 3
    assert about["recipe"]["method"] == "linear" and about["recipe"]["grids"]["softmax_bits"] is None


def test_sample_takes_prompts(packed, tmp_path, capsys):
    argv = ["sample", "--model", str(packed), "--steps", "2", "--out", str(tmp_path / "a.png")]
    argv += ["--prompt", "flag", "--prompt", "red apple", "--sampler", "plms"]
    for n, told in ((2, False), (1, True)):
        assert main([*argv, "--n", str(n)]) == 0
        assert (tmp_path / "a.png").is_file()
        assert ("1 of 2 texts get an image; for all: --n 2" in capsys.readouterr().out) == told


@pytest.mark.parametrize("sampler, kind", [("own", PNDMScheduler), ("dpm++", DPMSolverMultistepScheduler)])
def test_the_sampler_of_the_command_line(sampler, kind, folder):
    argv = ["sample", "--model", str(folder / "sd"), "--sampler", sampler, "--out", "new.png"]
    args = build_parser(cli.COMMANDS).parse_args(argv)
    assert type(cli.load_for(args, args.model).scheduler) is kind


def test_evaluate_compares_with_the_original(packed, folder, tmp_path, capsys):
    out = tmp_path / "scores.json"
    argv = ["evaluate", "--model", str(packed), "--original", str(folder / "sd"), "--n", "2", "--steps", "3"]
    assert main([*argv, "--prompt", EVALUATED[0], "--prompt", EVALUATED[1], "--out", str(out)]) == 0
    scores = json.loads(out.read_text())
    full, found = (
        sample(with_sampler(load(path), "ddim"), 2, 3, prompts=EVALUATED, record=True)
        for path in (folder / "sd", packed)
    )
    assert scores["mse_of_each_step"] == trajectory_mse(full.trajectory, found.trajectory).tolist()
    assert scores["last_step_mse"] == scores["mse_of_each_step"][-1] > 0
    assert scores["image_psnr"] == image_psnr(full.images, found.images)
    assert f"image_psnr: {scores['image_psnr']:.4g}" in capsys.readouterr().out


def test_equal_images_have_no_psnr_that_json_could_write(folder, tmp_path, capsys):
    out = tmp_path / "scores.json"
    argv = ["evaluate", "--model", str(folder / "sd"), "--original", str(folder / "sd"), "--n", "2"]
    assert main([*argv, "--steps", "2", "--prompt", "flag", "--out", str(out)]) == 0
    scores = json.loads(out.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert scores["image_psnr"] is None and scores["mse_of_each_step"] == [0, 0]
    assert "image_psnr: inf" in capsys.readouterr().out


def refused(argv, capsys):
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert err.count("error:") == 1
    return err


def test_coloured_images_are_not_scored_against_grey_ones(folder, monkeypatch, capsys):
    monkeypatch.setattr(cli, "draw", lambda *args: pytest.fail("drawn before the check"))
    argv = ["evaluate", "--model", str(folder / "sd"), "--against", "fashion-mnist", "--prompt", "flag"]
    assert "the images have 3 channels, those of Fashion-MNIST have 1: compare" in refused(argv, capsys)


def test_calibration_prompts_are_not_evaluated_on(packed, folder, capsys):
    argv = ["evaluate", "--model", str(packed), "--original", str(folder / "sd"), "--n", "2"]
    line = refused([*argv, "--prompt", "dog", "--prompt", "Red apple "], capsys)
    assert "1 of 2 prompts were calibrated on, the first is 'Red apple '" in line


@pytest.mark.parametrize(
    "content, message",
    [(None, "no prompts file"), (b"\n", "give at least one prompt"), (b"caf\xe9", "is not UTF-8")],
    ids=["missing", "empty", "latin-1"],
)
@pytest.mark.parametrize("command", ["quantize", "sample"])
def test_wrong_prompts_files(command, content, message, tmp_path, capsys):
    path = tmp_path / "prompts.txt"
    if content is not None:
        path.write_bytes(content)
    out = tmp_path / ("new" if command == "quantize" else "new.png")
    line = refused([command, "--model", "no-model", "--prompts", str(path), "--out", str(out)], capsys)
    assert message in line and not out.exists()


def test_a_text_model_without_prompts(folder, tmp_path, capsys):
    argv = ["sample", "--model", str(folder / "sd"), "--out", str(tmp_path / "new.png")]
    assert "--prompt 'red apple', or --prompts" in refused(argv, capsys)


def test_prompts_for_a_model_without_text(tmp_path, capsys):
    latent_diffusion().save_pretrained(tmp_path / "ldm")
    argv = [
        "sample",
        "--model",
        str(tmp_path / "ldm"),
        "--prompt",
        "flag",
        "--out",
        str(tmp_path / "new.png"),
    ]
    assert "LDMPipeline takes no text" in refused(argv, capsys)
