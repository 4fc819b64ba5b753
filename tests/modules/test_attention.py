"""The quantized attention products against those of diffusers, against formulas, and cut into slices."""

import copy

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from latent_models import stable_diffusion
from tiny_models import SMALL

from qdiff_lib import Recipe, quantize, sample
from qdiff_lib.diffusion.pipelines import with_components
from qdiff_lib.modules import attention as attention_module
from qdiff_lib.modules.activation_quantizer import ActivationQuantizer, activation_quantizers
from qdiff_lib.modules.attention import QuantAttention
from qdiff_lib.quantizers.grid import Grid
from qdiff_lib.quantizers.observer import ActivationObserver

U64 = 2**-53  # unit roundoff of float64

ATTENTIONS = {  # options of the attention, shape of the input, shape of the context, shape of the mask
    "self-image": (dict(norm_num_groups=4, residual_connection=True), (2, 16, 4, 4), None, None),
    "self-image-rescaled": (dict(norm_num_groups=2, rescale_output_factor=2.0), (2, 16, 2, 6), None, None),
    "self-tokens": (dict(bias=True), (2, 10, 16), None, None),
    "cross": (dict(cross_attention_dim=12), (2, 10, 16), (2, 7, 12), None),
    "cross-image": (
        dict(cross_attention_dim=12, norm_num_groups=4, residual_connection=True),
        (2, 16, 4, 4),
        (2, 7, 12),
        None,
    ),
    "cross-normed": (
        dict(cross_attention_dim=12, cross_attention_norm="layer_norm"),
        (2, 10, 16),
        (2, 7, 12),
        None,
    ),
    "self-mask": ({}, (2, 10, 16), None, (2, 1, 10)),
    "cross-mask": (dict(cross_attention_dim=12), (2, 10, 16), (2, 7, 12), (2, 1, 7)),
    "query-mask": (dict(cross_attention_dim=12), (2, 10, 16), (2, 7, 12), (2, 10, 7)),
}


def make_attention(kind):
    """An attention in double precision and the arguments of one call."""
    options, *shapes = ATTENTIONS[kind]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        attention = Attention(16, heads=4, dim_head=4, processor=AttnProcessor2_0(), **options)
        x, context, mask = (shape and torch.randn(shape, dtype=torch.float64) for shape in shapes)
    if mask is not None:
        mask = torch.where(mask > 0.5, -10_000.0, 0.0).double()
        assert (mask < 0).any()
    return attention.eval().double(), (x, context, mask)


@pytest.mark.parametrize("kind", ATTENTIONS)
def test_attention_without_ranges_is_that_of_diffusers(kind):
    # Five steps in double precision (normalization, projection, scores, softmax times v, output), each a sum
    # of at most 64 terms whose absolute values sum to less than 100, and each passing on the error of the one
    # before at most 100-fold in this small network's output: far below (64 * 100 * U64 = 7e-13) * 100.
    attention, arguments = make_attention(kind)
    with torch.no_grad():
        expected = attention(*arguments)
        attention = QuantAttention.of(attention, Grid(8), Grid(8))
        found = attention(*arguments)
    assert found.shape == expected.shape
    assert ((found - expected).abs() <= 100 * 64 * 100 * U64).all()


def test_mask_changes_the_attention():
    attention, (x, context, mask) = make_attention("cross-mask")
    attention = QuantAttention.of(attention, Grid(8), Grid(8))
    assert (attention(x, context, mask) - attention(x, context)).abs().max() > 1e-3


