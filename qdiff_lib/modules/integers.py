"""The base class of modules with integers and scales, which no cast or move changes."""

from collections.abc import Callable

from torch import nn

SCALES = ("scale", "weight_scale")  # buffers that stay in float32 when the network is cast


class HoldsIntegers(nn.Module):
    """A module whose integers and scales stay the same when the network is cast, moved, saved or loaded.

    torch never casts integers. This class keeps scales from being cast: codes with another scale would be
    another weight.
    """

    def _apply(self, fn: Callable, recurse: bool = True) -> nn.Module:
        scales = {name: self._buffers.get(name) for name in SCALES}
        super()._apply(fn, recurse)
        for name, scale in scales.items():
            if scale is not None and self._buffers[name].dtype != scale.dtype:
                self._buffers[name] = scale.to(self._buffers[name].device)
        return self

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        if any(f"{prefix}{name}" in state_dict for name in SCALES):
            self.hold_integers()
        super()._load_from_state_dict(state_dict, prefix, *args)
