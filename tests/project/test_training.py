"""The training scripts: a killed training resumes and ends with the same bits; emoji are read right."""

import gzip
import importlib
import io
import itertools
import json
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler
from PIL import Image
from safetensors.torch import load_file

from qdiff_lib import load

TRAINING = Path(__file__).parents[2] / "training"
TINY_UNET = dict(block_out_channels=(8, 8, 8), norm_num_groups=4)
ENTRIES = (  # name, short name, category, subcategory, colour with alpha
    ("RED APPLE", "apple", "Food & Drink", "food-fruit", (255, 0, 0, 255)),
    ("CAT FACE", "cat", "Animals & Nature", "animal-mammal", (0, 0, 0, 0)),
    ("T-SHIRT", "shirt", "Objects", "clothing", (0, 0, 255, 255)),
    ("Japan Flag", "jp", "Flags", "country-flag", (255, 255, 255, 255)),
    ("Egypt Flag", "flag-eg", "Flags", "country-flag", (0, 0, 0, 255)),
    ("PIRATE FLAG", "pirate_flag", "Flags", "flag", (0, 0, 0, 255)),
    ("KEYCAP 1", "one", "Symbols", "keycap", (0, 0, 0, 255)),
    ("MAN", "man", "People & Body", "person", (0, 0, 0, 255)),
)


def png(colour) -> bytes:
    """A picture of one colour; every second column is transparent, so that it has something to learn."""
    picture = Image.new("RGBA", (64, 64), colour)
    for x in range(0, 64, 16):
        picture.paste((0, 0, 0, 0), (x, 0, x + 8, 64))
    buffer = io.BytesIO()
    picture.save(buffer, "png")
    return buffer.getvalue()


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Put one file into an archive."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def write_archive(path: Path, entries=ENTRIES, lost: str = "") -> Path:
    """An archive as npm packs it, without the picture of the short name ``lost``."""
    keys = ("name", "short_name", "category", "subcategory")
    listed = [
        dict(zip(keys, entry[:4], strict=True), image=f"{entry[1]}.png", has_img_google=True)
        for entry in entries
    ]
    with tarfile.open(path, "w:gz") as tar:
        add(tar, "package/emoji.json", json.dumps(listed).encode())
        for entry in entries:
            if entry[1] != lost:
                add(tar, f"package/img/google/64/{entry[1]}.png", png(entry[4]))
    return path


