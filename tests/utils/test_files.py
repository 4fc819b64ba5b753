"""Atomic writes, JSON and checksums."""

import hashlib
import json
import os
from errno import ENAMETOOLONG, ENOTDIR

import pytest

from qdiff_lib.utils import files
from qdiff_lib.utils.files import (
    TEMPORARY,
    atomic_path,
    check_writable,
    remove_temporaries,
    sha256,
    write_json,
)


def test_success_moves_the_file_onto_the_path(tmp_path):
    path = tmp_path / "new" / "folder" / "a.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("whole")
        assert temporary.parent == path.parent and temporary.suffix == ".txt"
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_failure_keeps_the_old_file_and_leaves_nothing_behind(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_writing_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a.txt"):
        pass


def test_json_has_indent_and_newline(tmp_path):
    write_json(tmp_path / "a.json", {"name": "schön", "values": [1, 2.5]})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert text.startswith('{\n  "name": "schön"') and text.endswith("}\n")
    assert json.loads(text) == {"name": "schön", "values": [1, 2.5]}


def test_json_that_cannot_be_written_keeps_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"bad": object()})
    assert (tmp_path / "a.json").read_text() == "1\n"


def test_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 1_000_000)
    assert sha256(tmp_path / "a") == hashlib.sha256(b"abc" * 1_000_000).hexdigest()


def test_a_file_is_on_the_disk_before_it_gets_its_name_and_its_folder_after(tmp_path, monkeypatch):
    steps, fsync, replace = [], os.fsync, os.replace

    def synced(descriptor):
        steps.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        fsync(descriptor)

    monkeypatch.setattr(files.os, "fsync", synced)
    monkeypatch.setattr(files.os, "replace", lambda *paths: steps.append("name") or replace(*paths))
    write_json(tmp_path / "a.json", {})
    if os.path.isdir("/proc/self/fd"):
        assert steps == ["file", "name", "folder"]
    else:
        assert steps[:2] == ["file", "name"]


def test_only_temporary_files_are_removed(tmp_path):
    kept = [tmp_path / name for name in ("a.json", ".hidden", f"{TEMPORARY}notes")]
    left = [tmp_path / f"{TEMPORARY}01234567-a.json", tmp_path / "unet" / f"{TEMPORARY}89abcdef-b.bin"]
    left[1].parent.mkdir()
    for path in (*kept, *left):
        path.write_text("")
    remove_temporaries(tmp_path)
    assert all(path.exists() for path in kept) and not any(path.exists() for path in left)


def test_what_can_be_written_leaves_no_trace(tmp_path):
    (tmp_path / "a.png").write_text("older")
    for path in (tmp_path, tmp_path / "a.png", tmp_path / "b.png", tmp_path / "new" / "below" / "c.png"):
        check_writable(path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_text() == "older"


@pytest.mark.parametrize(
    "path", ["a.png/b.png", "a.png/below/b.png", "x" * 300, f"{'x' * 300}/b.png", f"new/{'x' * 300}/b.png"]
)
def test_what_cannot_be_written_is_found(path, tmp_path):
    (tmp_path / "a.png").write_text("older")
    with pytest.raises(OSError) as stop:
        check_writable(tmp_path / path)
    assert stop.value.filename.startswith(str(tmp_path)) and stop.value.errno in (ENAMETOOLONG, ENOTDIR)
    assert [each.name for each in tmp_path.iterdir()] == ["a.png"]


def test_folders_made_for_a_file_go_with_it(tmp_path):
    (tmp_path / "kept").mkdir()
    for path in (tmp_path / "a" / "b" / "c.json", tmp_path / "kept" / "d" / "e.json"):
        with pytest.raises(RuntimeError, match="stop"):
            with atomic_path(path) as temporary:
                temporary.write_text("half")
                raise RuntimeError("stop")
    assert list(tmp_path.rglob("*")) == [tmp_path / "kept"]


def test_of_a_link_only_the_link_is_removed(tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "thesis.txt").write_text("mine")
    link = tmp_path / f"{TEMPORARY}01234567-folder"
    link.symlink_to(tmp_path / "theirs")
    remove_temporaries(tmp_path)
    assert not link.is_symlink() and (tmp_path / "theirs" / "thesis.txt").read_text() == "mine"
