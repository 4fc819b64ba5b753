"""The training scripts: a killed training resumes and ends with the same bits."""

import gzip
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

TRAINING = Path(__file__).parent.parent / "training"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def train_ddpm(monkeypatch, tmp_path):
    """The script as a module, with a narrow UNet, a checkpoint every 2 steps and 20 images of its own."""
    monkeypatch.syspath_prepend(str(TRAINING))
    import train_ddpm

    small = dict(train_ddpm.CONFIG, block_out_channels=(8, 8, 8, 8), layers_per_block=1)
    monkeypatch.setattr(train_ddpm, "CONFIG", small)
    monkeypatch.setattr(train_ddpm, "CHECKPOINT_EVERY", 2)
    images = torch.randint(
        0, 256, (20, 28, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    for name, header, body in (
        ("images-idx3", b"\x00\x00\x08\x03" + bytes([0, 0, 0, 20, 0, 0, 0, 28, 0, 0, 0, 28]), images),
        ("labels-idx1", b"\x00\x00\x08\x01" + bytes([0, 0, 0, 20]), torch.zeros(20, dtype=torch.uint8)),
    ):
        path = tmp_path / f"train-{name}-ubyte.gz"
        path.write_bytes(gzip.compress(header + body.numpy().tobytes()))
    return train_ddpm


def run(script, monkeypatch, folder: Path, data: Path) -> None:
    """The documented command, on little data for 5 steps."""
    options = ["--steps", "5", "--batch-size", "4", "--seed", "3", "--device", "cpu"]
    folders = ["--data", str(data), "--work", str(folder / "work"), "--out", str(folder / "out")]
    monkeypatch.setattr(sys, "argv", ["train_ddpm.py", *options, *folders])
    script.main()


def test_a_killed_training_ends_with_the_same_bits(train_ddpm, monkeypatch, tmp_path):
    run(train_ddpm, monkeypatch, tmp_path / "whole", tmp_path)

    save = train_ddpm.save_state

    def save_and_die(work, model, ema, optimizer, progress):
        save(work, model, ema, optimizer, progress)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train_ddpm, "save_state", save_and_die)
        with pytest.raises(KeyboardInterrupt):
            run(train_ddpm, monkeypatch, tmp_path / "killed", tmp_path)
    assert not (tmp_path / "killed/out").exists()

    run(train_ddpm, monkeypatch, tmp_path / "killed", tmp_path)
    whole, resumed = load_file(tmp_path / "whole/out" / WEIGHTS), load_file(tmp_path / "killed/out" / WEIGHTS)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert any(value.abs().sum() > 0 for value in whole.values())
