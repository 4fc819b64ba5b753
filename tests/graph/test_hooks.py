"""Hooks see every pass, and nothing of them stays."""

import pytest
from tiny_models import random_inputs, unet2d

from qdiff_lib.graph.hooks import hooked, watched_inputs, watched_outputs


@pytest.fixture(scope="module")
def unet():
    return unet2d()


@pytest.mark.parametrize("watched, channels", [(watched_inputs, (1, 8)), (watched_outputs, (8, 1))])
def test_hooks_see_every_pass_and_leave_nothing(unet, watched, channels):
    seen, inputs = [], random_inputs(unet, 3)
    with watched(unet, ["conv_in", "conv_out"], lambda layer, x: seen.append((layer, *x.shape[:2]))):
        unet(**inputs.rows(slice(0, 2)))
        unet(**inputs.rows(slice(2, 3)))
    assert seen == [
        (name, n, c) for n in (2, 1) for name, c in zip(("conv_in", "conv_out"), channels, strict=True)
    ]
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in unet.modules())


def test_hooks_go_when_the_block_fails(unet):
    with pytest.raises(RuntimeError, match="stop"):
        with hooked(before=[(unet.conv_in, print)], after=[(unet.conv_in, print)]):
            raise RuntimeError("stop")
    assert not unet.conv_in._forward_hooks and not unet.conv_in._forward_pre_hooks
