"""Hostile folders: JSON and the settings in it are not believed unchecked."""

import logging.handlers
import os
import time
from pathlib import Path

import pytest
from diffusers import DiffusionPipeline, UNet2DModel
from tampering import (
    CONFIG,
    INDEX,
    SAMPLER,
    config,
    edit_json,
    nested,
    plain_checkpoint,
    sampler,
)

from qdiff_lib import load
from qdiff_lib.io import settings
from qdiff_lib.utils.files import DEEPEST_JSON, LARGEST_JSON, read_json


@pytest.fixture(autouse=True)
def few_modules(monkeypatch):
    """Fewer than the library allows, which takes some seconds."""
    monkeypatch.setattr(settings, "MOST_MODULES", 500)


@pytest.mark.parametrize("name", [INDEX, CONFIG, SAMPLER])
@pytest.mark.parametrize("levels", [DEEPEST_JSON, 400, 100_000])
def test_deep_json(folder, name, levels):
    (folder / name).write_text(f'{{"a": {nested(levels)}}}')
    with pytest.raises(ValueError, match=f"{Path(name).name} is damaged, it is n"):
        load(folder)


@pytest.mark.parametrize("name", [INDEX, CONFIG, SAMPLER])
def test_huge_json(folder, name):
    with open(folder / name, "ab") as file:
        file.truncate(10**9)  # a sparse file
    with pytest.raises(ValueError, match=f"{Path(name).name} is damaged, it has 1000000000 bytes"):
        load(folder)


def test_json_at_its_limits(tmp_path):
    (tmp_path / "a.json").write_text(f'{{"a": {nested(DEEPEST_JSON - 1)}}}')
    assert read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("{}" + " " * (LARGEST_JSON - 2))
    assert read_json(tmp_path / "a.json") == {}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("name", [INDEX, CONFIG, "unet/other.safetensors"])
def test_a_pipe_in_place_of_a_file_does_not_hang(folder, name):
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(ValueError, match="no ordinary file|no model_index.json"):
        load(folder)


LEVELS = dict(block_out_channels=[12], down_block_types=["DownBlock2D"], up_block_types=["UpBlock2D"])
SETTINGS = {
    "not-a-multiple": (
        config(sample_size=15),
        "config.json has sample_size=15, at which this network cannot run",
    ),
    "zero": (config(sample_size=0), "sample_size=0, which must be from 1"),
    "negative": (config(sample_size=-4), "sample_size=-4, which must be from 1"),
    "huge": (config(sample_size=10**6), "sample_size=1000000, which must be from 1"),
    "pair": (config(sample_size=[8, 15]), r"sample_size=\[8, 15\], at which"),
    "three": (config(sample_size=[8, 8, 8]), "neither a number of pixels nor two"),
    "null": (config(sample_size=None), "sample_size=None, neither a number"),
    "text": (config(sample_size="8"), "sample_size='8', not a list or a whole number or null"),
    "layers": (config(layers_per_block=10**9), "layers_per_block=1000000000, which must be"),
    "levels": (config(down_block_types=["DownBlock2D"] * 10**5), "down_block_types of 100000 entries"),
    "products": (
        config(layers_per_block=20, sample_size=64, **{k: v * 4 for k, v in LEVELS.items()}),
        "it would have more than 500 modules",
    ),
    "infinite": (config(norm_eps=float("inf")), "norm_eps=inf, which must be from"),
    "nan": (config(norm_eps=float("nan")), "norm_eps=nan, which must be from"),
    "no-factor": (config(mid_block_scale_factor=0), "mid_block_scale_factor=0, which must be from"),
    "groups": (config(norm_num_groups=5), "config.json: no UNet2DModel has these settings"),
    "class": (
        config(_class_name="UNet2DConditionModel"),
        "_class_name='UNet2DConditionModel', and a UNet2DMo",
    ),
}


@pytest.mark.parametrize("change, message", SETTINGS.values(), ids=SETTINGS.keys())
@pytest.mark.parametrize("quantized", [True, False], ids=["quantized", "plain"])
def test_settings_of_a_network(folder, text_folder, quantized, change, message):
    if not quantized:  # the same settings in a folder whose UNet has its weights
        DiffusionPipeline.from_pretrained(folder).unet  # noqa: B018  the folder is whole
        plain_checkpoint(folder)
    change(folder)
    with pytest.raises(ValueError, match=message):
        load(folder)


@pytest.mark.parametrize(
    "size, message", [(15, "sample_size=15, at which"), (0, "sample_size=0, which must")]
)
def test_from_pretrained_refuses_a_size_that_cannot_run(folder, size, message):
    config(sample_size=size)(folder)
    for read in (DiffusionPipeline.from_pretrained, lambda f: UNet2DModel.from_pretrained(f / "unet")):
        with pytest.raises(ValueError, match=message):
            read(folder)


