"""Converted checkpoints compute what the original networks compute, and wrong files say what is wrong."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from compvis_reference import FirstStage, UNet
from diffusers import LDMPipeline
from safetensors.torch import save_file

from qdiff_lib import Recipe, load, quantize, sample
from qdiff_lib.graph.networks import build
from qdiff_lib.io.compvis import ORIGINALS, convert, stage_config, unet_places

GROUPS, BETAS = 4, {"ldm4-bedrooms": 0.0195, "ldm8-churches": 0.0155}


def narrow(name):
    """One of the originals at reduced width: the description and the reference networks."""
    original, four = ORIGINALS[name], name == "ldm4-bedrooms"
    widths = (8, 16, 24, 32) if four else (8, 16, 16, 32, 32)
    unet = dict(original.unet, block_out_channels=widths, norm_num_groups=GROUPS, sample_size=16)
    unet |= (
        dict(attention_head_dim=4)
        if four
        else dict(attention_head_dim=8, _heads=2, attn_norm_num_groups=GROUPS)
    )
    channels, stage_widths = unet["in_channels"], (4, 8, 8) if four else (4, 8, 8, 8)
    stage = dict(stage_config(stage_widths, channels), norm_num_groups=GROUPS, sample_size=32)
    stage |= dict(num_vq_embeddings=16, vq_embed_dim=channels) if four else {}
    attended, heads = ((1, 2, 3), lambda width: width // 4) if four else ((0, 1, 2, 3), lambda width: 2)
    networks = (
        UNet(channels, widths, attended, heads, GROUPS, residual_resampling=not four),
        FirstStage(channels, stage_widths, GROUPS, codes=16 if four else None),
    )
    return replace(original, unet=unet, stage=stage), *networks


def checkpoint(unet, stage, name, average=True):
    """All tensors as the released file has them; with averages, the UNet's own are others."""
    state = {f"first_stage_model.{key}": value for key, value in stage.state_dict().items()}
    state |= {"first_stage_model.loss.discriminator.weight": torch.zeros(3), "betas": torch.zeros(9)}
    state |= {} if name == "ldm4-bedrooms" else {"scale_factor": torch.tensor(0.25)}
    for key, value in unet.state_dict().items():
        state[f"model.diffusion_model.{key}"] = torch.zeros_like(value) if average else value
        if average:
            state["model_ema.diffusion_model" + key.replace(".", "")] = value
    return {key: value.contiguous() for key, value in state.items()}


