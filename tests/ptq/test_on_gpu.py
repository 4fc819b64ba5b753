"""What is promised on the CPU holds on an NVIDIA GPU too: quantize, resume, cast, move, save, load, draw.

These run only where there is a GPU.
"""

import pytest
import torch
from tiny_models import SMALL, assert_same_tensors, conditional_unet, ddim, ddpm, random_inputs

from qdiff_lib import Recipe, load, quantize, run_on, sample, save_quantized
from qdiff_lib.modules.attention import QuantAttention
from qdiff_lib.modules.quant_layer import quant_layers

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU here"),
]
RECIPE = Recipe.named("qdiffusion", weights=4, activations=8, **SMALL)


def quantized(**options):
    """A tiny quantized pipeline on the GPU."""
    return quantize(ddpm().to("cuda"), RECIPE, progress=False, **options)


@pytest.fixture(scope="module")
def pipe():
    """A quantized pipeline on the GPU. Do not change it."""
    return quantized()


def integers(pipe):
    """All tensors of the network that decide its integers, on the CPU."""
    return {name: value.cpu() for name, value in pipe.unet.state_dict().items()}


def codes(pipe):
    """The integer weights of each layer, on the CPU."""
    return [layer.integer_codes().cpu() for layer in quant_layers(pipe.unet) if layer.weight_grid is not None]


def drawn(pipe, n=2, steps=3):
    """Images in [0, 1]."""
    return sample(pipe, n, steps=steps, seed=1).images.float() / 255


def assert_equal_codes(first, second):
    assert len(first) == len(second) > 0
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_calibration_draws_and_learns_on_the_gpu(pipe):
    assert all(value.is_cuda for value in pipe.unet.state_dict().values())
    assert drawn(pipe).unique().numel() > 2


def test_two_calibrations_give_the_same_bits(pipe):
    assert_same_tensors(integers(pipe), integers(quantized()))


def test_an_interrupted_calibration_goes_on_to_the_same_bits(pipe, tmp_path):
    done = []

    def interrupt(report):
        done.append(report)
        if len(done) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantized(work=tmp_path / "work", callback=interrupt)
    assert_same_tensors(integers(pipe), integers(quantized(work=tmp_path / "work", resume=True)))


def test_the_noise_of_an_image_is_that_of_the_cpu():
    here, there = drawn(ddim()), drawn(ddim().to("cuda"))
    assert (here - there).abs().max() <= 2 / 255  # images from other noise differ by about 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_casts_and_moves_touch_no_code(dtype):
    pipe = quantized()
    before = codes(pipe)
    scales = [layer.weight_scale.cpu() for layer in quant_layers(pipe.unet)]
    pipe.to("cpu").to("cuda").to(dtype)
    assert_equal_codes(before, codes(pipe))
    for layer, scale in zip(quant_layers(pipe.unet), scales, strict=True):
        assert layer.weight_scale.dtype == torch.float32 and torch.equal(layer.weight_scale.cpu(), scale)
    noise = torch.randn(2, 1, 8, 8).to("cuda", dtype)
    assert pipe.unet(noise, 5).sample.isfinite().all()


def test_saved_on_the_gpu_and_loaded_on_both_devices(pipe, tmp_path):
    save_quantized(pipe, tmp_path / "saved")
    here, there = load(tmp_path / "saved"), load(tmp_path / "saved").to("cuda")
    assert_equal_codes(codes(pipe), codes(here))
    assert torch.equal(drawn(pipe), drawn(there))


def test_attention_and_texts_are_quantized_on_the_gpu():
    unet = conditional_unet()
    inputs = random_inputs(unet)
    made = quantize(ddpm(unet.to("cuda")), RECIPE, inputs, progress=False)
    assert any(isinstance(module, QuantAttention) for module in made.unet.modules())
    here = {name: value[:2] for name, value in inputs.inputs.items()}
    names = {"sample": "sample", "timestep": "timestep", "encoder_hidden_states": "encoder_hidden_states"}
    there = {name: here[key].to("cuda") for name, key in names.items()}
    with torch.no_grad():
        error = (made.unet(**there).sample - unet(**there).sample).square().mean()
        assert error < unet(**there).sample.square().mean()


def test_the_triton_engine_draws_nearly_what_the_simulation_draws(pipe):
    wanted, found = drawn(pipe, 4), drawn(run_on(pipe, "triton"), 4)
    error = drawn(ddpm().to("cuda"), 4) - wanted
    assert (found - wanted).square().mean() < error.square().mean()