def test_quantized_attention_is_the_explicit_formula():
    attention, (x, context, _) = make_attention("cross")
    attention = QuantAttention.of(attention, Grid(4, symmetric=True), Grid(3))
    original = attention(x, context)
    for quantizer in activation_quantizers(attention):
        quantizer.observer = ActivationObserver(torch.Generator().manual_seed(0), 5)
    assert torch.equal(attention(x, context), original)
    for quantizer in activation_quantizers(attention):
        quantizer.set_observed_range("min_max")

    def symmetric(value):  # a 4-bit grid with zero point 8
        scale = max(-value.min() / 8, value.max() / 7).float()  # scales are held in float32
        return scale * (value / scale).round().clamp(-8, 7)

    query, key, value = attention.to_q(x), attention.to_k(context), attention.to_v(context)
    query, key, value = (symmetric(part).unflatten(-1, (4, 4)) for part in (query, key, value))
    weights = torch.einsum("bqhd,bkhd->bhqk", query, key).div(2).softmax(-1)
    # The range is that of the unquantized softmax, which the observer saw.
    scale = attention.quantize_softmax.scale
    weights = scale * (weights / scale).round().clamp(0, 7)
    expected = attention.to_out[0](torch.einsum("bhqk,bkhd->bqhd", weights, value).flatten(2))
    found = attention(x, context)
    # As above: the same sums in double precision. No value lies so near to the middle of two codes that the
    # rounding error decides, else the difference would be a whole step.
    assert ((found - expected).abs() <= 100 * 64 * 100 * U64).all()
    assert (found - original).abs().max() > 1e-3


@pytest.mark.parametrize("bits", [4, 8, 16], ids="{}-bit".format)
@pytest.mark.parametrize("range_name", ["min_max", "mse_search", "percentile"])
def test_softmax_grid_is_unsigned(bits, range_name):
    attention, (x, _, _) = make_attention("self-tokens")
    attention = QuantAttention.of(attention, Grid(8, symmetric=True), Grid(bits))
    attention.quantize_softmax.observer = ActivationObserver(torch.Generator().manual_seed(0), 100)
    attention(x)
    attention.quantize_softmax.set_observed_range(range_name)
    assert attention.quantize_softmax.zero_point == 0
    assert 0 < attention.quantize_softmax.scale <= 1 / (2**bits - 1)


def test_symmetric_softmax_grid_is_refused():
    with pytest.raises(ValueError, match="symmetric=True wastes half of the softmax's grid"):
        QuantAttention.of(make_attention("cross")[0], Grid(8), Grid(8, symmetric=True))


def test_quantizers_are_part_of_the_attention():
    attention = QuantAttention.of(make_attention("self-tokens")[0], Grid(8), Grid(8))
    names = [name for name, module in attention.named_modules() if isinstance(module, ActivationQuantizer)]
    assert names == ["quantize_q", "quantize_k", "quantize_v", "quantize_softmax"]


# Cut into slices


def learning(attention, arguments):
    """The output with quantized products whose steps are learned, and all gradients; ranges by one pass."""
    attention = QuantAttention.of(copy.deepcopy(attention), Grid(8), Grid(8))
    for quantizer in activation_quantizers(attention):
        quantizer.observer = ActivationObserver(torch.Generator().manual_seed(0), 10_000)
    with torch.no_grad():
        attention(*arguments)
    for quantizer in activation_quantizers(attention):
        quantizer.set_observed_range("min_max")
    steps = [quantizer.start_learning() for quantizer in activation_quantizers(attention)]
    out = attention(*arguments)
    return out, torch.autograd.grad(
        out.square().sum(), [*steps, attention.to_q.weight, attention.to_v.weight]
    )


@pytest.mark.parametrize("kind", ["self-image", "cross", "cross-mask", "query-mask"])
@pytest.mark.parametrize("heads", [1, 3], ids=["each-head-alone", "uneven"])
def test_slices_change_nothing_but_the_order_of_sums(kind, heads, monkeypatch):
    attention, arguments = make_attention(kind)
    whole, gradients = learning(attention, arguments)
    sizes, cut_products = [], QuantAttention.products

    def watch(self, query, *others):
        sizes.append(len(query))
        return cut_products(self, query, *others)

    monkeypatch.setattr(QuantAttention, "products", watch)
    tokens = arguments[0].flatten(2).shape[2] if arguments[0].ndim == 4 else arguments[0].shape[1]
    keys = tokens if arguments[1] is None else arguments[1].shape[1]
    monkeypatch.setattr(attention_module, "MATRIX", heads * tokens * keys)
    cut, cut_gradients = learning(attention, arguments)
    assert set(sizes) == {heads, 8 % heads or heads}  # 2 inputs of 4 heads each
    torch.testing.assert_close(cut, whole, rtol=1e-12, atol=1e-12)
    for found, expected in zip(cut_gradients, gradients, strict=True):
        # Steps are float32, and each of the 8 slices at most adds a rounded term to their gradients.
        tolerance = 1e-5 if found.dtype == torch.float32 else 1e-9
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_no_more_of_the_matrix_than_a_slice_is_kept_for_the_gradients(monkeypatch):
    attention, (x, _, _) = make_attention("self-tokens")
    attention = QuantAttention.of(attention, Grid(8), Grid(8))
    monkeypatch.setattr(attention_module, "MATRIX", 10 * 10)
    kept = []

    def pack(tensor):
        kept.append(tuple(tensor.shape[-2:]))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        attention(x)
    assert kept and (10, 10) not in kept


