"""Exported networks, run by the engines themselves in processes without this library."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from latent_models import PROMPTS, stable_diffusion
from tiny_models import ONE_LEVEL, SMALL, snapshot, unet2d
from torch import nn

from qdiff_lib import Recipe, load, quantize
from qdiff_lib.cli.main import main
from qdiff_lib.engines.export import example, export_network
from qdiff_lib.engines.onnx_format import serialized
from qdiff_lib.engines.openvino_format import write_ir
from qdiff_lib.engines.reference import layer_output
from qdiff_lib.engines.run import why_missing
from qdiff_lib.modules.quant_layer import QuantLayer
from qdiff_lib.quantizers.grid import Grid

PAGE = (Path(__file__).parents[2] / "docs" / "engines.md").read_text(encoding="utf-8")
READ = "import sys, numpy; inputs = dict(numpy.load('inputs.npz'))\n"
WRITE = "\nassert not {'torch', 'qdiff_lib'} & set(sys.modules)\nnumpy.save('noise.npy', noise)"
RUN = {
    "onnx": """
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
network = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
[noise] = network.run(["noise"], inputs)""",
    "openvino": """
sys.modules["openvino_telemetry"] = None  # it would send the import to another machine
import openvino
options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
noise = openvino.Core().compile_model(sys.argv[1] + "/network.xml", "CPU", options)(inputs)["noise"]""",
}
every_format = pytest.mark.parametrize("format", RUN)
PARTS = {  # of an input with 8 channels: the layer, the bits of its weight and input, and its parts
    "4 bits": (lambda: nn.Conv2d(8, 5, 3, padding=1), 4, 8, (8,)),
    "8 bits": (lambda: nn.Conv2d(8, 6, 3, stride=2, padding=1), 8, 8, (8,)),
    "parts": (lambda: nn.Conv2d(8, 7, 1, bias=False), 4, 8, (5, 3)),
    "parts of 8 bits": (lambda: nn.Conv2d(8, 3, 3), 8, 8, (3, 5)),
    "3 bits": (lambda: nn.Linear(8, 9), 3, 8, (8,)),
    "2 bits": (lambda: nn.Linear(8, 9), 2, 6, (8,)),
    "5 bits": (lambda: nn.Linear(8, 9), 5, 4, (8,)),
    "6 bits": (lambda: nn.Linear(8, 9), 6, 7, (8,)),
    "7 bits": (lambda: nn.Linear(8, 9), 7, 8, (8,)),
    "wide": (lambda: nn.Linear(8, 9001), 4, 8, (8,)),  # exporters treat large constants in another way
}


def skip_without(format: str) -> None:
    """Skip the test if the engine of a format cannot run a whole network here."""
    if format == "openvino" and (why := why_missing(format)):
        pytest.skip(f"OpenVINO {why}")


class SideBySide(nn.Module):
    """A network of independent layers; its output is all of theirs, (B, values)."""

    def __init__(self, layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, sample, return_dict=False):
        """Return the outputs for (B, 8, 6, 6); a linear layer reads one pixel."""
        return (torch.cat([layer(fitting(layer, sample)).flatten(1) for layer in self.layers], dim=1),)


def fitting(layer, sample):
    """The part of a sample that a layer reads."""
    axis = layer.channel_axis if isinstance(layer, QuantLayer) else layer.axis
    return sample[:, :, 0, 0] if axis == -1 else sample


def quantized_layer(build, weight_bits, input_bits, sizes):
    """A layer rounded to nearest. The scale of its input is a power of two, and differs from part to part."""
    layer = QuantLayer(build(), weight_bits, Grid(input_bits), sizes)
    layer.find_weight_range("min_max")
    layer.round_weight()
    for i, quantizer in enumerate(layer.inputs):
        quantizer.set_range(torch.tensor(2.0 ** (-i - 5)), torch.tensor(2 ** (input_bits - 2) + i))
    return layer


@pytest.fixture(scope="module")
def layers():
    """A network of one layer of each of PARTS."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SideBySide([quantized_layer(*part) for part in PARTS.values()]).eval()


def written(network, inputs, format, folder):
    """Write any network in a format; returns the path."""
    if format == "onnx":
        (folder / "layers.onnx").write_bytes(serialized(network, inputs))
        return folder / "layers.onnx"
    write_ir(network, inputs, folder)
    return folder


