"""Sizes and bit operations against known numbers of four models, a hand count and torch's own counter."""

import copy

import pytest
import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from qdiff_lib.graph.cost import LayerCost, bops, layer_costs, model_bytes, parameter_count
from qdiff_lib.graph.networks import build
from qdiff_lib.recipes.paper_networks import DDPM_CIFAR10, LDM4_BEDROOMS, LDM8_CHURCHES, SD_V1_4

MODELS = {
    "ddpm-cifar10": DDPM_CIFAR10,
    "ldm4-bedrooms": LDM4_BEDROOMS,
    "ldm8-churches": LDM8_CHURCHES,
    "sd-v1.4": SD_V1_4,
}

# Printed digits matter: "143.0" checks one decimal.
PARAMETERS = {
    "ddpm-cifar10": "35.746",
    "ldm4-bedrooms": "274.056",
    "ldm8-churches": "294.967",
    "sd-v1.4": "859.521",
}
MEGABYTES = {  # at 32, 8 and 4 bits
    "ddpm-cifar10": ("143.0", "35.7", "17.9"),
    "ldm4-bedrooms": ("1096.2", "274.1", "137.0"),
    "ldm8-churches": ("1179.9", "295.0", "147.5"),
    "sd-v1.4": ("3438.1", "859.5", "429.8"),
}
GMACS = {  # convolutions and linear layers, attention products
    "ddpm-cifar10": ("6.054", "0.168"),
    "ldm4-bedrooms": ("96.018", "5.182"),
    "ldm8-churches": ("18.641", "2.283"),
    "sd-v1.4": ("338.611", "63.026"),
}
BITS = [(32, 32), (8, 32), (4, 32), (8, 8), (4, 8)]  # weights, activations
BOPS = {  # unit, then one column for each pair of BITS
    "ddpm-cifar10": (1e9, ("6583", "2290", "1145", "796", "398")),
    "ldm4-bedrooms": (1e12, ("107.07", "37.24", "18.62", "12.95", "6.48")),
    "ldm8-churches": (1e12, ("22.14", "7.70", "3.85", "2.68", "1.34")),
    "sd-v1.4": (1e12, ("424.9", "147.8", "73.9", "51.4", "25.7")),
}

TINY = {
    "_class_name": "UNet2DModel",
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": [4, 8],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D"],
    "mid_block_type": None,
    "attention_head_dim": 4,
    "norm_num_groups": 2,
}


def assert_printed(value: float, printed: str) -> None:
    decimals = len(printed.partition(".")[2])
    assert f"{value:.{decimals}f}" == printed


def macs(costs: list[LayerCost], *kinds: str) -> int:
    return sum(cost.macs for cost in costs if cost.kind in kinds)


@pytest.fixture(scope="module", params=list(MODELS))
def model(request) -> tuple[str, nn.Module, list[LayerCost]]:
    unet = build(MODELS[request.param], device="meta")
    return request.param, unet, layer_costs(unet)


def test_parameters_match_the_table(model):
    name, unet, _ = model
    assert_printed(parameter_count(unet) / 1e6, PARAMETERS[name])


@pytest.mark.parametrize("column, bits", list(enumerate([32, 8, 4])), ids=["32bit", "8bit", "4bit"])
def test_megabytes_match_the_table(model, column, bits):
    name, unet, _ = model
    assert_printed(model_bytes(parameter_count(unet), bits) / 1e6, MEGABYTES[name][column])


def test_macs_match_the_table(model):
    name, _, costs = model
    assert_printed(macs(costs, "conv", "linear") / 1e9, GMACS[name][0])
    assert_printed(macs(costs, "attention") / 1e9, GMACS[name][1])


@pytest.mark.parametrize("column, bits", list(enumerate(BITS)), ids=[f"w{w}a{a}" for w, a in BITS])
def test_bops_match_the_table(model, column, bits):
    name, _, costs = model
    unit, printed = BOPS[name]
    assert_printed(bops(costs, *bits) / unit, printed[column])


def test_total_agrees_with_torchs_flop_counter(model):
    name, unet, costs = model
    inputs = {
        "sample": torch.empty(1, unet.config.in_channels, *[unet.config.sample_size] * 2),
        "timestep": torch.zeros(1),
    }
    if name == "sd-v1.4":
        inputs["encoder_hidden_states"] = torch.empty(1, 77, 768)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        unet(**{key: value.to("meta") for key, value in inputs.items()})
    assert counter.get_total_flops() == 2 * macs(costs, "conv", "linear", "attention")


def test_layers_hold_all_parameters_but_the_norms(model):
    _, unet, costs = model
    norms = [module for module in unet.modules() if isinstance(module, (nn.GroupNorm, nn.LayerNorm))]
    assert sum(cost.parameters for cost in costs) == parameter_count(unet) - sum(map(parameter_count, norms))


