"""What cannot be quantized is refused before any work, with a word on what can be."""

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UNet3DConditionModel,
)
from latent_models import stable_diffusion
from tiny_models import (
    ADDED,
    CLASSES,
    CONDITIONAL,
    GUIDED,
    PLAIN,
    conditional_unet,
    ddpm,
    random_inputs,
    unet2d,
)

from qdiff_lib import Recipe, quantize, record, sample
from qdiff_lib.diffusion.capabilities import check_pipeline, check_unet, takes_prompts
from qdiff_lib.diffusion.pipelines import with_components
from qdiff_lib.recipes.timestep_rules import Uniform

SUPPORTED = {
    "plain": unet2d,
    "text": conditional_unet,
    "projected-text": lambda: conditional_unet(encoder_hid_dim=6),
    "classes": lambda: unet2d(**CLASSES),
    "class-times": lambda: unet2d(class_embed_type="timestep"),
    "text-and-classes": lambda: conditional_unet(**CLASSES),
    "sdxl": lambda: conditional_unet(**ADDED),
    "lcm": lambda: conditional_unet(**GUIDED),
}


@pytest.mark.parametrize("make", SUPPORTED.values(), ids=SUPPORTED.keys())
def test_networks_with_these_conditions_are_supported(make):
    check_unet(make())


REFUSED = {
    "added-text": (
        dict(addition_embed_type="text", encoder_hid_dim=8),
        "addition_embed_type='text', added conditions other than those of SDXL",
    ),
    "class-vectors": (dict(class_embed_type="identity"), "class_embed_type='identity', vectors as class"),
    "two-texts": (dict(dual_cross_attention=True), "dual_cross_attention=True, attention to two texts"),
    "class-projection": (
        dict(class_embed_type="projection", projection_class_embeddings_input_dim=8),
        "class_embed_type='projection', vectors as class conditions: .* add unet.class_embedding",
    ),
    "gligen": (dict(attention_type="gated"), "attention_type='gated', boxes with texts, as GLIGEN has"),
    "images": (
        dict(encoder_hid_dim_type="image_proj", encoder_hid_dim=6),
        "encoder_hid_dim_type='image_proj', pictures as conditions",
    ),
}


@pytest.mark.parametrize("changes, message", REFUSED.values(), ids=REFUSED.keys())
def test_other_conditions_are_refused(changes, message):
    unet = UNet2DConditionModel(**{**CONDITIONAL, **changes})
    with pytest.raises(ValueError, match=f"{message}.*supported are pipelines whose `unet`"):
        quantize(with_components(ddpm(), unet=unet), Recipe())


def test_class_vectors_of_a_plain_network_are_refused():
    with pytest.raises(ValueError, match="class_embed_type='identity', vectors as class conditions"):
        check_unet(unet2d(class_embed_type="identity", **CLASSES))


@pytest.mark.parametrize("kind, width", [("identity", 32), ("projection", 6), ("simple_projection", 6)])
def test_the_fix_for_class_vectors_works(kind, width):
    unet = conditional_unet(class_embed_type=kind, projection_class_embeddings_input_dim=6)
    inputs, vector = random_inputs(unet, 2).rows(slice(None)), torch.linspace(-1, 1, width)
    with torch.no_grad():
        expected = unet(**inputs, class_labels=vector.expand(2, width)).sample
        unet.time_embedding.linear_2.bias += unet.class_embedding(vector)
        unet.class_embedding = None
        unet.register_to_config(class_embed_type=None, num_class_embeds=None)
        torch.testing.assert_close(unet(**inputs).sample, expected, rtol=1e-4, atol=1e-4)
    check_unet(unet)


def test_an_ip_adapter_is_refused_with_the_fix():
    """diffusers sets only the attribute of the config when it loads one."""
    unet, width = conditional_unet(), 12
    processors = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    layers = [unet.get_submodule(name.removesuffix(".processor")).to_k for name in processors]
    numbers = range(1, 2 * len(layers), 2)  # as in the files of IP-Adapter
    keys = {
        f"{i}.to_{part}_ip.weight": torch.zeros(layer.weight.shape)
        for i, layer in zip(numbers, layers, strict=True)
        for part in "kv"
    }
    projection = {"proj.weight": torch.zeros(4 * width, 5), "proj.bias": torch.zeros(4 * width)}
    projection |= {f"norm.{name}": torch.zeros(width) for name in ("weight", "bias")}
    unet._load_ip_adapter_weights([{"image_proj": projection, "ip_adapter": keys}])
    with pytest.raises(ValueError, match=r"ip_image_proj.* call pipe\.unload_ip_adapter\(\) first"):
        check_unet(unet)


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
    with pytest.raises(ValueError, match="StableDiffusionImg2ImgPipeline takes 'image', so .*from_pipe"):
        check_pipeline(image_to_image())


def test_the_fix_for_such_a_pipeline_works():
    pipe = StableDiffusionImg2ImgPipeline(**stable_diffusion().components, requires_safety_checker=False)
    check_pipeline(StableDiffusionPipeline.from_pipe(pipe))


def test_a_network_that_reads_an_image_beside_its_latent_is_refused():
    unet = conditional_unet(in_channels=9, out_channels=4)
    with pytest.raises(ValueError, match="reads 9 channels, and a latent of StableDiffusionPipeline has 4"):
        check_pipeline(stable_diffusion(unet))


def test_takes_prompts():
    assert takes_prompts(image_to_image()) and not takes_prompts(ddpm())