def run(format, path, folder, **inputs):
    """The noise that an engine computes from a file, in a process of its own."""
    np.savez(folder / "inputs.npz", **{name: x.numpy() for name, x in inputs.items()})
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    script = READ + RUN[format] + WRITE
    subprocess.run([sys.executable, "-c", script, path], cwd=folder, env=environment, check=True)
    return torch.from_numpy(np.load(folder / "noise.npy"))


def off_ties(shape):
    """Multiples of 1/32, and up to 1/512 more or less: none lies in the middle between two codes.

    Codes stay below 128: on some processors OpenVINO's products of 8 by 8 bits saturate with larger ones.
    """
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(-150, 50, shape, generator=generator) * 2
    return (codes + 0.25 * (torch.rand(shape, generator=generator) - 0.5)) / 64


@every_format
def test_layers_of_all_bits_give_the_integer_sums(format, layers, tmp_path):
    path = written(layers, {"sample": torch.zeros(2, 8, 6, 6)}, format, tmp_path)
    for batch in (1, 3):
        x = off_ties((batch, 8, 6, 6))
        found = run(format, path, tmp_path, sample=x)
        expected = [layer_output(layer, fitting(layer, x)).flatten(1) for layer in layers.layers]
        sizes = [y.shape[1] for y in expected]
        for name, a, b in zip(PARTS, found.split(sizes, 1), expected, strict=True):
            assert (a - b).abs().max() <= 2e-5 * b.abs().max(), name  # 72 products: 76 / 2^24, by 3


def test_an_onnx_file_holds_the_codes_scales_and_zero_points(layers):
    model = onnx.load_from_string(serialized(layers, {"sample": torch.zeros(2, 8, 6, 6)}))
    onnx.checker.check_model(model, full_check=True)
    constants = {each.name: each for each in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type == "DequantizeLinear"]
    weights = [node for node in nodes if node.input[0] in constants]  # in the order of the layers
    found = iter([constants[name] for name in node.input] for node in weights)
    for layer in layers.layers:
        for i, codes in enumerate(layer.integer_codes().split(layer.sizes, 1)):
            held = next(found)
            kind = onnx.TensorProto.UINT4 if layer.weight_grid.bits <= 4 else onnx.TensorProto.UINT8
            assert [each.data_type for each in held] == [kind, onnx.TensorProto.FLOAT, kind]
            values = [onnx.numpy_helper.to_array(each) for each in held]
            ours = (codes, layer.weight_scale[:, i], layer.weight_zero_point[:, i])
            for a, b in zip(values, ours, strict=True):
                assert np.array_equal(a.astype(b.numpy().dtype), b.numpy())


def relative_error(found, expected):
    """The size of the difference, by that of the expected values."""
    return float((found - expected).norm() / expected.norm())


def check_network(format, path, folder, quantized, full, inputs):
    """The engine must differ less from the simulated network than quantization changes the network."""
    for batch in (1, 3):
        rows = {name: x[:batch] for name, x in inputs.items()}
        with torch.no_grad():
            simulated, exact = (unet(**rows, return_dict=False)[0] for unet in (quantized, full))
        difference = relative_error(run(format, path, folder, **rows), simulated)
        error = relative_error(simulated, exact)
        print(f"{format}, {batch} images: {difference:.4f} from simulated; quantization {error:.4f}")
        assert difference < error / 2


def noise_and_times(unet, n=3):
    """Fixed inputs of a network, from all times."""
    size = unet.config.sample_size
    shape = (n, unet.config.in_channels, size, size)
    sample = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return {"sample": sample, "timestep": torch.tensor([5.0, 300.0, 900.0])}


