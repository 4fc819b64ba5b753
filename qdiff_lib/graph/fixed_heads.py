"""A UNet with the same number of attention heads at every level, for which diffusers has no class.

Saved pipelines name this module. ``DiffusionPipeline.from_pretrained`` loads them after ``import qdiff_lib``.
Without that import it raises an error, and so never computes with a wrong number of heads.
"""

from collections.abc import Mapping
from typing import Any

from diffusers import (
    ModelMixin,  # noqa: F401  diffusers looks it up in this module to identify the class
    UNet2DModel,
)
from diffusers.models.attention_processor import Attention


class FixedHeadsUNet2DModel(UNet2DModel):
    """The network of CompVis' LDM-8, whose config gives the number of heads as "_heads".

    UNet2DModel takes one head size for all levels instead.
    """

    @classmethod
    def from_config(cls, config: Mapping[str, Any], **options) -> "FixedHeadsUNet2DModel":
        """Return the network of a config. Raises ValueError if the config has no "_heads"."""
        unet = super().from_config(config, **options)
        heads = unet.config.get("_heads")
        if not heads:
            raise ValueError(f'config["_heads"] is {heads!r}; set it to the number of heads at each level')
        for module in unet.modules():
            if isinstance(module, Attention):
                module.heads = module.sliceable_head_dim = heads
                module.scale = (module.inner_dim // heads) ** -0.5
        return unet
