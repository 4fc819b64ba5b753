"""A quantized UNet is a diffusers model: whatever is done to it, its codes, scales and zero points stay."""

import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DModel
from latent_models import stable_diffusion
from safetensors.torch import load_file
from tiny_models import SMALL, assert_same_tensors, ddpm, output, random_inputs, unet2d

from qdiff_lib import Recipe, load, quantize, save_quantized
from qdiff_lib.io.shipped_data import data_folder, embedded_names
from qdiff_lib.modules.integers import HoldsIntegers
from qdiff_lib.modules.quant_layer import quant_layers

ROOT = Path(__file__).parents[2]
WEIGHT_BITS = (2, 3, 4, 5, 6, 7, 8, 16)
KINDS = {
    f"W{bits}A{acts}{'-split' if split else ''}-S{softmax}": dict(
        weights=bits, activations=acts, softmax_bits=softmax, split=split
    )
    for i, (bits, split) in enumerate((b, s) for b in WEIGHT_BITS for s in (False, True))
    for acts, softmax in [((8, 16, 32)[i % 3], (8, 16)[i % 2 ^ i // 2 % 2])]
}
FEW = ("W2A8-S8", "W3A8-split-S8", "W4A16-S8", "W8A16-split-S16", "W16A32-S16")  # in ``make test``
HALVES = (torch.float16, torch.bfloat16)


def quantized(make=unet2d, **changes):
    """A quantized pipeline whose biases and norms are numbers of both half-precision types."""
    pipe = ddpm(make().bfloat16().float().half().float())
    recipe = Recipe.linear(**{**SMALL, "weight_range": "min_max", **changes})
    return quantize(pipe, recipe, random_inputs(pipe.unet, 8), progress=False)


@pytest.fixture(
    scope="module",
    params=[name if name in FEW else pytest.param(name, marks=pytest.mark.exhaustive) for name in KINDS],
)
def pipe(request):
    """A quantized pipeline of each kind; do not change it."""
    return quantized(**KINDS[request.param])


@pytest.fixture(scope="module")
def other():
    """One with 4-bit weights, split; do not change it."""
    return quantized(weights=4, activations=8, split=True)


def integers(unet):
    """Codes, scales and zero points, by name."""
    found = {}
    for name, module in unet.named_modules():
        if isinstance(module, HoldsIntegers):
            found |= {f"{name}.{key}": value for key, value in module.named_buffers() if key != "weight"}
    return {name: value for name, value in found.items() if not name.endswith(".weight")}


def assert_same(found, expected):
    """The same integers and, in single precision, the same output bit for bit."""
    assert_same_tensors(integers(found), integers(expected))
    kinds = [{name: value.dtype for name, value in integers(unet).items()} for unet in (found, expected)]
    assert kinds[0] == kinds[1]
    assert {kind for name, kind in kinds[0].items() if name.endswith("scale")} == {torch.float32}
    inputs = random_inputs(expected)
    assert torch.equal(output(found.float(), inputs), output(expected, inputs))


def test_every_layer_holds_codes(pipe):
    layers = quant_layers(pipe.unet)
    assert len(layers) > 20 and all(layer.codes.dtype == torch.uint8 for layer in layers)
    assert {name.rpartition(".")[2] for name in integers(pipe.unet)} >= {"codes", "weight_scale"}


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_a_cast_keeps_the_integers(pipe, dtype):
    unet = copy.deepcopy(pipe.unet).to(dtype)
    assert_same_tensors(integers(unet), integers(pipe.unet))
    layers = zip(quant_layers(unet), quant_layers(pipe.unet), strict=True)
    assert all(torch.equal(cast.weight, layer.weight.to(dtype)) for cast, layer in layers)
    inputs = random_inputs(unet, 2).rows(slice(None))
    given = {name: x.to(dtype) if x.is_floating_point() else x for name, x in inputs.items()}
    with torch.no_grad():
        assert unet(**given).sample.dtype == dtype
    assert_same(unet.cpu(), pipe.unet)


def test_copies_and_pickles(pipe):
    assert_same(copy.deepcopy(pipe.unet), pipe.unet)
    again = pickle.loads(pickle.dumps(pipe.unet))
    assert_same(again, pipe.unet)
    assert again.quantization.recipe == pipe.unet.quantization.recipe
    assert again.hf_quantizer.model is again


def test_the_model_alone(pipe, tmp_path):
    pipe.unet.save_pretrained(tmp_path)
    assert_same(UNet2DModel.from_pretrained(tmp_path), pipe.unet)
    for dtype in HALVES:
        unet = UNet2DModel.from_pretrained(tmp_path, torch_dtype=dtype)
        assert unet.dtype == dtype and {layer.weight.dtype for layer in quant_layers(unet)} == {dtype}
        assert_same(unet, pipe.unet)


def test_a_model_saved_in_half_precision(other, tmp_path):
    copy.deepcopy(other.unet).half().save_pretrained(tmp_path)
    assert_same(UNet2DModel.from_pretrained(tmp_path, torch_dtype=torch.float16), other.unet)
    assert_same(UNet2DModel.from_pretrained(tmp_path), other.unet)


def test_the_pipeline(pipe, tmp_path):
    save_quantized(pipe, tmp_path / "a")
    pipe.save_pretrained(tmp_path / "b")
    found = load(tmp_path / "a")
    assert_same(found.unet, pipe.unet)
    assert found.unet.quantization.recipe == pipe.unet.quantization.recipe
    assert found.unet.quantization.calibration == pipe.unet.quantization.calibration
    assert_same(DiffusionPipeline.from_pretrained(tmp_path / "b").unet, pipe.unet)


def test_each_way_reads_what_each_way_writes(other, tmp_path):
    save_quantized(other, tmp_path / "a")
    other.save_pretrained(tmp_path / "b")
    for folder in ("a", "b"):
        assert_same(load(tmp_path / folder).unet, other.unet)
        assert_same(DiffusionPipeline.from_pretrained(tmp_path / folder).unet, other.unet)
        half = DiffusionPipeline.from_pretrained(tmp_path / folder, torch_dtype=torch.float16)
        assert half.unet.dtype == torch.float16
        assert_same(half.unet, other.unet)


def test_a_loaded_model_saves_the_same_file(other, tmp_path):
    other.unet.save_pretrained(tmp_path / "a")
    UNet2DModel.from_pretrained(tmp_path / "a").save_pretrained(tmp_path / "b")
    first, second = (load_file(tmp_path / f / "diffusion_pytorch_model.safetensors") for f in "ab")
    assert_same_tensors(first, second)
    first, second = (json.loads((tmp_path / f / "config.json").read_text()) for f in "ab")
    assert first == {name: value for name, value in second.items() if name != "_name_or_path"}


def test_load_state_dict_gives_the_other_weights(pipe):
    changes = pipe.unet.quantization.recipe.grids
    bits = dict(weights=changes.weights, activations=changes.activations)
    bits |= dict(softmax_bits=changes.softmax_bits, split=changes.split)
    unet = quantized(lambda: unet2d(seed=1), **bits).unet
    inputs = random_inputs(unet)
    assert not torch.equal(output(unet, inputs), output(pipe.unet, inputs))
    unet.load_state_dict(pipe.unet.state_dict())
    assert_same(unet, pipe.unet)


@pytest.mark.parametrize("backend", [pytest.param("eager", marks=pytest.mark.exhaustive), "aot_eager"])
def test_a_compiled_model(other, backend, tmp_path):
    pipe = copy.copy(other)
    pipe.unet = torch.compile(copy.deepcopy(other.unet), backend=backend)
    inputs = random_inputs(other.unet)
    found, expected = output(pipe.unet, inputs), output(other.unet, inputs)
    # A compiler may order sums in another way; a code that flips moves the output by one step of a grid.
    assert ((found - expected).abs() <= 0.05 * expected.abs().max()).all()
    for save in (save_quantized, lambda pipe, folder: pipe.save_pretrained(folder)):
        save(pipe, tmp_path)
        assert_same(load(tmp_path).unet, other.unet)


# In a process of its own

DRAW = """
import sys, torch
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained(sys.argv[1])
text = dict(prompt=["red apple"]) if "prompt" in sys.argv else {}
images = pipe(num_inference_steps=2, generator=torch.manual_seed(0), output_type="np", **text).images
torch.save(torch.from_numpy(images), sys.argv[2])
"""


def run(code, *args):
    """Run Python code with the tests' modules in reach; fail with what it wrote."""
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'tests')!r})\n{code}"
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]


