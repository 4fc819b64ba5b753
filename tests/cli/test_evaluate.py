"""The command ``evaluate``: what cannot be compared is refused before anything is drawn."""

import pytest
from latent_models import stable_diffusion
from tiny_models import ddim, unet2d

from qdiff_lib.cli import main as cli
from qdiff_lib.evaluation import features, reference_images

MODELS = {"grey": ddim, "wide": lambda: ddim(unet2d(sample_size=16)), "texts": stable_diffusion}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with the models."""
    folder = tmp_path_factory.mktemp("models")
    for name, make in MODELS.items():
        make().save_pretrained(folder / name)
    return folder


@pytest.fixture(autouse=True)
def undrawn(monkeypatch, saved):
    """To draw fails the test."""
    monkeypatch.chdir(saved)
    monkeypatch.setattr(cli, "draw", lambda *args, **kwargs: pytest.fail("it was drawn"))


def refused(capsys, *more: str) -> str:
    """The one line with which the command ends, after the progress bars of loading."""
    assert cli.main(["evaluate", "--model", "./grey", *more]) == 2
    *bars, line = capsys.readouterr().err.splitlines()
    assert not any("error" in bar for bar in bars)
    return line


@pytest.mark.parametrize("other", ["wide", "texts"])
def test_another_original(other, capsys):
    line = refused(capsys, "--original", f"./{other}")
    assert f"--original ./{other}: " in line and "name the model that was quantized" in line


@pytest.mark.parametrize(
    ("module", "name"), [(features, "extractor_named"), (reference_images, "test_images")]
)
def test_files_that_a_score_lacks(module, name, monkeypatch, capsys):
    def missing(*_):
        raise FileNotFoundError(f"{name} is missing: get it again")

    monkeypatch.setattr(module, name, missing)
    assert f"{name} is missing" in refused(capsys, "--against", "fashion-mnist")
