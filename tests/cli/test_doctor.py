"""The doctor: every failure is a finding with a fix, and never a traceback."""

import hashlib
import importlib
import importlib.metadata
import json
import shutil
import types

import psutil
import pytest

from qdiff_lib.cli import doctor, main
from qdiff_lib.cli.doctor import Finding
from qdiff_lib.io import shipped_data
from qdiff_lib.utils.sandbox import Sandbox

STEPS = ("python", "torch", "diffusers", "torch-fidelity", "device", "engines", "data", "disk", "memory")
STEPS += ("sandbox",)


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A data folder with two files in place of the shipped one."""
    for name in ("unet.safetensors", "statistics.safetensors"):
        (tmp_path / name).write_bytes(name.encode())
    files = {path.name: {"sha256": digest(path), "bytes": path.stat().st_size} for path in tmp_path.iterdir()}
    (tmp_path / "MANIFEST.json").write_text(json.dumps({"files": files}))

    monkeypatch.setattr(shipped_data, "data_folder", lambda: tmp_path)
    return tmp_path


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def fail_import(monkeypatch, broken, message):
    """Let the doctor, and nobody else, see ``message`` where it imports ``broken``."""

    def import_module(name):
        if name == broken:
            raise RuntimeError(message)
        return importlib.import_module(name)

    seen = types.SimpleNamespace(import_module=import_module, metadata=importlib.metadata)
    monkeypatch.setattr(doctor, "importlib", seen)


def test_intact_data(data):
    assert doctor.check_data() == Finding("data", "ok", "2 files, checksums match")


def test_damaged_data(data):
    (data / "unet.safetensors").write_bytes(b"damaged")
    finding = doctor.check_data()
    assert finding.status == "error" and finding.detail == "1 of 2 files: unet.safetensors is damaged"
    assert "git checkout" in finding.fix


def test_missing_data(data):
    (data / "statistics.safetensors").unlink()
    assert "statistics.safetensors is missing" in doctor.check_data().detail


@pytest.mark.parametrize(
    "content", [None, "{", "{}", '{"files": {}}'], ids=["missing", "cut", "empty", "no-file"]
)
def test_unreadable_manifest(data, content):
    (data / "MANIFEST.json").unlink() if content is None else (data / "MANIFEST.json").write_text(content)
    finding = doctor.check_data()
    assert finding.status == "error" and "manifest" in finding.detail and finding.fix


@pytest.mark.parametrize("broken", ["torchvision", "diffusers", "torch_fidelity"])
def test_builds_that_do_not_match_are_explained(broken, data, monkeypatch):
    fail_import(monkeypatch, broken, "operator torchvision::nms does not exist")
    name = {"torchvision": "torch", "torch_fidelity": "torch-fidelity"}.get(broken, broken)
    (finding,) = [finding for finding in doctor.check_environment() if finding.name == name]
    assert finding.status == "error" and "builds for different devices" in finding.detail
    assert "torch torchvision" in finding.fix


def test_versions_that_do_not_match_are_a_warning(monkeypatch):
    metadata = types.SimpleNamespace(requires=lambda name: ["numpy", "torch (>=1.13.0)"])
    seen = types.SimpleNamespace(import_module=importlib.import_module, metadata=metadata)
    monkeypatch.setattr(doctor, "importlib", seen)
    finding = doctor.check_torch_pair()
    assert finding.status == "warning" and "built for torch 1.13" in finding.detail and finding.fix


def test_any_other_failure_is_a_finding(data, monkeypatch):
    fail_import(monkeypatch, "diffusers", "first line\nsecond line")
    (finding,) = [finding for finding in doctor.check_environment() if finding.name == "diffusers"]
    assert (finding.status, finding.detail) == ("error", "RuntimeError: first line second line")
    assert finding.fix


def test_old_python(monkeypatch):
    monkeypatch.setattr(doctor, "sys", types.SimpleNamespace(version_info=(3, 9, 1)))
    finding = doctor.check_python()
    assert finding.status == "error" and "3.9.1" in finding.detail and "3.11" in finding.fix


def test_little_disk_and_memory(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=1e9))
    few = types.SimpleNamespace(available=1e9, total=8e9)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: few)
    for finding in (doctor.check_disk(), doctor.check_memory()):
        assert finding.status == "warning" and "1.0" in finding.detail and finding.fix


def test_more_threads_than_cores(monkeypatch):
    torch = importlib.import_module("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(doctor, "available_cores", lambda: 2)
    finding = doctor.check_device()
    assert finding.status == "warning" and "OMP_NUM_THREADS=2" in finding.fix


def test_a_gpu_is_named_with_its_memory(monkeypatch):
    torch = importlib.import_module("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (7e9, 8e9))
    assert doctor.check_device().detail == "Some GPU, 7.0 of 8.0 GB free"


def test_the_command_prints_every_finding(data, capsys):
    status = main.main(["doctor"])
    shown = capsys.readouterr().out
    assert [line.split()[1] for line in shown.splitlines() if not line.startswith(" ")] == list(STEPS)
    assert status == (1 if any(line.startswith("error") for line in shown.splitlines()) else 0)


def test_the_command_exits_with_1_on_damage(data, capsys):
    (data / "unet.safetensors").write_bytes(b"damaged")
    assert main.main(["doctor"]) == 1
    assert "unet.safetensors is damaged" in capsys.readouterr().out


def test_render_aligns_and_shows_the_fix():
    findings = [Finding("a", "ok", "fine"), Finding("longer", "error", "broken", "repair it")]
    assert doctor.render(findings).splitlines() == [
        "ok       a       fine",
        "error    longer  broken",
        "                 -> repair it",
    ]
    assert doctor.render([]) == ""


def test_the_sandbox_is_named(monkeypatch):
    monkeypatch.setattr(doctor, "find_sandbox", lambda: Sandbox("bubblewrap"))
    assert doctor.check_sandbox() == Finding("sandbox", "ok", "bubblewrap, for grading")


def test_without_a_sandbox_it_says_who_needs_one_and_how_to_get_it(monkeypatch):
    monkeypatch.setattr(doctor, "find_sandbox", lambda: None)
    monkeypatch.setattr(doctor, "survey", lambda: {"bubblewrap": "not installed"})
    finding = doctor.check_sandbox()
    assert finding.status == "ok" and "bubblewrap: not installed" in finding.detail
    assert "Only grading needs one: install bubblewrap" in finding.detail