def write_fashion(folder: Path) -> None:
    """Twenty images and labels in the form of Fashion-MNIST."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (20, 28, 28), generator=generator, dtype=torch.uint8)
    for name, header, body in (
        ("images-idx3", b"\x00\x00\x08\x03" + bytes([0, 0, 0, 20, 0, 0, 0, 28, 0, 0, 0, 28]), images),
        ("labels-idx1", b"\x00\x00\x08\x01" + bytes([0, 0, 0, 20]), torch.zeros(20, dtype=torch.uint8)),
    ):
        path = folder / f"train-{name}-ubyte.gz"
        path.write_bytes(gzip.compress(header + body.numpy().tobytes()))


def write_cifar(folder: Path) -> torch.Tensor:
    """Strips of six images for the training, and one left out. Returns the six, uint8 (6, 3, 32, 32)."""
    folder.mkdir()
    pixels = torch.randint(0, 256, (6, 32 * 32, 3), dtype=torch.uint8)
    for name, part in (("data_batch_1", pixels[:4]), ("data_batch_2", pixels[4:]), ("test_batch", pixels)):
        Image.fromarray(part.numpy()).save(folder / f"{name}.png")
    return pixels.unflatten(1, (32, 32)).permute(0, 3, 1, 2)


@pytest.fixture
def script(monkeypatch):
    """The scripts as modules by name, with narrow networks and a checkpoint at every step."""
    monkeypatch.syspath_prepend(str(TRAINING))
    names = (
        "emoji",
        "fitting",
        "cifar10",
        "train_ddpm",
        "train_cifar10",
        "train_autoencoder",
        "train_sd",
        "train_ldm",
        "emoji_card",
        "model_card",
    )
    modules = {name: importlib.import_module(name) for name in names}
    for name, constant, changes in (
        ("train_ddpm", "CONFIG", dict(block_out_channels=(8, 8, 8, 8), layers_per_block=1)),
        ("train_cifar10", "CONFIG", dict(block_out_channels=(8,) * 4, layers_per_block=1, norm_num_groups=4)),
        ("train_autoencoder", "CONFIG", TINY_UNET),
        ("train_sd", "UNET", dict(TINY_UNET, attention_head_dim=2, cross_attention_dim=16)),
        ("train_sd", "TEXT", dict(hidden_size=16, intermediate_size=16)),
        ("train_ldm", "UNET", dict(TINY_UNET, attention_head_dim=4)),
    ):
        monkeypatch.setattr(modules[name], constant, {**getattr(modules[name], constant), **changes})
    monkeypatch.setattr(modules["train_autoencoder"], "CODES", 16)
    monkeypatch.setattr(modules["fitting"], "CHECKPOINT_SECONDS", 0)
    return modules.__getitem__


@pytest.fixture
def data(script, tmp_path):
    """A folder with the data of all trainings, and untrained autoencoders "kl" and "vq"."""
    write_fashion(tmp_path)
    write_archive(tmp_path / "emoji.tgz")
    write_cifar(tmp_path / "cifar")
    module = script("train_autoencoder")
    torch.manual_seed(0)
    kl = AutoencoderKL(**module.CONFIG)
    images = module.to_unit(script("emoji").read_emoji(tmp_path / "emoji.tgz")[0])
    kl.save_pretrained(tmp_path / "kl")
    module.quantized_twin(kl, images, seed=0).save_pretrained(tmp_path / "vq")
    for kind in ("kl", "vq"):
        (tmp_path / kind / "training.json").write_text(json.dumps({"command": f"autoencoder {kind}"}))
    return tmp_path


def options(name: str, data: Path) -> list[str]:
    """What a training is told about its data."""
    return {
        "train_ddpm": ["--data", str(data)],
        "train_cifar10": ["--data", str(data / "cifar")],
        "train_autoencoder kl": ["--kind", "kl", "--data", str(data / "emoji.tgz")],
        "train_autoencoder vq": [
            "--kind",
            "vq",
            "--data",
            str(data / "emoji.tgz"),
            "--start",
            str(data / "kl"),
        ],
        "train_sd": ["--data", str(data / "emoji.tgz"), "--autoencoder", str(data / "kl")],
        "train_ldm": ["--data", str(data / "emoji.tgz"), "--autoencoder", str(data / "vq")],
    }[name]


def run(name: str, script, monkeypatch, data: Path, folder: str, steps: int = 4, more: tuple = ()) -> Path:
    """The documented command, on little data; returns the folder of the trained model."""
    common = [*more, "--steps", str(steps), "--batch-size", "4", "--seed", "3", "--device", "cpu"]
    folders = ["--work", str(data / folder / "work"), "--out", str(data / folder / "out")]
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *common, *folders, *options(name, data)])
    script(name.split()[0]).main()
    return data / folder / "out"


def weights(folder: Path) -> dict:
    """All tensors of a saved model, by file and name."""
    return {
        f"{path.relative_to(folder)}/{name}": value
        for path in sorted(folder.rglob("*.safetensors"))
        for name, value in load_file(path).items()
    }


def assert_same_weights(first: Path, second: Path) -> None:
    first, second = weights(first), weights(second)
    assert first.keys() == second.keys() and first
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


@pytest.fixture
def killed_after_two(script, monkeypatch):
    """Run a training until its second checkpoint is written."""

    def killed(*args):
        save, count = script("fitting").save_state, iter(range(2))

        def save_and_die(*state):
            save(*state)
            if next(count) == 1:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(script("fitting"), "save_state", save_and_die)
            with pytest.raises(KeyboardInterrupt):
                run(*args)

    return killed


@pytest.mark.parametrize(
    "name",
    ["train_ddpm", "train_cifar10", "train_autoencoder kl", "train_autoencoder vq", "train_sd", "train_ldm"],
)
def test_a_killed_training_ends_with_the_same_bits(name, script, monkeypatch, data, killed_after_two):
    whole = run(name, script, monkeypatch, data, "whole")
    killed_after_two(name, script, monkeypatch, data, "killed")
    assert not (data / "killed/out").exists()
    assert_same_weights(whole, run(name, script, monkeypatch, data, "killed"))
    record = json.loads((whole / "training.json").read_text())
    assert record["steps"] == 4 and len(record["losses"]) == 1
    if name in ("train_sd", "train_ldm"):
        assert record["images"] == 5 and record["autoencoder"]["command"].startswith("autoencoder")
        assert not [path for path in whole.rglob("config.json") if "_name_or_path" in path.read_text()]


def test_a_training_goes_on_from_a_trained_model(script, monkeypatch, data):
    first = run("train_ddpm", script, monkeypatch, data, "first")
    still = run("train_ddpm", script, monkeypatch, data, "still", more=("--start", str(first), "--lr", "0"))
    assert_same_weights(first, still)
    record = json.loads((still / "training.json").read_text())
    assert record["command"].endswith(f"--lr 0 --weights min-snr --start {first}")
    assert record["start"] == json.loads((first / "training.json").read_text())
    assert [each["lr"] for each in script("model_card").trainings(record)] == [0.001, 0]


def test_the_weights_of_the_loss(script):
    fitting, scheduler = script("fitting"), DDPMScheduler()
    t = torch.tensor([0, 100, 999])
    snr = scheduler.alphas_cumprod[t] / (1 - scheduler.alphas_cumprod[t])
    assert fitting.min_snr(snr).tolist() == pytest.approx([5 / 9999, 5 / 8.54, 1], rel=0.01)
    assert fitting.balanced(snr).tolist() == pytest.approx([0.1, 8.54**-0.5, 157.4], rel=0.01)
    drawn = fitting.Draw(None, torch.zeros(3, 1, 2, 2), t, None)
    predicted = torch.tensor([0.0, 2.0, 1.0]).view(3, 1, 1, 1).expand(3, 1, 2, 2)
    loss, error = fitting.noise_loss(scheduler, predicted, drawn, fitting.balanced)
    assert (loss.item(), error.item()) == pytest.approx(((4 * 8.54**-0.5 + 157.4) / 3, 5 / 3), rel=0.01)


def trained_by_the_clock(script, monkeypatch, data, name, seconds):
    """The record of a training that ends after ``seconds``."""
    monkeypatch.setattr(sys, "argv", [
        "train_ddpm.py", "--seconds", seconds, "--batch-size", "4", "--device", "cpu", "--data", str(data),
        "--work", str(data / name / "work"), "--out", str(data / name / "out"),
    ])  # fmt: skip
    script("train_ddpm").main()
    return json.loads((data / name / "out/training.json").read_text())


def test_a_training_by_the_clock_ends_at_its_time(script, monkeypatch, data):
    record = trained_by_the_clock(script, monkeypatch, data, "clock", "0.5")
    assert record["steps"] >= 1 and "--seconds 0.5 --batch-size 4" in record["command"]


def test_the_last_step_before_the_end_of_the_time_is_kept(script, monkeypatch, data):
    """The time ends between two looks at the clock, which goes 0.4 s on at each look."""
    clock = itertools.count(step=0.4)
    monkeypatch.setattr(script("fitting"), "CHECKPOINT_SECONDS", 1e9)
    monkeypatch.setattr(script("fitting").time, "monotonic", lambda: next(clock))
    record = trained_by_the_clock(script, monkeypatch, data, "end", "1")
    assert record["steps"] >= 1 and record["losses"]


def test_strips_of_images_are_read_without_the_test_images(script, tmp_path):
    written = write_cifar(tmp_path / "cifar")
    assert torch.equal(script("cifar10").read_cifar10(tmp_path / "cifar"), written)
    with pytest.raises(ValueError, match="has no pictures.*npm pack"):
        script("cifar10").read_cifar10(tmp_path)
    Image.new("RGB", (1000, 1)).save(tmp_path / "odd.png")
    with pytest.raises(ValueError, match="odd.png has 1000 pixels"):
        script("cifar10").read_cifar10(tmp_path)


def test_a_finished_training_can_be_given_more_steps_but_not_fewer(script, monkeypatch, data):
    run("train_ldm", script, monkeypatch, data, "twice", steps=2)
    longer = run("train_ldm", script, monkeypatch, data, "twice", steps=4)
    assert_same_weights(run("train_ldm", script, monkeypatch, data, "once", steps=4), longer)
    with pytest.raises(ValueError, match="steps=3.*already at step 4"):
        run("train_ldm", script, monkeypatch, data, "twice", steps=3)


def test_training_lowers_the_loss(script, monkeypatch, data):
    monkeypatch.setattr(script("fitting"), "CHECKPOINT_SECONDS", 1e9)  # they take most of the time
    out = run("train_autoencoder kl", script, monkeypatch, data, "longer", steps=150)
    first, *_, last = json.loads((out / "training.json").read_text())["losses"]
    assert last < 0.8 * first


def test_the_text_pipeline_loads_and_samples(script, monkeypatch, data):
    pipe = load(run("train_sd", script, monkeypatch, data, "sd"))
    assert {p.dtype for part in (pipe.unet, pipe.vae, pipe.text_encoder) for p in part.parameters()} == {
        torch.float32
    }
    ids = script("train_sd").to_ids(pipe.tokenizer, ["red apple", "t shirt, clothing", ""])
    assert ids.shape == (3, 16) and pipe.tokenizer.decode(ids[1]).startswith(
        "<|startoftext|>t shirt , clothing"
    )
    images = pipe(["red apple", ""], num_inference_steps=2, guidance_scale=3.0, output_type="pt").images
    assert images.shape == (2, 3, 64, 64) and images.isfinite().all()


def test_the_unconditional_pipeline_loads_and_samples(script, monkeypatch, data):
    pipe = load(run("train_ldm", script, monkeypatch, data, "ldm"))
    images = pipe(batch_size=2, num_inference_steps=2, output_type="np").images
    assert images.shape == (2, 64, 64, 3)


def test_emoji_are_read_on_white_with_their_prompts(script, data):
    images, emoji = script("emoji").read_emoji(data / "emoji.tgz")
    assert [each.name for each in emoji] == ["red apple", "cat face", "t shirt", "japan flag", "pirate flag"]
    assert emoji[0].prompts() == ("red apple", "apple", "red apple, food fruit", "food fruit")
    assert emoji[3].prompts() == ("japan flag", "japan flag", "japan flag, country flag", "country flag")
    assert images.shape == (5, 3, 64, 64) and images.dtype == torch.uint8
    assert images[0, :, 0, 0].tolist() == [255, 255, 255]  # transparent
    assert images[0, :, 0, 8].tolist() == [255, 0, 0]


def test_a_bad_archive_is_refused(script, tmp_path):
    read = script("emoji").read_emoji
    with pytest.raises(ValueError, match="no.tgz.*npm pack"):
        read(tmp_path / "no.tgz")
    with pytest.raises(ValueError, match="lacks cat.png"):
        read(write_archive(tmp_path / "cut.tgz", lost="cat"))


def test_the_vq_model_starts_at_the_means_of_the_kl_model(script, data):
    module = script("train_autoencoder")
    images = module.to_unit(script("emoji").read_emoji(data / "emoji.tgz")[0])
    kl, vq = AutoencoderKL.from_pretrained(data / "kl"), module.VQModel.from_pretrained(data / "vq")
    means, codes = module.encode(kl, images), module.encode(vq, images)
    torch.testing.assert_close(codes, means, rtol=1e-4, atol=1e-5)
    codebook = vq.quantize.embedding.weight
    nearest = torch.cdist(codebook, means.permute(0, 2, 3, 1).flatten(0, 2)).amin(dim=1)
    assert nearest.max() < 1e-3


def test_the_learning_rate_needs_no_planned_end(script):
    rate = script("fitting").inverse_root
    assert [rate(step, 2.0, 1000) for step in (99, 199, 999, 3999)] == [1.0, 2.0, 2.0, 1.0]


def test_a_card_counts_the_prompts_that_are_recalled(script, monkeypatch, data):
    card, pictures = script("emoji_card"), script("emoji").read_emoji(data / "emoji.tgz")[0]
    monkeypatch.setattr(card, "PROMPTS", ("red apple", "cat", "clothing"))
    assert "Of these 3, 3 are" in card.recall(pictures[:3], data / "emoji.tgz")
    assert "Of these 3, 1 are" in card.recall(pictures[[0, 2, 1]], data / "emoji.tgz")
