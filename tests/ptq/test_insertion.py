"""The quantized copy: the same function until ranges are set, and only the chosen layers."""

from fnmatch import fnmatch

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from tiny_models import (
    assert_same_tensors,
    conditional_unet,
    output,
    random_inputs,
    snapshot,
    traced,
    unet2d,
    with_quantizers,
)

from qdiff_lib.graph.model_inputs import example_inputs
from qdiff_lib.modules.activation_quantizer import activation_quantizers
from qdiff_lib.modules.attention import QuantAttention
from qdiff_lib.modules.quant_layer import QuantLayer, quant_layers
from qdiff_lib.recipes.parts import Grids

MODELS = pytest.mark.parametrize("make", [unet2d, conditional_unet], ids=["plain", "text"])


def names_of(unet):
    return {name for name, module in unet.named_modules() if isinstance(module, QuantLayer)}


@MODELS
@pytest.mark.parametrize("split", [True, False], ids=["split", "whole"])
def test_layers_compute_the_same_bits_until_ranges_are_set(make, split):
    unet = make()
    inputs = random_inputs(unet)
    quantized = with_quantizers(unet, Grids(split=split, quantize_attention=False))
    assert quant_layers(quantized)
    assert torch.equal(output(quantized, inputs), output(unet, inputs))


@MODELS
@pytest.mark.parametrize("processor", [AttnProcessor, AttnProcessor2_0], ids=["spelt-out", "fused"])
def test_attention_computes_the_same_until_ranges_are_set(make, processor):
    unet = make()
    for module in unet.modules():
        if isinstance(module, Attention):
            module.set_processor(processor())
    inputs = random_inputs(unet)
    quantized = with_quantizers(unet)
    attentions = [m for m in quantized.modules() if isinstance(m, Attention)]
    assert attentions and all(isinstance(m, QuantAttention) for m in attentions)
    torch.testing.assert_close(output(quantized, inputs), output(unet, inputs), rtol=1e-4, atol=1e-5)


@MODELS
def test_set_ranges_change_the_output(make):
    unet = make()
    inputs = random_inputs(unet)
    quantized = with_quantizers(unet, Grids(weights=3, activations=32))
    for layer in quant_layers(quantized):
        layer.find_weight_range("min_max")
        layer.round_weight()
    assert not torch.allclose(output(quantized, inputs), output(unet, inputs), atol=1e-3)


@MODELS
def test_the_original_is_untouched(make):
    unet = make().train()
    before, types = snapshot(unet), [type(m) for m in unet.modules()]
    for layer in quant_layers(with_quantizers(unet)):
        layer.find_weight_range("min_max")
        layer.round_weight()
        if layer.bias is not None:
            layer.bias.zero_()
    assert_same_tensors(snapshot(unet), before)
    assert [type(m) for m in unet.modules()] == types
    assert unet.training and all(p.requires_grad for p in unet.parameters())


def test_the_copy_is_frozen_and_drops_nothing():
    unet = unet2d(dropout=0.5).train()
    inputs = random_inputs(unet)
    assert not torch.equal(output(unet, inputs), output(unet, inputs))
    quantized = with_quantizers(unet)
    assert not [name for name, module in quantized.named_modules() if module.training]
    assert not [name for name, p in quantized.named_parameters() if p.requires_grad]
    assert torch.equal(output(quantized, inputs), output(quantized, inputs))


@pytest.mark.parametrize(
    "include, exclude",
    [
        (("*",), ()),
        (("*.resnets.*",), ()),
        (("*",), ("conv_in", "conv_out", "*time_emb*")),
        (("up_blocks.*", "conv_out"), ("*.conv_shortcut",)),
    ],
    ids=["all", "resnets", "without-edges-and-time", "up-without-shortcuts"],
)
def test_patterns_choose_the_layers(include, exclude):
    unet = unet2d()
    chosen = {
        name
        for unit in traced(unet).units
        for name in unit.layers
        if any(fnmatch(name, p) for p in include) and not any(fnmatch(name, p) for p in exclude)
    }
    assert names_of(with_quantizers(unet, Grids(include=include, exclude=exclude))) == chosen


def test_all_layers_are_chosen_by_default():
    unet = unet2d()
    every = {n for n, m in unet.named_modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)}
    assert names_of(with_quantizers(unet)) == every


def test_a_modules_name_means_all_within():
    quantized = with_quantizers(unet2d(), Grids(exclude=("mid_block.attentions.0",)))
    excluded = quantized.mid_block.attentions[0]
    assert not any(isinstance(module, QuantLayer | QuantAttention) for module in excluded.modules())
    assert isinstance(quantized.down_blocks[1].attentions[0], QuantAttention)
    quantized = with_quantizers(unet2d(), Grids(include=("mid_block",)))
    assert {name.partition(".")[0] for name in names_of(quantized)} == {"mid_block"}


@pytest.mark.parametrize(
    "patterns, words",
    [
        (dict(exclude=("conv_ot",)), "exclude has the pattern 'conv_ot'.*'conv_out'"),
        (dict(exclude=("time_emb",)), "exclude has the pattern 'time_emb'.*'time_embedding'"),
        (dict(include=("mid_block", "nothing*")), "include has the pattern 'nothing"),
        (dict(exclude=("conv_norm_out",)), "matches no layer"),
    ],
)
def test_a_pattern_that_matches_nothing_is_refused(patterns, words):
    with pytest.raises(ValueError, match=words):
        with_quantizers(unet2d(), Grids(**patterns))


