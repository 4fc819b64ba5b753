"""Quantizing in float32, whatever surrounds the call."""

import pytest
import torch

from qdiff_lib.ptq.arithmetic import SETTINGS, float32_arithmetic


def now():
    return [getattr(owner, name) for owner, name, _ in SETTINGS]


def test_the_settings_hold_within_and_go_back_also_after_an_error():
    before = now()
    with torch.autocast("cpu", dtype=torch.bfloat16), pytest.raises(RuntimeError, match="stop"):
        with float32_arithmetic(torch.device("cpu")):
            assert now() == [value for _, _, value in SETTINGS] != before
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
            raise RuntimeError("stop")
    assert now() == before
