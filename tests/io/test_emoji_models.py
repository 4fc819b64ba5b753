"""The shipped emoji models: their size, their parts, and that a prompt decides what is drawn."""

import pytest
import torch
from diffusers import LDMPipeline, StableDiffusionPipeline

from qdiff_lib import load
from qdiff_lib.io.shipped_data import data_folder


@pytest.mark.parametrize(
    "name, kind, megabytes", [("sd-emoji", StableDiffusionPipeline, 40), ("ldm-emoji", LDMPipeline, 20)]
)
def test_the_models_are_whole_and_small(name, kind, megabytes):
    assert type(load(name)) is kind
    files = (data_folder() / "models" / name).rglob("*.safetensors")
    assert sum(path.stat().st_size for path in files) <= megabytes * 1e6
    configs = (data_folder() / "models" / name).rglob("config.json")
    assert not [path for path in configs if "_name_or_path" in path.read_text()]


def test_text_is_attended_to_at_several_levels():
    levels = {
        name.split(".")[1] for name, _ in load("sd-emoji").unet.named_modules() if ".attn2.to_q" in name
    }
    assert len(levels) >= 2


@pytest.mark.slow
def test_a_prompt_decides_the_colour():
    prompts, red, green, blue = ["red apple", "green apple"], 0, 1, 2
    options = dict(num_inference_steps=20, guidance_scale=5.0, output_type="pt")
    images = load("sd-emoji")(prompts, generator=torch.Generator().manual_seed(0), **options).images
    middle = images[:, :, 24:40, 24:40].mean(dim=(2, 3))  # (2, 3)
    assert middle[0, red] > 2 * middle[0, green] and middle[0, red] > 2 * middle[0, blue]
    assert middle[1, green] > middle[1, red] and middle[1, green] > 1.5 * middle[1, blue]


@pytest.mark.slow
def test_unconditional_pictures_lie_on_white():
    images = load("ldm-emoji")(batch_size=4, num_inference_steps=20, output_type="np").images
    corners = images[:, [0, 0, -1, -1], [0, -1, 0, -1]]  # (4, 4, 3)
    assert corners.mean() > 0.9 and images.std() > 0.1