NOISE = {
    "too-large": (sampler(beta_end=1e38), r"beta_end=1e\+38, which must be from 0 to 1"),
    "negative": (sampler(beta_start=-1, beta_end=-2), "beta_start=-1, which must be from 0 to 1"),
    "nan": (sampler(beta_start=float("nan")), "beta_start=nan, which must be"),
    "text": (sampler(beta_start="0.1"), "beta_start='0.1', not a number"),
    "trained": (sampler(trained_betas=[0.1] * 99 + [2.0]), "give betas of 2, not from 0 to 1"),
    "few-trained": (sampler(trained_betas=[]), "num_train_timesteps=100, and there are 0 betas"),
    "no-noise": (sampler(beta_start=0), "give betas of 0, not from 0 to 1"),
    "fraction": (sampler(steps_offset=0.5), "steps_offset=0.5, not a whole number"),
    "beyond": (sampler(steps_offset=50), "its settings do not fit each other"),
    "times": (sampler(num_train_timesteps=10**12), "num_train_timesteps=1000000000000, which must"),
    "schedule": (sampler(beta_schedule="none"), "no DDPMScheduler has these settings"),
    "clipped": (sampler(clip_sample_range=float("inf")), "clip_sample_range=inf, which must"),
}


@pytest.mark.parametrize("change, message", NOISE.values(), ids=NOISE.keys())
def test_settings_of_a_sampler(folder, change, message):
    change(folder)
    with pytest.raises(ValueError, match=f"scheduler_config.json.*{message}"):
        load(folder)


def part(name, **entries):
    """Change entries of a JSON file."""
    return lambda folder: edit_json(folder / name, lambda value: value.update(entries))


CODER = dict(down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2)
TEXT, WORDS, VAE = "text_encoder/config.json", "tokenizer/tokenizer_config.json", "vae/config.json"
OF_TEXTS = {
    "layers": (part(TEXT, num_hidden_layers=100), "text_encoder/config.json: .* more than 500 modules"),
    "width": (part(TEXT, hidden_size=2**16), "describes a network of 17,187,536,912 numbers, and its files"),
    "labels": (part(TEXT, num_labels=10**9), "num_labels=1000000000, which must be from 0 to 10000"),
    "inside": (part(TEXT, text_config={"num_hidden_layers": -1}), "num_hidden_layers=-1, which must be"),
    "kernel-inside": (part(TEXT, text_config={"_attn_implementation": "a/b"}), "which can be code"),
    "heads": (part(TEXT, num_attention_heads=0), "no CLIPTextModel has these settings"),
    "type": (part(TEXT, dtype="int8"), r"cannot be loaded \(.*int8"),
    **{
        f"words-{length}": (part(WORDS, model_max_length=length), "the text encoder reads 1 to 16 words")
        for length in (10**9, 10**30, 17, 0, -5, None, "16")
    },
    "vae-layers": (
        part(VAE, layers_per_block=20, block_out_channels=[4] * 8, **{k: v * 4 for k, v in CODER.items()}),
        "AutoencoderKL has these settings .it would have more than 500 modules",
    ),
    "vae-levels": (part(VAE, **{k: v[:1] for k, v in CODER.items()}), "vae/config.json: .* can decode with"),
    "vae-width": (part(VAE, block_out_channels=[2048, 2048]), "numbers, and its files hold"),
}


@pytest.mark.parametrize("change, message", OF_TEXTS.values(), ids=OF_TEXTS.keys())
def test_settings_of_texts_and_of_the_autoencoder(text_folder, change, message):
    change(text_folder)
    start = time.process_time()
    with pytest.raises(ValueError, match=message):
        load(text_folder)
    assert time.process_time() - start < 5


def test_a_text_encoder_reads_as_many_words_as_its_tokenizer_gives(text_folder):
    part(WORDS, model_max_length=15)(text_folder)
    assert load(text_folder).tokenizer.model_max_length == 15


def test_of_weights_that_do_not_fit_one_is_named_and_no_table_is_printed(text_folder):
    part(TEXT, hidden_size=14)(text_folder)
    printed = logging.handlers.BufferingHandler(100)
    logging.getLogger("transformers").addHandler(printed)
    try:
        with pytest.raises(ValueError, match="lacks the weight 'embeddings.position_embedding.weight'"):
            load(text_folder)
    finally:
        logging.getLogger("transformers").removeHandler(printed)
    assert not printed.buffer
