"""The command ``quantize`` before its first stage: what it says, and how often it runs the network."""

from collections import Counter

import pytest
from tiny_models import ddpm, unet2d

from qdiff_lib.cli import main as cli
from qdiff_lib.graph.hooks import hooked
from qdiff_lib.io import models
from qdiff_lib.ptq import quantize as module


class FirstStage(Exception):
    """Raised where the first stage would begin."""


def test_the_network_runs_no_more_often_than_needed_before_the_first_stage(tmp_path, monkeypatch, capsys):
    """Once to find the units, once for each recorded step, and once with what was recorded."""
    pipe, passes = ddpm(unet2d()), Counter()

    def stop(*_):
        raise FirstStage

    monkeypatch.setattr(models, "load", lambda *_: pipe)
    monkeypatch.setattr(module, "learn", stop)
    argv = ["quantize", "--model", "tiny", "--out", str(tmp_path / "new"), "--traceback"]
    count = (pipe.unet, lambda *_: passes.update(["passes"]))
    with hooked(before=[count]), pytest.raises(FirstStage):
        cli.main([*argv, "--steps", "4", "--samples", "12", "--rule", "uniform:1"])
    assert passes["passes"] == 1 + 4 + 1
    assert capsys.readouterr().out.startswith("caches up to ")