# What diffusers offers for attention, on a text model


@pytest.fixture(scope="module")
def drawn():
    """A quantized text pipeline, its images, and the names of its quantizers; copy it before a change."""
    recipe = Recipe.linear(4, 8, **SMALL)
    pipe = quantize(stable_diffusion(), recipe, prompts=["flag", "dog"], progress=False)
    return pipe, images(pipe), quantizer_names(pipe.unet)


def images(pipe):
    return sample(pipe, 2, 2, prompts=["red apple", "cat"]).images


def quantizer_names(unet):
    return [name for name, module in unet.named_modules() if isinstance(module, ActivationQuantizer)]


def copied(pipe):
    return with_components(pipe, unet=copy.deepcopy(pipe.unet))


@pytest.mark.parametrize("size", ["auto", "max", 1])
def test_slicing_keeps_quantizers_and_images(drawn, size):
    whole, expected, names = drawn
    pipe = copied(whole)
    pipe.enable_attention_slicing(size)
    attentions = [m for m in pipe.unet.modules() if isinstance(m, QuantAttention)]
    assert {m.heads_at_once for m in attentions} == {1}  # of 2 heads
    # Batched products of one head each may sum in another order: a code that flips moves a value by one step
    # of an 8-bit grid, and few do.
    found = images(pipe)
    differences = (found.int() - expected.int()).abs().float()
    assert differences.max() <= 8 and differences.mean() <= 0.25  # of 255 grey values
    assert quantizer_names(pipe.unet) == names
    pipe.disable_attention_slicing()
    assert {m.heads_at_once for m in attentions} == {None}
    assert torch.equal(images(pipe), expected)


def test_more_heads_than_there_are(drawn):
    attention = next(m for m in copied(drawn[0]).unet.modules() if isinstance(m, QuantAttention))
    with pytest.raises(ValueError, match="slice_size=3 must be at most 2"):
        attention.set_attention_slice(3)


def use_xformers(unet):
    for module in unet.modules():
        if isinstance(module, QuantAttention):
            module.set_use_memory_efficient_attention_xformers(True)


REFUSED = {
    "processor": (lambda unet: unet.set_attn_processor(AttnProcessor()), "keep its processor, or quantize"),
    "default": (lambda unet: unet.set_default_attn_processor(), "AttnProcessor would drop its quantizers"),
    "fused": (lambda unet: unet.fuse_qkv_projections(), "grids of their own: they cannot be fused"),
    "xformers": (use_xformers, "xformers would drop its quantizers: .*enable_attention_slicing"),
}


@pytest.mark.parametrize("change, message", REFUSED.values(), ids=REFUSED.keys())
def test_what_would_drop_quantizers_is_refused(change, message, drawn):
    whole, expected, names = drawn
    pipe = copied(whole)
    with pytest.raises(ValueError, match=message):
        change(pipe.unet)
    assert quantizer_names(pipe.unet) == names
    assert torch.equal(images(pipe), expected)


def test_its_own_processors_can_be_set_back(drawn):
    whole, expected, names = drawn
    pipe = copied(whole)
    pipe.unet.set_attn_processor(pipe.unet.attn_processors)
    assert quantizer_names(pipe.unet) == names
    assert torch.equal(images(pipe), expected)