def test_tiny_unet_against_a_hand_count():
    costs = {cost.name: cost for cost in layer_costs(TINY)}

    def expect(name: str, kind: str, parameters: int, macs: int) -> None:
        assert costs[name] == LayerCost(name, kind, parameters, macs)

    expect("conv_in", "conv", 4 * 1 * 9 + 4, 8 * 8 * 4 * 1 * 9)
    expect("time_embedding.linear_1", "linear", 16 * 4 + 16, 16 * 4)
    expect("down_blocks.0.downsamplers.0.conv", "conv", 4 * 4 * 9 + 4, 4 * 4 * 4 * 4 * 9)  # 8 x 8 to 4 x 4
    expect("down_blocks.1.resnets.0.conv_shortcut", "conv", 8 * 4 + 8, 4 * 4 * 8 * 4)
    expect("down_blocks.1.attentions.0.to_q", "linear", 8 * 8 + 8, 16 * 8 * 8)
    expect(
        "down_blocks.1.attentions.0", "attention", 0, 2 * 2 * 16 * 16 * 4
    )  # 2 products, 2 heads, 4 channels a head
    expect(
        "up_blocks.1.resnets.0.conv1", "conv", 4 * (8 + 4) * 9 + 4, 8 * 8 * 4 * (8 + 4) * 9
    )  # after the concatenation
    expect("conv_out", "conv", 1 * 4 * 9 + 1, 8 * 8 * 1 * 4 * 9)


def test_layers_come_in_execution_order():
    names = [cost.name for cost in layer_costs(TINY)]
    assert names[:3] == ["time_embedding.linear_1", "time_embedding.linear_2", "conv_in"]
    first = "down_blocks.1.attentions.0"
    start = names.index(f"{first}.to_q")
    assert names[start : start + 5] == [
        f"{first}.to_q",
        f"{first}.to_k",
        f"{first}.to_v",
        first,
        f"{first}.to_out.0",
    ]
    assert names[-1] == "conv_out"


def test_cross_attention_counts_query_and_key_tokens():
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8,),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("UpBlock2D",),
        mid_block_type=None,
        attention_head_dim=2,
        cross_attention_dim=6,
        norm_num_groups=2,
    )
    block = "down_blocks.0.attentions.0.transformer_blocks.0"

    def attention(**kwargs) -> dict[str, int]:
        return {cost.name: cost.macs for cost in layer_costs(unet, **kwargs) if cost.kind == "attention"}

    assert attention() == {f"{block}.attn1": 2 * 8 * 64 * 64, f"{block}.attn2": 2 * 8 * 64 * 77}
    shorter = attention(inputs={"encoder_hidden_states": torch.zeros(1, 5, 6)})
    assert shorter[f"{block}.attn2"] == 2 * 8 * 64 * 5


def test_counts_are_for_one_sample_whatever_the_batch():
    inputs = {"sample": torch.zeros(3, 1, 8, 8), "timestep": torch.tensor([1, 2, 3])}
    assert layer_costs(TINY, inputs) == layer_costs(TINY)


def test_unet_on_cpu_is_left_as_it_was():
    unet = build(TINY)
    before = copy.deepcopy(unet.state_dict())
    assert layer_costs(unet) == layer_costs(TINY)
    assert all(torch.equal(value, before[key]) for key, value in unet.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in unet.modules())


def test_unet_with_replaced_layers_is_counted_from_its_config():
    unet = build(TINY)
    unet.conv_in = nn.Sequential(unet.conv_in)
    assert layer_costs(unet) == layer_costs(TINY)


COSTS = [LayerCost("first", "conv", 10, 100), LayerCost("second", "linear", 10, 1000)]


def test_bops_with_bits_by_layer():
    assert bops(COSTS, {"first": 8, "second": 4}, 8) == 2 * (100 * 8 * 8 + 1000 * 4 * 8)


def test_layers_missing_in_the_mapping_stay_in_floating_point():
    assert bops(COSTS, {"second": 4}, {"second": 8}) == 2 * (100 * 23 * 23 + 1000 * 4 * 8)
    assert bops(COSTS, {}, {}) == bops(COSTS, 32, 32)


@pytest.mark.parametrize("bits", [0, 1, 17, 31, 64, -4, 4.0, "8", True, None])
def test_bits_out_of_range(bits):
    for call in (
        lambda: model_bytes(10, bits),
        lambda: bops(COSTS, bits, 8),
        lambda: bops(COSTS, 8, bits),
        lambda: bops(COSTS, {"first": bits}, 8),
    ):
        with pytest.raises(ValueError, match=f"is {bits!r}; pass an integer from 2 to 16, or 32"):
            call()


def test_mapping_with_an_unknown_layer():
    with pytest.raises(ValueError, match="weight_bits names 'third', which is not in costs"):
        bops(COSTS, {"third": 4}, 8)


def test_unsupported_unet():
    with pytest.raises(TypeError, match="unet is a Linear; pass a UNet2DModel or UNet2DConditionModel"):
        layer_costs(nn.Linear(2, 2))
    with pytest.raises(TypeError, match="unet is a dict; pass a module"):
        parameter_count(TINY)


def test_unsupported_config():
    with pytest.raises(ValueError, match="is 'UNet3DConditionModel'; set it to one of UNet2DModel"):
        build({**TINY, "_class_name": "UNet3DConditionModel"})
    with pytest.raises(ValueError, match='"_class_name".* is None'):
        layer_costs({"sample_size": 8})
    with pytest.raises(TypeError, match="config is a str; pass a dict"):
        build("ddpm-cifar10")


def test_missing_sample_size():
    config = {**TINY, "sample_size": None}
    with pytest.raises(ValueError, match="sample_size is None; pass sample in inputs"):
        layer_costs(config)
    assert layer_costs(config, {"sample": torch.zeros(1, 1, 8, 8)}) == layer_costs(TINY)


def test_build_gives_the_class_in_eval_mode():
    unet = build(TINY)
    assert isinstance(unet, UNet2DModel) and not unet.training
    assert unet(torch.zeros(2, 1, 8, 8), 0).sample.shape == (2, 1, 8, 8)
