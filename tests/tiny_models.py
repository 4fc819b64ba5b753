"""Tiny randomly initialised diffusers models, and what the tests of several modules do with them."""

import torch
from diffusers import (
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    UNet2DConditionModel,
    UNet2DModel,
)

from qdiff_lib.calibration.calibration_set import CalibrationSet, Shared
from qdiff_lib.graph.model_inputs import example_conditions, example_inputs, flat_inputs
from qdiff_lib.graph.tracing import trace
from qdiff_lib.ptq.insertion import insert_quantizers
from qdiff_lib.recipes.parts import Grids

TRAINED_STEPS = 100
TOKENS = 5  # of the text that conditions UNet2DConditionModel
SMALL = dict(steps=4, samples=12, iterations=3, step_size_iterations=2, batch_size=4)

# At 24 channels, 16 tokens and 5 tokens no activation of the network has the shape of an attention matrix.
PLAIN = dict(
    sample_size=8,
    in_channels=1,
    out_channels=1,
    block_out_channels=(8, 24),
    layers_per_block=1,
    norm_num_groups=4,
    attention_head_dim=4,
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
)
CONDITIONAL = dict(
    PLAIN,
    attention_head_dim=2,
    cross_attention_dim=12,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
)
ONE_LEVEL = dict(
    block_out_channels=(8,), down_block_types=("AttnDownBlock2D",), up_block_types=("AttnUpBlock2D",)
)
"""Changes to PLAIN: half of the layers, and still attention and shortcuts; quick to compile or interpret."""
POOLED = 8  # features of the whole text that conditions SDXL's network
ADDED = dict(
    cross_attention_dim=12 + POOLED,
    addition_embed_type="text_time",
    addition_time_embed_dim=4,
    projection_class_embeddings_input_dim=POOLED + 6 * 4,
)
GUIDED = dict(time_cond_proj_dim=6)
CLASSES = dict(num_class_embeds=3)
"""What the networks of SDXL and LCM, and class-conditional ones, have beside PLAIN or CONDITIONAL."""


def unet2d(seed=0, **changes):
    """A UNet2DModel for 8x8 grey images, in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return UNet2DModel(**{**PLAIN, **changes}).eval()


def conditional_unet(seed=0, **changes):
    """A UNet2DConditionModel for 8x8 grey images and 12 features a token, in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return UNet2DConditionModel(**{**CONDITIONAL, **changes}).eval()


def ddpm(unet=None):
    """A pipeline with the ancestral sampler."""
    pipe = DDPMPipeline(unet=unet or unet2d(), scheduler=DDPMScheduler(num_train_timesteps=TRAINED_STEPS))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def ddim(unet=None):
    """A pipeline with the deterministic sampler."""
    pipe = DDIMPipeline(unet=unet or unet2d(), scheduler=DDIMScheduler(num_train_timesteps=TRAINED_STEPS))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def random_inputs(unet, n=6, seed=0):
    """A calibration set of noise, with random timesteps and conditions."""
    generator = torch.Generator().manual_seed(seed)
    size = unet.config.sample_size
    inputs = {
        "sample": torch.randn(n, unet.config.in_channels, size, size, generator=generator),
        "timestep": torch.randint(TRAINED_STEPS, (n,), generator=generator),
    }
    if "cross_attention_dim" in unet.config:
        width = unet.config.cross_attention_dim
        texts = torch.randn(n, TOKENS, width, generator=generator)
        inputs["encoder_hidden_states"] = Shared(texts, torch.arange(n))
    for name, value in flat_inputs(example_conditions(unet, n)).items():
        if value.dtype == torch.long:
            inputs[name] = torch.randint(CLASSES["num_class_embeds"], value.shape, generator=generator)
        else:
            inputs[name] = torch.randn(value.shape, generator=generator)
    return CalibrationSet(inputs, torch.zeros(n, dtype=torch.long), {})


def traced(unet):
    """The trace of a UNet on the inputs that its config describes."""
    return trace(unet, example_inputs(unet))


def with_quantizers(unet, grids=None):
    """A copy with quantizers whose ranges are not set."""
    return insert_quantizers(unet, grids or Grids(), traced(unet))


@torch.no_grad()
def output(unet, inputs):
    """The noise that the UNet predicts for a whole calibration set, in one batch."""
    return unet(**inputs.rows(slice(None))).sample


def snapshot(module):
    """Copies of all tensors of a module, by name."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def assert_same_tensors(first, second):
    """The same names and the same bits."""
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different
