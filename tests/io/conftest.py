"""Folders that the tests of hostile files change: a quantized checkpoint, and a model with a text encoder."""

import shutil

import pytest
from latent_models import stable_diffusion
from tampering import write_checkpoint


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """A quantized checkpoint; do not change it."""
    folder = tmp_path_factory.mktemp("written") / "saved"
    write_checkpoint(folder)
    return folder


@pytest.fixture(scope="session")
def text_model(tmp_path_factory):
    """A pipeline with a text encoder, not quantized; do not change it."""
    folder = tmp_path_factory.mktemp("text") / "model"
    stable_diffusion().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(written, tmp_path):
    """A copy of the checkpoint."""
    return shutil.copytree(written, tmp_path / "saved")


@pytest.fixture
def text_folder(text_model, tmp_path):
    """A copy of the pipeline with a text encoder."""
    return shutil.copytree(text_model, tmp_path / "text")
