"""A UNet with the same number of attention heads at every level, for which diffusers has no class.

Saved pipelines name this module. ``DiffusionPipeline.from_pretrained`` loads them after ``import qdiff_lib``.
Before, it refuses them in words, rather than draw with other heads.
"""

from collections.abc import Mapping
from typing import Any

from diffusers import (
    ModelMixin,  # noqa: F401  diffusers asks this module for it, to see what the class is
    UNet2DModel,
)
from diffusers.models.attention_processor import Attention


class FixedHeadsUNet2DModel(UNet2DModel):
    """The network of CompVis' LDM-8. UNet2DModel takes one head size for all levels; here the config's entry
    "_heads" is the number of heads.
    """

    @classmethod
    def from_config(cls, config: Mapping[str, Any], **options) -> "FixedHeadsUNet2DModel":
        """The network of that config. Raises ValueError where it has no "_heads"."""
        unet = super().from_config(config, **options)
        heads = unet.config.get("_heads")
        if not heads:
            raise ValueError(f'config["_heads"] is {heads!r}; set it to the number of heads at each level')
        for module in unet.modules():
            if isinstance(module, Attention):
                module.heads = module.sliceable_head_dim = heads
                module.scale = (module.inner_dim // heads) ** -0.5
        return unet
