"""Networks on the GPU's kernels: which layer runs where, and that each computes what the reference does."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_models import (
    ONE_LEVEL,
    SMALL,
    conditional_unet,
    ddim,
    output,
    random_inputs,
    unet2d,
    with_quantizers,
)
from triton_devices import WHY_NOT_CPU, on_each_device

from qdiff_lib import Recipe, quantize
from qdiff_lib.diffusion.pipelines import with_components
from qdiff_lib.diffusion.sampling import sample
from qdiff_lib.engines.reference import layer_output
from qdiff_lib.engines.triton_engine import layer_reports, triton_network
from qdiff_lib.modules.activation_quantizer import activation_quantizers
from qdiff_lib.modules.quant_layer import QuantLayer, quant_layers
from qdiff_lib.quantizers.observer import ActivationObserver

pytest.importorskip("triton", reason="Triton is not installed: torch for CUDA on Linux brings it")

HERE = Path(__file__).parent
interpreted = pytest.mark.skipif(bool(WHY_NOT_CPU), reason=WHY_NOT_CPU or "runs")


@pytest.fixture(scope="module")
def pipe():
    """A tiny quantized pipeline, with a split layer and edges of 16 bits."""
    recipe = Recipe.qdiffusion(4, 8, weight_rounding="nearest", edge_bits=16, **SMALL)
    return quantize(ddim(unet2d(**ONE_LEVEL)), recipe, progress=False)


@on_each_device
def test_each_layer_computes_what_the_reference_does(pipe, device):
    unet = copy.deepcopy(pipe.unet).to(device)
    network, inputs = triton_network(unet, measure=False), random_inputs(unet, 2)
    compared = []

    def compare(layer, args, out, name):
        exact = layer_output(pipe.unet.get_submodule(name), args[0].cpu())
        assert torch.allclose(out.cpu().double(), exact, rtol=1e-5, atol=1e-5 * exact.abs().max().item())
        compared.append(name)

    for report in layer_reports(network):
        layer = network.get_submodule(report.name)
        if report.runs_in == "int8":
            layer.register_forward_hook(lambda *args, name=report.name: compare(*args, name))
    with torch.no_grad():
        arguments = {name: x.to(device) for name, x in inputs.rows(slice(None)).items()}
        network(**arguments)
    integers = [layer for layer in quant_layers(pipe.unet) if layer.weight_grid.bits <= 8]
    assert len(compared) == len(integers) > 20 and any(len(layer.sizes) > 1 for layer in integers)


@interpreted
def test_reports_name_every_layer_and_the_reason(pipe):
    reports = {report.name: report for report in layer_reports(triton_network(pipe.unet))}
    assert reports.keys() == {name for name, m in pipe.unet.named_modules() if isinstance(m, QuantLayer)}
    assert reports["conv_in"].runs_in == "float"
    assert reports["conv_in"].reason == "its weight or its input has more than 8 bits"
    assert reports["mid_block.resnets.0.conv1"].runs_in == "int8"
    assert not reports["mid_block.resnets.0.conv1"].reason


@pytest.mark.slow
@interpreted
def test_a_layer_that_bf16_computes_faster_runs_in_bf16(pipe):
    """Torch multiplies faster than an interpreter. Both results are close."""
    network = triton_network(pipe.unet, batch=1, measure=True)
    chosen = [report for report in layer_reports(network) if report.runs_in == "bf16"]
    assert len(chosen) > 10
    for report in chosen:
        floats, integers = (float(part.split()[0]) for part in report.reason.split(","))
        assert floats < integers and report.reason.endswith("us in int8")
    inputs = random_inputs(pipe.unet, 2).rows(slice(None))
    with torch.no_grad():
        found, exact = network(**inputs).sample, pipe.unet(**inputs).sample
    assert (found - exact).norm() < 0.1 * exact.norm()


@interpreted
def test_the_copy_holds_no_weight_in_floating_point(pipe):
    network = triton_network(pipe.unet)
    layer = network.get_submodule("mid_block.resnets.0.conv1")
    assert layer.weight.dtype == torch.uint8 and not list(layer.children())
    assert isinstance(pipe.unet.get_submodule("mid_block.resnets.0.conv1"), QuantLayer)
    assert network.conv_norm_out.weight.data_ptr() == pipe.unet.conv_norm_out.weight.data_ptr()


@pytest.mark.slow
@interpreted
def test_pipelines_draw_with_it(pipe):
    drawing = with_components(pipe, unet=triton_network(pipe.unet))
    images, simulated = (sample(each, n=1, steps=2).images.float() for each in (drawing, pipe))
    assert images.shape == simulated.shape
    assert (images - simulated).abs().mean() < 8  # of 255; two other images differ by more than 50


@pytest.mark.slow
@interpreted
def test_text_conditional_networks_run():
    unet = conditional_unet(
        block_out_channels=(8,),
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
    )
    calibration = random_inputs(unet, 2)
    quantized = with_quantizers(unet)
    for layer in quant_layers(quantized):
        layer.find_weight_range("min_max")
        layer.round_weight()
    for quantizer in activation_quantizers(quantized):
        quantizer.observer = ActivationObserver(torch.Generator().manual_seed(0), 10_000)
    output(quantized, calibration)
    for quantizer in activation_quantizers(quantized):
        quantizer.set_observed_range("min_max")
    network = triton_network(quantized)
    found, exact = output(network, calibration), output(quantized, calibration)
    assert (found - exact).norm() < 0.1 * exact.norm()


@interpreted
def test_no_images_are_refused(pipe):
    with pytest.raises(ValueError, match="batch=0 must be at least 1"):
        triton_network(pipe.unet, batch=0)


def run_natively(script, cache):
    """Run a script without the interpreter, with a folder for compiled kernels; return what it prints."""
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(cache)}
    command = [sys.executable, script]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=HERE)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_a_gpu_it_says_what_to_do(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from qdiff_lib.engines.triton_engine import triton_network\n"
        "from torch import nn\n"
        "try:\n    triton_network(nn.Linear(2, 2))\n"
        "except ValueError as error:\n    print(error)\n"
    )
    assert "call pipe.to('cuda') first" in run_natively(script, tmp_path)


@pytest.mark.slow
def test_kernels_compile_for_gpus_to_integer_instructions(tmp_path):
    """Triton compiles to the text of a GPU's instructions without one. The traced layer has two kernels."""
    found = json.loads(run_natively(HERE / "native_triton.py", tmp_path))
    for name in ("packed 80", "moved 80", "ones", "sums"):
        assert found[name]["s32.s8.s8.s32"] > 0  # mma.sync of int8
    for name in ("packed 90", "moved 90"):
        assert found[name]["wgmma"] > 0 and found[name][".s32.s8.s8"] > 0
    for name in ("quantize 80", "quantize 90"):
        assert found[name]["div.rn.f32"] > 0 and not found[name]["div.full"]  # as torch divides
        assert found[name]["cvt.rni"] == 0 and found[name]["add"] > 0
    assert found["traced"] == 2