def seeded(name):
    """The description and the reference networks, with the same random weights each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        original, unet, stage = narrow(name)
    return original, unet.eval(), stage.eval()


@pytest.fixture(scope="module", params=ORIGINALS)
def case(request):
    return request.param, *seeded(request.param)


@torch.no_grad()
def test_the_converted_networks_compute_the_same(case, tmp_path):
    name, original, unet, stage = case
    save_file(checkpoint(unet, stage, name), tmp_path / "model.safetensors")
    convert(tmp_path / "model.safetensors", original).save_pretrained(tmp_path / "converted")
    pipe = load(tmp_path / "converted")
    assert type(pipe) is LDMPipeline
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, original.unet["in_channels"], 16, 16, generator=generator)
    times = torch.tensor([3, 700])
    torch.testing.assert_close(pipe.unet(latents, times).sample, unet(latents, times), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        pipe.vqvae.decode(latents).sample, stage.decoded(latents), rtol=1e-4, atol=1e-4
    )
    images = torch.randn(1, 3, 32, 32, generator=generator)
    found = pipe.vqvae.encode(images)
    found = found.latents if hasattr(found, "latents") else found.latent_dist.mean
    torch.testing.assert_close(found, stage.encoded(images), rtol=1e-4, atol=1e-4)


PLAIN = """
import qdiff_lib, sys, torch
from diffusers import DiffusionPipeline
for folder in sys.argv[1:]:
    pipe = DiffusionPipeline.from_pretrained(folder)
    latents = torch.randn(1, pipe.unet.config.in_channels, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.save(pipe.unet(latents, torch.tensor([3])).sample, folder + "/found.pt")
"""


@torch.no_grad()
@pytest.mark.parametrize(
    "quantized", [pytest.param(False, marks=pytest.mark.exhaustive), True], ids=["converted", "quantized"]
)
def test_plain_diffusers_computes_the_same(tmp_path, quantized):
    """In one process for both originals, which imports neither this test nor the converter."""
    expected = {}
    for name in ORIGINALS:
        original, unet, stage = seeded(name)
        save_file(checkpoint(unet, stage, name), tmp_path / "model.safetensors")
        pipe = convert(tmp_path / "model.safetensors", original)
        if quantized:
            pipe = quantize(pipe, Recipe.linear(steps=2, samples=4, sampler="ddim"), progress=False)
        pipe.save_pretrained(tmp_path / name)
        channels = original.unet["in_channels"]
        latents = torch.randn(1, channels, 16, 16, generator=torch.Generator().manual_seed(0))
        expected[tmp_path / name] = pipe.unet(latents, torch.tensor([3])).sample
    subprocess.run([sys.executable, "-c", PLAIN, *map(str, expected)], check=True)
    for folder, value in expected.items():
        found = torch.load(folder / "found.pt", weights_only=True)
        torch.testing.assert_close(found, value, rtol=1e-4, atol=1e-5)


def test_schedule_and_scale_are_the_originals(case, tmp_path):
    name, original, unet, stage = case
    torch.save({"state_dict": checkpoint(unet, stage, name, average=False)}, tmp_path / "model.ckpt")
    pipe = convert(tmp_path / "model.ckpt", original)
    betas = torch.linspace(0.0015**0.5, BETAS[name] ** 0.5, 1000, dtype=torch.float64) ** 2
    torch.testing.assert_close(pipe.scheduler.betas.double(), betas, rtol=1e-5, atol=0)
    assert pipe.vqvae.config.scaling_factor == (1.0 if name == "ldm4-bedrooms" else 0.25)
    pipe.scheduler.set_timesteps(200)
    assert pipe.scheduler.timesteps[[0, -1]].tolist() == [996, 1]
    assert pipe.scheduler.final_alpha_cumprod == pipe.scheduler.alphas_cumprod[0]
    assert sample(pipe, 1, 2).images.shape[:2] == (1, 3)


@pytest.mark.parametrize("name", ORIGINALS)
def test_every_parameter_of_the_full_size_has_one_place(name):
    config = ORIGINALS[name].unet
    modules = dict(build(config, device="meta").named_modules())
    places = list(unet_places(config).values())
    assert len(set(places)) == len(places) and set(places) <= modules.keys()
    kept = [parameter for name, parameter in build(config, "meta").named_parameters()]
    found = [p for place in places for p in modules[place].parameters()]
    assert len(found) == len(kept) and sum(p.numel() for p in found) == sum(p.numel() for p in kept)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint '.*model.ckpt'"):
        convert(tmp_path / "model.ckpt", ORIGINALS["ldm4-bedrooms"])


class Callback:
    """What a training framework leaves in a checkpoint."""


def test_a_file_with_more_than_tensors_is_not_run(tmp_path):
    torch.save({"state_dict": {}, "callbacks": Callback()}, tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match="holds more than tensors.*save its state_dict as safetensors"):
        convert(tmp_path / "model.ckpt", ORIGINALS["ldm4-bedrooms"])


@pytest.mark.parametrize("name", ["model.ckpt", "model.safetensors"])
@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\x80\x02abc", b"\xff" * 99], ids=["empty", "text", "pickle", "noise"]
)
def test_bytes_that_are_no_checkpoint(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(
        ValueError, match=f"{name}' is damaged, or it holds more than tensors.*: get it again"
    ):
        convert(tmp_path / name, ORIGINALS["ldm4-bedrooms"])


@pytest.mark.parametrize("new", [True, False], ids=["zip", "pickle"])
def test_a_cut_checkpoint(new, tmp_path):
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": {"a": torch.zeros(99)}}, path, _use_new_zipfile_serialization=new)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match="model.ckpt' is damaged"):
        convert(path, ORIGINALS["ldm4-bedrooms"])


@pytest.mark.parametrize("held, kind", [([torch.zeros(2)], "list"), ({"state_dict": None}, "NoneType")])
def test_a_file_of_other_things(held, kind, tmp_path):
    torch.save(held, tmp_path / "model.ckpt")
    with pytest.raises(ValueError, match=f"model.ckpt' holds a {kind}, not tensors by name"):
        convert(tmp_path / "model.ckpt", ORIGINALS["ldm4-bedrooms"])


def test_another_model_is_refused(case, tmp_path):
    name, original, unet, stage = case
    state = checkpoint(unet, stage, name, average=False)
    path = tmp_path / "model.safetensors"
    save_file({**state, "model.diffusion_model.label_emb.weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="UNet has 'label_emb.weight', which this model has no place for"):
        convert(path, original)
    save_file({k: v for k, v in state.items() if "time_embed.0" not in k}, path)
    with pytest.raises(
        ValueError, match="UNet is of another model: 'time_embedding.linear_1.weight' has shape None"
    ):
        convert(path, original)
    save_file({k: v for k, v in state.items() if "post_quant_conv" not in k}, path)
    with pytest.raises(ValueError, match="first stage is of another model: 'post_quant_conv.weight'"):
        convert(path, original)