def test_hooks_stay_on_what_takes_their_modules_place():
    unet, seen = unet2d(), []
    for name in ("conv_in", "mid_block.attentions.0"):
        module = unet.get_submodule(name)
        module.register_forward_hook(lambda module, args, output: seen.append(type(module)))
        add_hook_to_module(module, ModelHook())
    quantized = with_quantizers(unet)
    seen.clear()
    quantized(**random_inputs(unet, 1).rows(slice(None)))
    assert seen == [QuantLayer, QuantAttention]
    for network in (unet, quantized):
        for name in ("conv_in", "mid_block.attentions.0"):
            module = network.get_submodule(name)
            assert isinstance(module._hf_hook, ModelHook) and module.forward.args == (module,)


@pytest.mark.parametrize("patterns", [dict(include=()), dict(exclude=("*",))], ids=["include", "exclude"])
def test_patterns_that_choose_nothing_are_refused(patterns):
    with pytest.raises(ValueError, match="choose no layer"):
        with_quantizers(unet2d(), Grids(**patterns))


@pytest.mark.parametrize(
    "grids, edge, inner",
    [
        (Grids(weights=4, activations=6, edge_bits=8), (8, 8), (4, 6)),
        (Grids(weights=4, activations=8, edge_bits=6), (6, 8), (4, 8)),
        (Grids(weights=4, activations=6), (4, 6), (4, 6)),
    ],
    ids=["wider-edges", "never-below-the-activations", "no-edges"],
)
def test_edge_bits(grids, edge, inner):
    quantized = with_quantizers(unet2d(), grids)
    for name, module in quantized.named_modules():
        if isinstance(module, QuantLayer):
            bits = (module.weight_grid.bits, module.inputs[0].grid.bits)
            assert bits == (edge if name in ("conv_in", "conv_out") else inner), name


@pytest.mark.parametrize("split", [True, False], ids=["split", "whole"])
def test_split_follows_the_concatenation(split):
    unet = unet2d()
    splits = traced(unet).concat_splits
    quantized = with_quantizers(unet, Grids(split=split))
    for name in names_of(quantized):
        layer = quantized.get_submodule(name)
        whole = (layer.weight.shape[1],)
        assert layer.sizes == (splits.get(name, whole) if split else whole)
        assert len(layer.inputs) == len(layer.sizes)


def test_softmax_bits_and_grids_of_attention():
    quantized = with_quantizers(unet2d(), Grids(activations=6, softmax_bits=16, symmetric_activations=True))
    attention = quantized.mid_block.attentions[0]
    products = (attention.quantize_q, attention.quantize_k, attention.quantize_v)
    assert [q.grid.bits for q in products] == [6, 6, 6]
    assert attention.quantize_q.grid.symmetric
    softmax = attention.quantize_softmax.grid
    assert softmax.bits == 16 and not softmax.symmetric


@pytest.mark.parametrize("make, bits", [(unet2d, 8), (conditional_unet, 16)], ids=["plain", "text"])
def test_softmax_has_16_bits_where_a_text_is_read(make, bits):
    unet = make()
    for grids, expected in ((Grids(), bits), (Grids(softmax_bits=6), 6)):
        modules = with_quantizers(unet, grids).modules()
        attentions = [m for m in modules if isinstance(m, Attention)]
        assert attentions and {m.quantize_softmax.grid.bits for m in attentions} == {expected}


@pytest.mark.parametrize(
    "grids",
    [Grids(activations=32), Grids(activations=8, quantize_attention=False)],
    ids=["float-activations", "switched-off"],
)
def test_attention_products_can_stay_in_floating_point(grids):
    quantized = with_quantizers(unet2d(), grids)
    assert not [m for m in quantized.modules() if isinstance(m, QuantAttention)]
    assert bool(activation_quantizers(quantized)) == (grids.activations == 8)


class OtherProcessor(AttnProcessor2_0):
    """Computes what its base class does, but nobody can know."""


def test_an_unknown_attention_processor_is_refused():
    unet = unet2d()
    unet.mid_block.attentions[0].set_processor(OtherProcessor())
    with pytest.raises(ValueError, match="'mid_block.attentions.0': it uses OtherProcessor"):
        with_quantizers(unet)
    excluded = with_quantizers(unet, Grids(exclude=("mid_block.attentions.0",)))
    assert isinstance(excluded.mid_block.attentions[0].processor, OtherProcessor)
    with_quantizers(unet, Grids(quantize_attention=False))


def test_attention_with_added_keys_is_refused():
    unet = conditional_unet(
        down_block_types=("SimpleCrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "SimpleCrossAttnUpBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
    )
    with pytest.raises(ValueError, match="whose products cannot be quantized"):
        with_quantizers(unet)


def test_example_inputs_follow_the_config():
    inputs = example_inputs(conditional_unet(sample_size=(8, 16), in_channels=3), batch=2)
    shapes = {name: tuple(value.shape) for name, value in inputs.items()}
    assert shapes == {"sample": (2, 3, 8, 16), "timestep": (2,), "encoder_hidden_states": (2, 77, 12)}