def size(text):
    """The bytes that the page on engines states in the row that starts with a text."""
    return int(re.search(rf"\| {re.escape(text)}[^|]*\| ([\d,]+) \|", PAGE)[1].replace(",", ""))


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", pytest.param("openvino", marks=pytest.mark.exhaustive)])
def test_the_command_of_the_page_writes_the_shipped_model_in_4_bits(format, tmp_path, monkeypatch):
    skip_without(format)
    monkeypatch.chdir(tmp_path)
    [command] = re.findall(rf"^    python -m qdiff_lib (export .* --format {format} .*)$", PAGE, re.MULTILINE)
    assert main(command.split()) == 0
    path = tmp_path / command.split()[-1]
    stated, file = ("`w4a8.onnx`", path) if format == "onnx" else ("`network.bin`", path / "network.bin")
    assert file.stat().st_size == pytest.approx(size(stated), rel=0.02)
    assert file.stat().st_size < 1.4e6  # 2.25 million weights
    quantized, full = (load(name).unet for name in ("ddpm-fashion-w4a8", "ddpm-fashion"))
    check_network(format, path, tmp_path, quantized, full, noise_and_times(full))


@pytest.mark.parametrize("format", [pytest.param("onnx", marks=pytest.mark.exhaustive), "openvino"])
@pytest.mark.parametrize(
    "made", [stable_diffusion, pytest.param(lambda: load("sd-emoji"), marks=pytest.mark.exhaustive)]
)
def test_a_model_that_draws_from_texts(format, made, tmp_path):
    skip_without(format)
    pipe, prompts = made(), PROMPTS[:2]
    recipe = Recipe.linear(weights=4, activations=8, **{**SMALL, "steps": 3, "samples": 6})
    quantized = quantize(pipe, recipe, prompts=prompts, progress=False)
    path = tmp_path / ("w4a8.onnx" if format == "onnx" else "w4a8")
    export_network(quantized, path, format)
    with torch.no_grad():
        texts = pipe.encode_prompt([*prompts, ""], "cpu", 1, False)[0]
    inputs = noise_and_times(pipe.unet) | {"encoder_hidden_states": texts}
    check_network(format, path, tmp_path, quantized.unet, pipe.unet, inputs)


def test_a_network_in_half_precision_is_exported_and_stays_so(tmp_path):
    unet = unet2d(**ONE_LEVEL).half()
    before = snapshot(unet)
    export_network(unet, tmp_path / "half.onnx")
    assert {x.dtype for x in unet.state_dict().values()} == {torch.float16}
    assert all(torch.equal(before[name], x) for name, x in unet.state_dict().items())
    inputs = {name: x[:1] + 1 for name, x in example(unet).items()}
    with torch.no_grad():
        expected = unet.float()(**inputs).sample
    found = run("onnx", tmp_path / "half.onnx", tmp_path, **inputs)
    assert relative_error(found, expected) < 1e-5


@pytest.mark.parametrize(
    "format, name, words",
    [
        ("tflite", "x", "format='tflite' is unknown; use one of ('onnx', 'openvino')"),
        ("onnx", "x.pb", "name a file that ends in .onnx"),
        ("onnx", "folder.onnx", "name a file that ends in .onnx"),
        ("openvino", "folder.onnx", "is not an empty folder; name a new one"),
        ("openvino", "file", "is not an empty folder; name a new one"),
    ],
)
def test_what_cannot_be_written_is_refused(format, name, words, tmp_path):
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "folder.onnx" / "kept").write_text("")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError) as error:
        export_network(unet2d(), tmp_path / name, format)
    assert words in str(error.value)


@pytest.mark.parametrize(
    "format, package", [("onnx", "onnx"), ("onnx", "onnxscript"), ("openvino", "openvino")]
)
def test_a_missing_package_is_one_line_with_its_cure(format, package, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, package, None)
    argv = ["export", "--model", "ddpm-fashion", "--format", format, "--out", str(tmp_path / "new.onnx")]
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and f"format='{format}'" in err and "python -m pip install" in err
    assert not list(tmp_path.iterdir())


def test_an_error_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("qdiff_lib.engines.onnx_format.LARGEST_FILE", 1000)
    with pytest.raises(ValueError, match="bytes, and 1000 are allowed: use format='openvino'"):
        export_network(unet2d(**ONE_LEVEL), tmp_path / "new" / "large.onnx")
    assert not list(tmp_path.iterdir())


def test_only_networks_on_the_cpu(tmp_path):
    pipe = SimpleNamespace(unet=unet2d().to("meta"))
    with pytest.raises(ValueError, match=r"is on meta, and export needs it on the CPU: call .to\('cpu'\)"):
        export_network(pipe, tmp_path / "x.onnx")
