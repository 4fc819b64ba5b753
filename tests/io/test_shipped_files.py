"""The files of the shipped models are those of the manifest, by name and by path."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from tampering import (
    CONFIG,
    INDEX,
    SAMPLER,
    TENSORS,
    nested,
)

from qdiff_lib import load
from qdiff_lib.io import shipped_data

ROOT = Path(__file__).parents[2]


@pytest.fixture
def data(written, tmp_path, monkeypatch):
    """A data folder with one shipped model, and a manifest of it."""
    sys.path.insert(0, str(ROOT / "training"))
    from manifest import manifest

    sys.path.remove(str(ROOT / "training"))
    folder = tmp_path / "data"
    shutil.copytree(written, folder / "models" / "tiny")
    (folder / "MANIFEST.json").write_text(json.dumps(manifest(folder)))
    monkeypatch.setattr(shipped_data, "data_folder", lambda: folder)
    return folder


def test_every_file_of_a_shipped_model_is_listed():
    listed = shipped_data.manifest()
    names = {path.rpartition("/")[2] for path in listed if path.startswith("models/sd-emoji/")}
    assert {
        "model_index.json",
        "config.json",
        "scheduler_config.json",
        "merges.txt",
        "tokenizer.json",
    } <= names
    assert "prompts/emoji.txt" in listed and not any(path.endswith("README.md") for path in listed)


@pytest.mark.parametrize("by_path", [False, True], ids=["name", "path"])
@pytest.mark.parametrize("name", [INDEX, CONFIG, SAMPLER, TENSORS])
def test_a_changed_file_of_a_shipped_model(data, monkeypatch, by_path, name):
    given = os.path.relpath(data / "models" / "tiny") if by_path else "tiny"
    assert load(given) is not None
    content = (data / "models" / "tiny" / name).read_bytes()
    (data / "models" / "tiny" / name).write_bytes(content.replace(b" ", b"\t", 1))
    with pytest.raises(shipped_data.DamagedFileError, match=f"{Path(name).name} is damaged: its SHA-256"):
        load(given)
    (data / "models" / "tiny" / name).unlink()
    with pytest.raises((FileNotFoundError, ValueError), match=f"{Path(name).name}|is no model"):
        load(given)


def test_an_added_file_of_a_shipped_model(data):
    (data / "models" / "tiny" / "unet" / "other.json").write_text("{}")
    with pytest.raises(ValueError, match="other.json' is not in MANIFEST.json"):
        load("tiny")


@pytest.mark.parametrize(
    "content", [None, "{}", "[]", '{"files": []}', '{"files": {"a": 1}}', nested(100_000)]
)
def test_a_broken_manifest_concerns_shipped_files_only(data, folder, content):
    (data / "MANIFEST.json").unlink()
    if content is not None:
        (data / "MANIFEST.json").write_text(content)
    for given in ("tiny", data / "models" / "tiny"):
        with pytest.raises(
            (FileNotFoundError, shipped_data.DamagedFileError), match="MANIFEST.json is"
        ) as error:
            load(given)
        assert "\n" not in str(error.value) and "git checkout -- data" in str(error.value)
    assert load(folder) is not None


def test_own_folders_load_without_any_shipped_data(folder, monkeypatch, tmp_path):
    monkeypatch.setattr(shipped_data, "__file__", str(tmp_path / "qdiff_lib/io/shipped_data.py"))
    assert load(folder) is not None
    with pytest.raises(ValueError, match="name_or_path='ddpm-fashion' is no model"):
        load("ddpm-fashion")
