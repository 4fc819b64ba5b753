"""Hooks see every pass, and nothing of them stays."""

import pytest
from tiny_models import random_inputs, unet2d

from qdiff_lib.graph.hooks import hooked


@pytest.fixture(scope="module")
def unet():
    return unet2d()


@pytest.mark.parametrize("outputs", [False, True], ids=["inputs", "outputs"])
def test_hooks_see_every_pass_and_leave_nothing(unet, outputs):
    seen, inputs = [], random_inputs(unet, 3)
    with hooked(unet, ["conv_in", "conv_out"], lambda layer, x: seen.append((layer, *x.shape[:2])), outputs):
        unet(**inputs.rows(slice(0, 2)))
        unet(**inputs.rows(slice(2, 3)))
    channels = (8, 1) if outputs else (1, 8)
    assert seen == [
        (name, n, c) for n in (2, 1) for name, c in zip(("conv_in", "conv_out"), channels, strict=True)
    ]
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in unet.modules())


def test_hooks_go_when_the_block_fails(unet):
    with pytest.raises(RuntimeError, match="stop"):
        with hooked(unet, ["conv_in"], print, outputs=True):
            raise RuntimeError("stop")
    assert not unet.conv_in._forward_hooks
