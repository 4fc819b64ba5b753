"""Lesson 6: figures that say what they show, tables of recorded results, and the measurement itself."""

from datetime import timedelta
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_models import ddim

from qdiff_lib.course import integer_speed
from qdiff_lib.course.figures import lesson_06 as figures
from qdiff_lib.course.integer_speed import Execution, Product, Speed
from qdiff_lib.course.recorded import if_recorded
from qdiff_lib.engines.run import why_missing

KINDS = {"products": 6.0, "moving data": 1.0, "means of norms": 1.0, "element-wise": 2.0}


def execution(seconds: float) -> Execution:
    return Execution(10.0, KINDS, (Product(10**9, 30.0, seconds), Product(10**8, 2.0, seconds / 4)))


def speed() -> Speed:
    rates = {"float": 100.0, "int8": 400.0, "memory": 10.0}
    return Speed(20.0, execution(0.02), execution(0.005), rates, 0.99)


def test_registers_wrap_around():
    sums = torch.tensor([127, 128, -128, -129, 256])
    assert figures.wrapped(sums, 8).tolist() == [127, -128, -128, 127, 0]
    assert torch.equal(figures.wrapped(sums, 16), sums)


def test_running_sums_name_the_first_wrong_product():
    label = figures.running_sums(torch.tensor([100, 100, 32_700])).get_label()
    assert "8 bits: wrong from product 2 on; 16 bits: wrong from product 3 on; 32 bits: right" in label


def test_channel_pictures_count_what_wraps():
    sums = torch.tensor([[[[1, 2], [3, 40_000]]], [[[0, 0], [0, 0]]]])
    channel = figures.largest_channel(sums)
    assert channel.tolist() == [[1, 2], [3, 40_000]]
    assert "With 16 bits 25% of them" in figures.channel_pictures(channel, 16).get_label()


def test_pictures_compare_neighbouring_rows():
    rows = {
        name: torch.full((2, 1, 8, 8), value, dtype=torch.uint8)
        for name, value in zip("abc", (0, 9, 10), strict=True)
    }
    label = figures.pictures(rows).get_label()
    assert "by 9.0 of 255" in label and "by 1.0 between simulation" in label


def test_figures_of_a_measurement():
    assert "float: roof 100" in figures.roofline(speed()).get_label()
    label = figures.time_by_kind({"floats": execution(0.02), "integers": execution(0.005)}).get_label()
    assert "floats 10.0 ms (products 6.0" in label
    assert execution(0.02).share == 0.6 and Product(10**9, 1.0, 0.5).rate == 2.0


def test_amdahl():
    assert figures.amdahl(0.5, 1e9) == pytest.approx(2) and figures.amdahl(1, 3) == pytest.approx(3)
    assert (
        "become 4 times as fast, the network becomes 1.60 times as fast"
        in figures.amdahl_curve(50).get_label()
    )


def test_tables_of_recorded_results():
    times = {"torch fp32": {"median": 30.0}, "OpenVINO integers": {"median": 10.0}}
    lines = figures.speed_table([{"network": "wide", "batch": 8, "milliseconds": times}]).splitlines()
    assert lines[0] == "wide, 8 images a call" and "3.00 times torch fp32" in lines[2]
    spent = {"bf16 graph": {"seconds_per_image": 0.5}, "integers graph": {"seconds_per_image": 0.25}}
    late = {"bf16 compiled": {"seconds_per_call": 0.01, "calls": 5}}
    result = {"batch": 4, "variants": spent, "first_calls": late}
    lines = figures.gpu_table({"small": {"results": [result]}}).splitlines()
    assert lines[0] == "small, 4 images a call"
    assert (
        "40.0 ms     1.00" in lines[1] and "20.0 ms     2.00" in lines[2] and "10.0 ms     4.00" in lines[3]
    )


def test_without_openvino_the_reference_computes(monkeypatch):
    monkeypatch.setattr(integer_speed, "why_missing", lambda name: "is not installed")
    assert integer_speed.engine_here() == "reference"


def test_the_input_of_a_layer_is_caught_once():
    unet = ddim().unet
    x = torch.randn(2, unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)
    assert torch.equal(integer_speed.input_of(unet.conv_in, unet, x, 3), x)
    assert not unet.conv_in._forward_pre_hooks


def test_calls_take_turns():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    assert set(integer_speed.in_turns(calls, 2)) == {"a", "b"} and "".join(order) == "ababab"


def test_a_sum_after_a_product_is_no_product():
    """In floats the engine fuses attention's products with what follows. In integers it runs them alone."""

    def node(name: str, kind: str, seconds: int) -> SimpleNamespace:
        return SimpleNamespace(node_name=name, node_type=kind, real_time=timedelta(seconds=seconds))

    nodes = [node("scores", "MatMul", 4), node("add", "Subgraph", 1), node("fused", "Subgraph", 2)]
    layers = {"scores": {"one"}, "add": {"one"}, "fused": {"two", "softmax"}}
    request = SimpleNamespace(get_profiling_info=lambda: nodes)
    sizes = {"one": (80, 10), "two": (60, 10)}
    kinds, products = integer_speed.Counted(request, sizes, layers, set()).taken_apart()
    assert kinds["products"] == 6000 and kinds["element-wise"] == 1000
    assert products == (Product(80, 8.0, 4.0), Product(60, 6.0, 2.0))


@pytest.mark.skipif(bool(why_missing("openvino")), reason=f"OpenVINO {why_missing('openvino')}")
def test_without_quantizers_a_model_computes_in_floats():
    from openvino import opset13 as op

    from qdiff_lib.engines.openvino_engine import core

    x = op.parameter([1, 2, 4, 4], np.float32)
    kernel = op.constant(torch.full((3, 2, 3, 3), 0.3).numpy())
    model = integer_speed.wide((integer_speed.levels(x, 0, 255), integer_speed.levels(kernel, -128, 127)), x)
    given = torch.full((1, 2, 4, 4), 0.4).numpy()

    def center(model) -> float:
        return float(core().compile_model(model, "CPU")([given])[0][0, 0, 1, 1])

    sizes = integer_speed.product_sizes(model, 1)
    assert list(sizes.values()) == [(3 * 16 * 18, 32 + 54 + 4 * 48)]
    assert center(model) == 0  # 0.4 and 0.3 are rounded to 0
    assert center(integer_speed.without_quantizers(model)) == pytest.approx(18 * 0.12, rel=0.02)


def test_what_nobody_recorded_is_none():
    assert if_recorded("nobody_has_run_this") is None and if_recorded("ladder").data["rows"]


def test_the_largest_gain_of_each_network():
    milliseconds = {"torch fp32": {"median": 30.0}, "OpenVINO integers": {"median": 10.0}}
    slower = {"torch fp32": {"median": 30.0}, "OpenVINO integers": {"median": 20.0}}
    cases = [{"network": "wide", "milliseconds": times} for times in (milliseconds, slower)]
    assert figures.largest_gains(cases) == {"wide": 3.0}