def drawn(pipe, **text):
    return pipe(num_inference_steps=2, generator=torch.manual_seed(0), output_type="np", **text).images


def test_another_process_draws_the_same(other, tmp_path):
    save_quantized(other, tmp_path / "model")
    run(f"import diffusers, qdiff_lib\n{DRAW}", tmp_path / "model", tmp_path / "images.pt")
    assert torch.equal(torch.load(tmp_path / "images.pt"), torch.from_numpy(drawn(other)))


SHIPPED = """
for folder in sys.argv[4:]:
    pipe = DiffusionPipeline.from_pretrained(folder)
    text = dict(prompt="red apple") if "sd-" in folder else {}
    images = pipe(num_inference_steps=2, output_type="np", **text).images
    assert images.ndim == 4 and images.std() > 0.01 and images.min() >= 0, folder
    assert hasattr(pipe.unet, "quantization") == ("w4" in folder), folder
"""


@pytest.mark.slow
def test_another_process_draws_the_same_of_a_text_and_loads_every_shipped_model(tmp_path):
    """Here qdiff_lib is imported first; diffusers alone loads the models."""
    recipe = Recipe.linear(4, 8, **SMALL)
    pipe = quantize(stable_diffusion(), recipe, prompts=["flag", "dog"], progress=False)
    pipe.save_pretrained(tmp_path / "model")
    shipped = [data_folder() / "models" / name for name in embedded_names()]
    assert len(shipped) >= 5
    code = f"import qdiff_lib, diffusers\n{DRAW}{SHIPPED}"
    run(code, tmp_path / "model", tmp_path / "images.pt", "prompt", *shipped)
    expected = torch.from_numpy(drawn(pipe, prompt=["red apple"]))
    assert torch.equal(torch.load(tmp_path / "images.pt"), expected)
