"""What cannot be quantized is refused before any work, with a word on what can be."""

import pytest
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    StableDiffusionImg2ImgPipeline,
    UNet2DConditionModel,
    UNet3DConditionModel,
)
from tiny_models import CONDITIONAL, PLAIN, conditional_unet, ddpm, unet2d

from qdiff_lib import Recipe, quantize, record, sample
from qdiff_lib.diffusion.capabilities import check_pipeline, check_unet, takes_prompts
from qdiff_lib.diffusion.pipelines import with_components
from qdiff_lib.recipes.timestep_rules import Uniform


@pytest.mark.parametrize("make", [unet2d, conditional_unet, lambda: conditional_unet(encoder_hid_dim=6)])
def test_plain_and_text_networks_are_supported(make):
    check_unet(make())


ADDED = dict(addition_embed_type="text_time", addition_time_embed_dim=8)
REFUSED = {
    "sdxl": (
        dict(**ADDED, projection_class_embeddings_input_dim=60),
        "addition_embed_type='text_time', added",
    ),
    "classes": (dict(num_class_embeds=10), "num_class_embeds=10, class embeddings"),
    "class-projection": (
        dict(class_embed_type="projection", projection_class_embeddings_input_dim=8),
        "class_embed_type='projection', class embeddings",
    ),
    "lcm": (dict(time_cond_proj_dim=8), "time_cond_proj_dim=8, an embedding of the guidance scale"),
    "gligen": (dict(attention_type="gated"), "attention_type='gated'"),
    "images": (
        dict(encoder_hid_dim_type="image_proj", encoder_hid_dim=6),
        "encoder_hid_dim_type='image_proj'",
    ),
}


@pytest.mark.parametrize("changes, message", REFUSED.values(), ids=REFUSED.keys())
def test_other_conditions_are_refused(changes, message):
    unet = UNet2DConditionModel(**{**CONDITIONAL, **changes})
    with pytest.raises(ValueError, match=f"{message}.*supported are pipelines whose `unet`"):
        quantize(with_components(ddpm(), unet=unet), Recipe())


def test_class_embeddings_of_a_plain_network_are_refused():
    with pytest.raises(ValueError, match="num_class_embeds=3, class embeddings"):
        check_unet(unet2d(num_class_embeds=3))


def test_other_classes_are_refused():
    plain = {key: PLAIN[key] for key in ("sample_size", "in_channels", "out_channels", "norm_num_groups")}
    unet = UNet3DConditionModel(
        **plain,
        block_out_channels=(8, 8),
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        cross_attention_dim=8,
        attention_head_dim=4,
        layers_per_block=1,
    )
    with pytest.raises(ValueError, match="is a UNet3DConditionModel: supported are"):
        check_unet(unet)


def autoencoder():
    return AutoencoderKL(block_out_channels=(8,), norm_num_groups=4)


def image_to_image():
    parts = (autoencoder(), None, None, conditional_unet(), DDIMScheduler(), None, None)
    return StableDiffusionImg2ImgPipeline(*parts, requires_safety_checker=False)


USES = {
    "quantize": lambda pipe: quantize(pipe, Recipe()),
    "sample": lambda pipe: sample(pipe, 1, 2),
    "record": lambda pipe: record(pipe, Uniform(), 2, 2),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
def test_diffusion_transformers_are_refused(use):
    transformer = DiTTransformer2DModel(
        num_attention_heads=1, attention_head_dim=8, in_channels=4, num_layers=1, sample_size=4
    )
    pipe = DiTPipeline(transformer, autoencoder(), DDIMScheduler())
    with pytest.raises(
        ValueError, match=r"DiTPipeline has no unet, but transformer \(DiTTransformer2DModel\)"
    ):
        use(pipe)


def test_pipelines_that_start_from_an_image_are_refused():
    with pytest.raises(ValueError, match="StableDiffusionImg2ImgPipeline takes 'image'"):
        check_pipeline(image_to_image())


def test_takes_prompts():
    assert takes_prompts(image_to_image()) and not takes_prompts(ddpm())
