"""Names and folders to pipelines; damaged, missing and pickled files."""

import contextlib
import importlib.util
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from diffusers import DDPMPipeline
from tiny_models import ddpm

from qdiff_lib import Recipe, quantize, sample, save_quantized
from qdiff_lib.io import index, models, shipped_data

LABELS = "fashion-mnist/t10k-labels-idx1-ubyte.gz"
ROOT = Path(__file__).parents[2]
TEMPLATE = "/{repo_id}/resolve/{revision}/{filename}"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "tiny"
    ddpm().save_pretrained(folder)
    return folder


@pytest.fixture
def data(tmp_path, saved, monkeypatch):
    """A data folder of our own: one labels file, one embedded model, a manifest of both."""
    folder = tmp_path / "data"
    (folder / "fashion-mnist").mkdir(parents=True)
    shutil.copy(shipped_data.data_folder() / LABELS, folder / LABELS)
    shutil.copytree(saved, folder / "models" / "tiny")
    (folder / "MANIFEST.json").write_text(json.dumps(manifest_module().manifest(folder)))
    monkeypatch.setattr(shipped_data, "data_folder", lambda: folder)
    return folder


def manifest_module():
    spec = importlib.util.spec_from_file_location("manifest", ROOT / "training" / "manifest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def damage(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_the_manifest_is_that_of_the_data():
    stated = json.loads((ROOT / "data" / "MANIFEST.json").read_text())
    assert stated == manifest_module().manifest(), "stale: run python training/manifest.py"


def test_data_folder_of_a_checkout():
    assert shipped_data.data_folder() == ROOT / "data"


def test_data_folder_of_a_wheel(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped_data, "__file__", str(tmp_path / "qdiff_lib/io/shipped_data.py"))
    with pytest.raises(FileNotFoundError, match="git checkout -- data"):
        shipped_data.data_folder()
    for folder in (tmp_path / "data", tmp_path / "qdiff_lib" / "data"):
        folder.mkdir(parents=True)
        (folder / "MANIFEST.json").write_text('{"files": {}}')
        assert shipped_data.data_folder() == folder.resolve()  # the wheel's own folder comes first


def test_a_whole_file_is_given_and_read_once(data, monkeypatch):
    assert shipped_data.verified(LABELS) == data / LABELS
    monkeypatch.setattr(shipped_data, "sha256", lambda path: pytest.fail("read again"))
    shipped_data.verified(LABELS)


def test_a_damaged_file_is_refused_also_after_it_was_whole(data):
    stated = json.loads((data / "MANIFEST.json").read_text())["files"][LABELS]["sha256"]
    shipped_data.verified(LABELS)
    damage(data / LABELS)
    with pytest.raises(shipped_data.DamagedFileError, match=f"{LABELS}.*{stated[:12]}.*git checkout -- data"):
        shipped_data.verified(LABELS)


def test_missing_and_unlisted_files(data):
    with pytest.raises(FileNotFoundError, match="nothing.gz.*git checkout -- data"):
        shipped_data.verified("nothing.gz")
    (data / "new.gz").write_bytes(b"")
    with pytest.raises(ValueError, match="training/manifest.py"):
        shipped_data.verified("new.gz")


@pytest.mark.parametrize("as_type", [str, Path])
def test_load_a_local_folder(saved, as_type):
    pipe = models.load(as_type(saved))
    assert isinstance(pipe, DDPMPipeline) and pipe.device.type == "cpu"
    assert pipe._progress_bar_config == {"disable": True}


def test_load_an_embedded_model(data):
    assert shipped_data.embedded_names() == ["tiny"]
    assert isinstance(models.load("tiny"), DDPMPipeline)


def test_load_refuses_a_damaged_embedded_model(data):
    damage(next((data / "models" / "tiny" / "unet").glob("*.safetensors")))
    with pytest.raises(shipped_data.DamagedFileError, match="unet"):
        models.load("tiny")


def test_load_the_shipped_models():
    for name in shipped_data.embedded_names():
        assert models.load(name).unet is not None


@pytest.mark.parametrize("as_type", [str, Path])
def test_load_a_quantized_checkpoint(as_type, tmp_path):
    pipe = quantize(ddpm(), Recipe.linear(steps=2, samples=4), progress=False)
    save_quantized(pipe, tmp_path)
    loaded = models.load(as_type(tmp_path))
    assert type(loaded) is DDPMPipeline and loaded._progress_bar_config == {"disable": True}
    assert loaded.unet.quantization.recipe == pipe.unet.quantization.recipe
    assert torch.equal(sample(loaded, 1, 2).images, sample(pipe, 1, 2).images)


def test_load_refuses_a_damaged_quantized_model(data, tmp_path):
    pipe = quantize(ddpm(), Recipe.linear(steps=2, samples=4), progress=False)
    save_quantized(pipe, data / "models" / "tiny")
    with pytest.raises(shipped_data.DamagedFileError, match="unet"):
        models.load("tiny")
    (data / "MANIFEST.json").write_text(json.dumps(manifest_module().manifest(data)))
    assert hasattr(models.load("tiny").unet, "quantization")


def test_unknown_names_list_the_known_ones(data):
    for name in ("ddpm", "./nowhere", "a/b/c", Path("no/folder")):
        with pytest.raises(ValueError, match="tiny.*google/ddpm-cifar10-32"):
            models.load(name)


@pytest.mark.parametrize("name", models.HUB)
def test_hub_names_without_a_network(name, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=f"{name}.*needs the network.*give the path of the folder"):
        models.load(name)


@pytest.fixture
def silent_hub(monkeypatch):
    """A hub that takes connections and never answers."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(models, "HUB_SECONDS", 0.5)
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as silent:
        hub = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub)
        yield


def test_a_silent_hub_is_given_up(silent_hub, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"nosuch/name.*did not answer within 0\.5 seconds"):
        models.load("nosuch/name")


def test_a_silent_hub_leaves_what_was_loaded_before(silent_hub, saved, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    cached, revision = tmp_path / "models--owner--name", "0" * 40
    shutil.copytree(saved, cached / "snapshots" / revision)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(revision)
    assert type(models.load("owner/name")).__name__ == "DDPMPipeline"


@pytest.fixture
def faltering_hub(monkeypatch, tmp_path):
    """A hub that knows every model, sends the first bytes of each file, and falls silent."""
    about = {"_id": "1", "id": "a/b", "sha": "0" * 40, "siblings": [], "private": False, "tags": []}

    class Faltering(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.send_response(200)
            for name, value in {"X-Repo-Commit": "0" * 40, "ETag": '"abc"', "Content-Length": "1000"}.items():
                self.send_header(name, value)
            self.end_headers()

        def do_GET(self):
            if self.path.startswith("/api/models"):
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps(about).encode())
            else:
                self.do_HEAD()
                self.wfile.write(b'{"_class_name": ')
                self.wfile.flush()
                over.wait()

    over, server = threading.Event(), ThreadingHTTPServer(("127.0.0.1", 0), Faltering)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub = f"http://127.0.0.1:{server.server_port}"
    for name, value in {"HF_HUB_OFFLINE": False, "ENDPOINT": hub, "HF_HUB_CACHE": str(tmp_path)}.items():
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    monkeypatch.setattr(
        "huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE", hub + TEMPLATE, raising=False
    )
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", hub + TEMPLATE)
    monkeypatch.setattr(models, "HUB_SECONDS", 1)
    yield
    over.set()
    server.shutdown()


def test_a_hub_that_falls_silent_midway_is_given_up(faltering_hub, tmp_path):
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"a/b.*did not answer within 1 seconds"):
        models.load("a/b")
    assert time.monotonic() - start < 30
    assert list(tmp_path.rglob("*.incomplete"))  # it did begin to send


def test_folders_without_a_model(tmp_path):
    with pytest.raises(ValueError, match="model_index.json"):
        models.load(tmp_path)


def test_a_missing_component_is_named(saved, tmp_path):
    folder = tmp_path / "part"
    shutil.copytree(saved, folder)
    shutil.rmtree(folder / "scheduler")
    with pytest.raises(ValueError, match="part' lacks its scheduler: model_index.json names a DDPMScheduler"):
        models.load(folder)


def cut(path):
    path.write_bytes(path.read_bytes()[:-9])


def without_vocabulary(folder):
    (folder / "tokenizer" / "tokenizer.json").unlink()


def of_class(name):
    return lambda folder: (folder / "model_index.json").write_text(json.dumps({"_class_name": name}))


DAMAGED = {
    "no-vocabulary": (without_vocabulary, "lacks its tokenizer: .* names a CLIPTokenizer, but there is no"),
    "cut-text": (
        lambda folder: cut(folder / "text_encoder" / "model.safetensors"),
        "model.safetensors is da",
    ),
    "cut-vae": (
        lambda folder: cut(folder / "vae" / "diffusion_pytorch_model.safetensors"),
        r"vae.diffusion_pytorch_model.safetensors is damaged \(.*\): copy the whole pipeline",
    ),
    "cut-config": (
        lambda folder: cut(folder / "unet" / "config.json"),
        "config.json is damaged, it is no JSON",
    ),
    "cut-index": (lambda folder: cut(folder / "model_index.json"), "model_index.json is damaged, it is no J"),
    "list-index": (lambda folder: (folder / "model_index.json").write_text("[]"), "it holds no JSON object"),
    "other-class": (of_class("MyPipeline"), "_class_name='MyPipeline', which is no class of diffusers"),
    "no-class": (of_class(None), "_class_name=None, which is no class of diffusers"),
}


@pytest.mark.parametrize("damage, message", DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_components_are_named(damage, message, text_model, tmp_path):
    shutil.copytree(text_model, tmp_path / "copy")
    damage(tmp_path / "copy")
    with pytest.raises(ValueError, match=message):
        models.load(tmp_path / "copy")


def test_a_failed_import_is_no_fault_of_the_folder():
    with pytest.raises(ValueError, match=r"cannot be loaded .*: a package that it needs is missing"):
        with models.in_words("name_or_path='x'"):
            raise RuntimeError("Failed to import") from ImportError("failed to map segment")


def test_a_text_model_without_transformers(tmp_path, monkeypatch):
    entries = {"_class_name": "StableDiffusionPipeline", "text_encoder": ["transformers", "CLIPTextModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps(entries))
    monkeypatch.setattr(index, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="its text_encoder needs transformers, which is not installed: run"):
        models.load(tmp_path)


def test_pickled_weights_are_refused(tmp_path):
    ddpm().save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(ValueError, match="unet/diffusion_pytorch_model.bin is pickled"):
        models.load(tmp_path)


def test_loading_warns_of_nothing():
    """In a process of its own: diffusers warns through a logger, which a lesson shows in red."""
    code = "from diffusers.utils import logging; from qdiff_lib import load; logging.disable_progress_bar()"
    code += "; load('ddpm-fashion')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_a_folder_in_place_of_weights_is_refused(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "model")
    weights = tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.unlink()
    weights.mkdir()
    with pytest.raises(ValueError, match="model.safetensors is no file: copy the whole pipeline"):
        models.load(tmp_path / "model")
