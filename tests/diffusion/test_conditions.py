"""Drawing with conditions beside the text: class labels, those of SDXL, and the guidance scale of LCM."""

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from latent_models import CONDITIONED, PROMPTS, latent_consistency, stable_diffusion, stable_diffusion_xl
from tiny_models import CLASSES, ddim, ddpm, unet2d

from qdiff_lib import record, sample, with_sampler
from qdiff_lib.diffusion.request import Request
from qdiff_lib.diffusion.sampling import noise_generators
from qdiff_lib.recipes.timestep_rules import Uniform

LABELS = [2, 0, 1]


def classes(make=ddim):
    """A pipeline whose network has three classes."""
    return make(unet2d(**CLASSES))


@pytest.mark.parametrize("make, asked", CONDITIONED.values(), ids=CONDITIONED.keys())
def test_an_image_depends_on_its_index_and_not_on_its_batch(make, asked):
    pipe = make()
    together, alone = (
        sample(pipe, 5, 3, batch_size=size, record=True, **asked).trajectory for size in (5, 1)
    )
    torch.testing.assert_close(alone, together, atol=1e-3, rtol=1e-3)
    later = sample(pipe, 2, 3, first=3, record=True, **asked).trajectory
    torch.testing.assert_close(later, together[:, 3:], atol=1e-3, rtol=1e-3)


def test_image_i_is_of_class_i():
    """As a loop of one's own over the sampler draws it."""
    pipe = classes()
    found = sample(pipe, 4, 3, seed=5, record=True, class_labels=LABELS).trajectory
    pipe.scheduler.set_timesteps(3)
    for i, generator in enumerate(noise_generators(5, 0, 4)):
        x = torch.randn(1, 1, 8, 8, generator=generator)
        for t, expected in zip(pipe.scheduler.timesteps, found[:, i], strict=True):
            with torch.no_grad():
                noise = pipe.unet(x, t, class_labels=torch.tensor([LABELS[i % 3]])).sample
            x = pipe.scheduler.step(noise, t, x).prev_sample
            torch.testing.assert_close(x[0], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "kind, name", [(kind, name) for kind in CONDITIONED for name in CONDITIONED[kind][1]]
)
def test_the_conditions_change_the_images(kind, name):
    make, asked = CONDITIONED[kind]
    pipe, changed = make(), {**asked, name: [*asked[name][1:], asked[name][0]]}
    one, two = (sample(pipe, 2, 2, record=True, **each).trajectory[-1] for each in (asked, changed))
    assert ((one - two).flatten(1).abs().amax(1) > 1e-3).all()


def test_guidance_of_a_consistency_model_is_an_input_and_no_second_pass():
    pipe, rows = latent_consistency(), []
    handle = pipe.unet.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append((len(args[0]), kwargs["timestep_cond"])), with_kwargs=True
    )
    images = [sample(pipe, 2, 3, prompts=PROMPTS, guidance=g, record=True).trajectory for g in (2.0, 8.0)]
    handle.remove()
    assert [count for count, _ in rows] == [2] * 6 and not torch.equal(*images)
    assert not torch.equal(rows[0][1], rows[3][1])


@pytest.mark.parametrize("make", [stable_diffusion, stable_diffusion_xl, latent_consistency])
def test_passes(make):
    guided = 1 if make is latent_consistency else 2
    assert [Request.checked(make(), PROMPTS, g, 0.0).passes for g in (5.0, 1.0)] == [guided, 1]


@pytest.mark.parametrize("sampler", ["ddim", "plms", "dpm++"])
def test_a_consistency_model_keeps_its_own_sampler(sampler):
    pipe = latent_consistency()
    with pytest.raises(ValueError, match="LatentConsistencyModelPipeline draws with its own sampler only"):
        with_sampler(pipe, sampler)
    assert type(with_sampler(pipe, None).scheduler) is type(pipe.scheduler)


def test_a_copy_of_sdxl_has_a_watermark_only_if_the_original_has_one():
    class Marked(StableDiffusionXLPipeline):
        """As where the package of the watermark is installed, which turns it on by default."""

        def __init__(
            self,
            vae,
            text_encoder,
            text_encoder_2,
            tokenizer,
            tokenizer_2,
            unet,
            scheduler,
            image_encoder=None,
            feature_extractor=None,
            force_zeros_for_empty_prompt=True,
            add_watermarker=None,
        ):
            parts = (vae, text_encoder, text_encoder_2, tokenizer, tokenizer_2, unet, scheduler)
            super().__init__(*parts, add_watermarker=False)
            self.watermark = None if add_watermarker is False else "the default"

    parts = stable_diffusion_xl().components
    for given, expected in ((False, None), (None, "the default"), (True, "the default")):
        assert with_sampler(Marked(**parts, add_watermarker=given), None).watermark == expected


REFUSED = {
    "missing": (None, ValueError, r"draws a class: give class_labels=\[0, 1, \.\.\.\], numbers from 0 to 2"),
    "beyond": ([0, 3], ValueError, "class_labels=3 must be an integer from 0 to 2"),
    "negative": ([-1], ValueError, "class_labels=-1 must be an integer from 0 to 2"),
    "empty": ([], ValueError, r"class_labels=\[\] must hold at least one number from 0 to 2"),
    "fractions": ([0.5], TypeError, "class_labels=0.5 must be an integer"),
    "one": (1, TypeError, "class_labels=1 must be a list of integers"),
    "text": ("01", TypeError, "class_labels='01' must be a list of integers"),
}


@pytest.mark.parametrize("labels, kind, message", REFUSED.values(), ids=REFUSED.keys())
@pytest.mark.parametrize("use", ["sample", "record"])
def test_labels_that_the_network_cannot_take_are_refused(use, labels, kind, message):
    calls = {
        "sample": lambda pipe: sample(pipe, 2, 2, class_labels=labels),
        "record": lambda pipe: record(pipe, Uniform(), 2, 2, class_labels=labels),
    }
    with pytest.raises(kind, match=message):
        calls[use](classes(ddpm))


def test_labels_for_a_network_without_classes_are_refused():
    with pytest.raises(ValueError, match=r"class_labels=\[1\]: the UNet has no classes; leave them out"):
        sample(ddpm(), 2, 2, class_labels=[1])


def test_labels_may_be_a_tensor():
    pipe = classes()
    one, two = (sample(pipe, 3, 2, class_labels=given).images for given in (LABELS, torch.tensor(LABELS)))
    assert torch.equal(one, two)


def test_no_hook_stays_on_the_network():
    pipe = classes()
    sample(pipe, 2, 2, class_labels=LABELS)
    assert not pipe.unet._forward_pre_hooks
    with pytest.raises(ValueError, match="class_labels should be provided"):
        pipe(batch_size=1, num_inference_steps=1)
