# %% [markdown]
# # Why does one grid fail where two branches meet, and what do two grids cost?
#
# | | |
# |---|---|
# | You will be able to | **find** the shortcut layers of a U-shaped network, which read `concat(deep, skip)`; **predict** from the ratio of two ranges when one grid erases the smaller half; **write** the shortcut split, and check equation 8 in exact integers; **measure** whether a model needs the split |
# | You need | lesson 0 (grids) and PyTorch |
# | Time | about 40 minutes; the cells run in half a minute on two CPU cores, and faster on a GPU |
# | Memory | below 900 MB |
# | In the paper | sections 3.2 and 3.3.2, Figures 6 and 7, equations 6 to 8 of [Q-Diffusion](https://arxiv.org/abs/2302.04304) |
#
# All letters are in [notation and glossary](../docs/notation.md).

# %% [markdown]
# ## The picture first
#
# A U-shaped network first makes its picture small, and then large again. On the way up, some layers read two groups of
# channels side by side. The *deep* channels come from the layer below. The *skip* channels have the same image size and
# come from the way down. This input is `concat(deep, skip)`.
#
# Below, a network draws five times from the same noise. The first row is the original. For the second row, most of
# these inputs were *stretched*: the skip half became larger, and the weights that read it became smaller by the same
# factor. So the network computes the same function. For the other rows we quantized only the *shortcut layers*. These
# are small layers, 1x1 convolutions, that read the two halves.

# %%
import torch
from qdiff_lib import load, record, sample, with_sampler
from qdiff_lib.course.figures import lesson_04 as figures
from qdiff_lib.course.shortcuts import groups_straddle, input_ranges, quantize_shortcuts, stretch_skips, watch
from qdiff_lib.graph.model_inputs import example_inputs
from qdiff_lib.graph.tracing import trace
from qdiff_lib.recipes.timestep_rules import Uniform

pipe = with_sampler(load("ddpm-fashion", lesson.device), "ddim")
calibration = record(pipe, Uniform(), samples=lesson.pick(20, 256, 1024), steps=20)
found = trace(pipe.unet, example_inputs(pipe.unet, device=lesson.device))
ranges = input_ranges(pipe.unet, found, calibration)  # layer: [(min, max)], one for each half
splits = found.concat_splits  # layer: (deep channels, skip channels)

# %%
widths = {layer: [high - low for low, high in ranges[layer]] for layer in splits}
whole = [layer for layer in splits if not groups_straddle(pipe.unet, layer, splits[layer])]
# with this factor each skip half is 50 times as wide as its deep half
stretched = stretch_skips(pipe, splits, {s: 50 * widths[s][0] / widths[s][1] for s in whole})
poor = quantize_shortcuts(stretched, splits, calibration, weights=4, activations=8, split=False)
good = quantize_shortcuts(stretched, splits, calibration, weights=4, activations=8, split=True)
eight = quantize_shortcuts(stretched, splits, calibration, weights=8, activations=8, split=False)

models = {"original": pipe, "stretched": stretched, "W8A8, one grid": eight, "W4A8, one grid": poor}
images = {name: sample(m, n=8, steps=20).images for name, m in (models | {"W4A8, two grids": good}).items()}
show(figures.pictures(images, steps=20))
error = [(x / 255 - images["original"] / 255).square().mean().item() for x in images.values()]
claim(
    error[1] < 1e-4,
    f"stretching {len(whole)} of {len(splits)} shortcuts changes pixels by less than 1 % (root mean square)",
)
claim(error[3] > 5 * error[4], f"W4A8: mean square {error[3]:.3f} with one grid, {error[4]:.4f} with two")

# %% [markdown]
# At the end of this lesson you know why this happens, and whether it happens in a real model.
#
# ## Toy: two halves with a known ratio
#
# Let the deep half be uniform on $[-1, 1]$ and the skip half uniform on $[-r, r]$. One grid with $b$ bits covers both,
# so its scale is $s = 2r / (2^b - 1)$. The error of rounding has the size (root mean square) $s / \sqrt{12}$. The deep
# half itself has the size $1 / \sqrt 3$. So the relative error of the deep half is $s / 2 = r / (2^b - 1)$. If all its
# values round to 0, the relative error is 1: the deep half is *erased*.
#
# **Predict:** from which ratio $r$ on does one grid erase the smaller half? With 4 bits: 4, 8 or 15? With 8 bits: 16, 64
# or 255?

# %% tags=["nbval-check-output"]
from qdiff_lib.course.shortcuts import layer_error
from qdiff_lib.quantizers.grid import Grid, fake_quantize
from qdiff_lib.quantizers.range_finders import min_max

for bits in (4, 8):
    top = 2**bits - 1
    for ratio in (1, 1.7, 5, 50, 200):
        lost = torch.tensor(float(ratio)).log2().item()
        print(
            f"{bits} bits, ratio {ratio:>5}: relative error {min(ratio / top, 1):.3f}, bits lost {lost:.2f}"
        )
    print(f"-> erased from ratio {top} on")

# %% [markdown]
# The next figure measures this in its left panel. The right panel shows the output error of a layer with 64 + 64
# channels, 4-bit weights and 8-bit inputs. For the output of a layer it matters how much each half *contributes*. In
# the models of the paper, both activations **and** weights have two humps, one for each half. If the half with the
# small inputs has the large weights, both halves contribute equally.

# %%
ratios, generator = (1, 1.7, 3, 5, 8, 12, 15, 25, 50, 100, 200), torch.Generator().manual_seed(0)
x, weight = (2 * torch.rand(n, 128, generator=generator) - 1 for n in (512, 64))
small = {4: [], 8: []}
by_case = {"one grid, inverse weights": [], "two grids": [], "one grid, equal weights": []}
for r in ratios:
    both = torch.cat([x[:, :64], r * x[:, 64:]], 1)  # deep, skip
    inverse = torch.cat([weight[:, :64], weight[:, 64:] / r], 1)
    for bits in small:
        off = fake_quantize(both, *min_max(both, Grid(bits)), bits)[:, :64] - x[:, :64]
        small[bits].append((off.square().mean() / x[:, :64].square().mean()).sqrt().item())
    for label, w, sizes in zip(by_case, (inverse, inverse, weight), ((128,), (64, 64), (128,)), strict=True):
        by_case[label].append(layer_error(both, w, sizes))
apart = max(max(side) / min(side) for side in widths.values())  # of the shipped model
show(figures.toy_errors(ratios, small, by_case, mark=apart))

# %%
one, two, equal = (errors[-1] for errors in by_case.values())
off = max(abs(e * 15 / r - 1) for r, e in zip(ratios, small[4], strict=True) if r <= 5)
claim(off < 0.1, f"up to a ratio of 5 the formula r / 15 differs from the measurement by {100 * off:.0f} %")
claim(small[4][ratios.index(25)] > 0.95, "beyond a ratio of 15, 4 bits erase the smaller half")
claim(one > 4 * two, f"at a ratio of 200 the layer's error is {one:.2f} with one grid, {two:.2f} with two")
claim(
    equal < 1.5 * two,
    f"with equal weights one grid is enough ({equal:.2f}): the erased half contributes little",
)

# %% [markdown]
# **Observe.** With two grids the ratio has no effect. One grid fails at the ratio $2^b - 1$. This holds for the smaller
# inputs and for the smaller weights. With W4A8 (4-bit weights, 8-bit activations) the weights fail first. But a large
# ratio alone does no harm. If the smaller half also has small weights, it contributes little.
#
# ## The split
#
# A shortcut layer reads $X = [X_1, X_2]$, the deep and the skip channels side by side. Its weights are $W = [W_1, W_2]$.
# Cut both between deep and skip. Give each part its own scale and zero point ($\oplus$ means concatenation):
#
# $$Q(X) = Q_1(X_1) \oplus Q_2(X_2) \quad (6) \qquad Q(W) = Q_1(W_1) \oplus Q_2(W_2) \quad (7)$$
# $$Q(X)\,Q(W) = Q_1(X_1)\,Q_1(W_1) + Q_2(X_2)\,Q_2(W_2) \quad (8)$$
#
# Equation 8 is exact. Each product on its right side is a sum of integers, times its own unit $s_x s_w$:

# %% tags=["nbval-check-output"]
s_x, s_w = (torch.tensor(pair, dtype=torch.double) for pair in ([2.0, 0.05], [0.01, 0.3]))
q_x = torch.tensor([[3, -5, 0, 7], [-6, 2, 4, 1]])  # integers q - z: four inputs of each half
q_w = torch.tensor([[1, 4, -7, 2], [5, 0, -3, -8]])
integers = (q_x * q_w).sum(1)  # one sum of integers for each half
joined_x, joined_w = (s_x[:, None] * q_x).flatten(), (s_w[:, None] * q_w).flatten()
print("integer sums", integers.tolist(), "in units of", [f"{unit:.3f}" for unit in (s_x * s_w).tolist()])
print(f"left of eq. 8: {joined_x @ joined_w:.4f}, right: {(s_x * s_w * integers).sum():.4f}")
print(f"added before scaling, which is wrong: {(s_x * s_w)[0] * integers.sum():.4f}")

# %% [markdown]
# ### Exercise: split and quantize
#
# *Difficulty 3 of 5, importance 5 of 5, time: about 8 minutes.* Write equation 6 for an image. `x` is (N, C, H, W), and
# `sizes` has the number of channels of each part. Give every part its own min-max grid. `min_max(part, Grid(bits))`
# gives the scale and the zero point of a part. `fake_quantize(part, scale, zero_point, bits)` gives its values on the
# grid.

# %% tags=["exercise"] exercise="04.split_quantize"
import torch
from qdiff_lib.quantizers.grid import Grid, fake_quantize
from qdiff_lib.quantizers.range_finders import min_max
from torch import Tensor


def split_quantize(x: Tensor, sizes: tuple[int, ...], bits: int) -> Tensor:
    """x on the grids of its parts, in x's shape.

    x: (N, C, H, W), left unchanged. sizes: channels of each part, in order; they sum to C.
    """
    # BEGIN SOLUTION
    quantized = []
    for half in torch.split(x, sizes, dim=1):
        scale, zero_point = min_max(half, Grid(bits))
        quantized.append(fake_quantize(half, scale, zero_point, bits))
    return torch.cat(quantized, dim=1)
    # END SOLUTION


# %% [markdown]
# ### Exercise: equation 8 in integers
#
# *Difficulty 4 of 5, importance 5 of 5, time: about 12 minutes.* A chip multiplies integers. You get both halves as codes,
# and return the output of the layer. A `Half` has these tensors:
#
# - `x_codes` (N, C) and `w_codes` (O, C);
# - `x_scale` and `x_zero`, 0-dimensional;
# - `w_scale` and `w_zero` (O,): one for each output channel.
#
# Codes and zero points are uint8.

# %% tags=["exercise"] exercise="04.shortcut_output"
from qdiff_lib.course.exercises.lesson_04 import Half


def shortcut_output(first: Half, second: Half) -> Tensor:
    """The layer's output (N, O), in floating point; products and sums of integers are exact."""
    # BEGIN SOLUTION
    output = 0
    for half in (first, second):
        q_x = half.x_codes.int() - half.x_zero.int()
        q_w = half.w_codes.int() - half.w_zero.int().unsqueeze(1)
        output = output + half.x_scale * half.w_scale * (q_x @ q_w.T)
    return output
    # END SOLUTION


# %% [markdown]
# ## The real model: where are the shortcut layers?
#
# The library runs the network once and follows every concatenation of channels. So it finds the layers that read one
# (`qdiff_lib.graph.tracing.trace`). The next figure is Figure 6 of the paper for the shipped model: the range of every
# layer's input.

# %%
spans = {name: max(h for _, h in sides) - min(low for low, _ in sides) for name, sides in ranges.items()}
show(figures.ranges_along_network(list(spans.values()), [name in splits for name in spans], len(calibration)))
others = sorted(span for name, span in spans.items() if name not in splits)
spike = max(spans[layer] for layer in splits) / others[len(others) // 2]
parts = [pipe.unet.get_submodule(layer).weight.detach().split(splits[layer], 1) for layer in splits]
heavy = [((one.max() - one.min()) / (two.max() - two.min())).item() for one, two in parts]
claim(spike > 2, f"the widest shortcut input is {spike:.1f} times the others' median: no norm before it")
claim(apart < 5, f"but the two halves of one input differ by a ratio of at most {apart:.2f}")
claim(max(heavy) < 2, f"and the ranges of W1 / W2 lie between {min(heavy):.2f} and {max(heavy):.2f}")

# %% [markdown]
# So the peaks of Figure 6 are here, too, but lower. In the paper, inputs of shortcut layers are up to 200 times as wide
# as those of other layers. And here the two halves differ little. This network has a few million weights and draws small
# grey images. A large network can be different. The next figure is Figure 7 of the paper, for the layer whose halves
# differ most: as trained, and stretched.

# %%
worst = max(whole, key=lambda layer: max(widths[layer]) / min(widths[layer]))
rows = calibration.rows(slice(0, lesson.pick(10, 32, 32)), lesson.device)
cases = {}
for label, model in {"as trained": pipe, "stretched to 50": stretched}.items():
    seen = watch(model.unet, [worst], rows)[worst][0].cpu()
    cases[label] = (seen, model.unet.get_submodule(worst).weight.detach().cpu())
print(worst)
show(figures.halves(cases, splits[worst][0]))

# %% [markdown]
# ## The grid under a magnifier
#
# Here are the two halves of that input again. The slider scales the skip half. The short lines below each picture are
# the values of the grids. At the left they are those of the shared grid. At the right there is only the deep half. Its
# values are rounded to the nearest line of the shared grid. So it uses the codes with a black line, and not those with a
# grey line. One value is enough to make a line black. The blue lines are the deep half's own grid. Count the black lines:
# find the smallest ratio at which only two are left.

# %%
from functools import partial

deep, skip = cases["as trained"][0].split(splits[worst], 1)
magnifier = partial(figures.magnifier, deep, skip, bits=4)
explore(magnifier, "ratio", values=(1, 1.7, 3, 5, 8, 15, 50, 200), twin=(1, 1.7, 8, 15))

# %% [markdown]
# ## What does the split change in this model?
#
# First the theory. The error of an input passes through its weights. So the noise power of the output is proportional to
# $s_1^2 \lVert W_1 \rVert^2 + s_2^2 \lVert W_2 \rVert^2$, with the scales $s_1$ and $s_2$ of the two halves. With one
# grid, both scales are the larger one. For equal weights and a ratio $r$, two grids divide the noise power by
# $2 r^2 / (r^2 + 1)$.
#
# **Predict:** in this model the ratio is at most about 2. With 4-bit inputs, how many times larger is the error of a
# layer with one grid than with two: at most 1.5 times, about 2 times, or about 4 times?

# %% tags=["nbval-check-output"]
for ratio in (1.0, 1.7, 5.0, 50.0):
    power = 2 * ratio**2 / (ratio**2 + 1)
    print(
        f"ratio {ratio:>4}: noise power {power:.2f} times as large with one grid, error {power**0.5:.2f} times"
    )

# %%
from qdiff_lib.course.shortcuts import relative_error


def shortcut_errors(pipe, quantized):
    """Relative output error of each shortcut layer alone, on full-precision inputs."""
    seen = watch(pipe.unet, splits, rows)
    return torch.tensor([relative_error(quantized.unet.get_submodule(s)(x), y) for s, (x, y) in seen.items()])


gains, linear = {}, {}
for weights, activations in ((4, 8), (8, 4)):
    one, two = (
        quantize_shortcuts(pipe, splits, calibration, weights, activations, split) for split in (False, True)
    )
    linear[weights] = shortcut_errors(pipe, two)
    gains[f"W{weights}A{activations}"] = shortcut_errors(pipe, one) / linear[weights]
# the linear recipe's input grids are symmetric: the end that is farther from 0 sets the scale
scales = torch.tensor([[max(-low, high) for low, high in ranges[layer]] for layer in splits])
power = torch.tensor([[part.square().sum().item() for part in pair] for pair in parts])
noise = (scales.amax(1, keepdim=True) ** 2 * power).sum(1) / (scales**2 * power).sum(1)

# %%
short = [layer.replace("up_blocks.", "up ").replace(".resnets.", ".").split(".conv")[0] for layer in splits]
values, predicted = {name: gain.tolist() for name, gain in gains.items()}, noise.sqrt()
show(figures.split_gains(short, values, predicted.tolist(), n=len(rows["sample"])))
off = (gains["W8A4"] / predicted - 1).abs().max()
mean = {name: gain.log().mean().exp().item() for name, gain in gains.items()}
claim(
    off < 0.25, f"with 4-bit inputs the prediction differs from the measurement by at most {100 * off:.0f} %"
)
claim(mean["W8A4"] > 1.02, f"there, one grid has {mean['W8A4']:.2f} times the error of two, on average")
claim(mean["W4A8"] < 1.3, f"at W4A8 {mean['W4A8']:.2f} times: most of the error comes from the 4-bit weights")
share = sum(2 * len(w1) for w1, _ in parts) / sum(p.numel() for p in pipe.unet.parameters())
claim(share < 0.01, f"the cost, one more scale and zero point a channel: {100 * share:.2f} % more numbers")

# %% [markdown]
# **Observe.** In this model the split costs little and helps a little. This agrees with the theory for such ratios. Its
# effect cannot be large here. If a picture showed a large effect, this would be chance. With 4-bit weights, some layers
# gain nothing: there the rounding of single weights decides, not the range.
#
# ## Stress: a ratio of 50
#
# Now the first picture again. A residual block reads its input twice. The shortcut convolution removes the factor $f$,
# because its weights are $W_2 / f$. The group norm divides each group of channels by its own size. So it also removes
# $f$, if no group has channels of both halves. In floating point nothing changes. With one grid much changes:

# %%
import inspect

code = inspect.getsource(stretch_skips).split('"""')
print(code[0].rstrip() + code[2])
chosen = torch.tensor([layer in whole for layer in splits])
with torch.no_grad():
    before, after = (model.unet(**rows).sample for model in (pipe, stretched))
one, two = (shortcut_errors(stretched, model)[chosen] for model in (poor, good))
gap = (two / linear[4][chosen]).max()
claim(relative_error(after, before) < 1e-4, "floating point: the predicted noise changes by less than 1e-4")
claim(one.min() > 0.3, f"W4A8, one grid: {one.min():.2f} to {one.max():.2f} of the layer's output is error")
claim(gap < 1.1, f"two grids: {two.min():.3f} to {two.max():.3f}, {gap:.2f} times that without stretching")

# %% [markdown]
# A chip computes the same layer from codes: integer sums first, and one scaling at the end. The simulated layer computes
# with floating-point values. Do both give the same output? The next cell checks equation 8 on the real layer:

# %%
import copy

from qdiff_lib.course.shortcuts import both_sides_of_equation_8

layer = copy.deepcopy(good.unet.get_submodule(worst)).cpu()
pixels = cases["stretched to 50"][0][:4]
joined, exact = both_sides_of_equation_8(layer, pixels)  # (pixels, output channels); exact: from integers
simulated = (layer(pixels) - layer.bias[:, None, None]).movedim(1, -1).flatten(0, 2)
off = [relative_error(result, exact) for result in (joined, simulated)]
claim(off[0] < 1e-12, "Q(X) Q(W) and the sum of the halves' integer products agree to double precision")
claim(off[1] < 1e-4, "and the simulated layer agrees with both to single precision")

# %% [markdown]
# ## Recap
#
# 1. Shortcut layers read two branches at once. Their inputs pass no norm and have the widest ranges of the network.
# 2. One grid costs the smaller half $\log_2 r$ bits. From $r = 2^b - 1$ on, it erases the smaller half.
# 3. The harm depends on what the smaller half contributes. It is large if small inputs meet large weights.
# 4. With two grids the error does not depend on $r$. Equation 8 is exact: each half has its own unit.
# 5. In the shipped model the ratio is small. Measure the ratio first, then decide about the split.
#
# **Not shown:** models of the paper's size, where the ratios are large without our help; layers whose halves share a
# group of the norm, which cannot be stretched this way; the time that two products take instead of one on a chip.

# %%
quiz("04")
progress()

# %% [markdown]
# ## Read more
#
# - X. Li et al., [Q-Diffusion: Quantizing Diffusion Models](https://arxiv.org/abs/2302.04304), ICCV 2023. This lesson is
#   about sections 3.2 and 3.3.2.
# - O. Ronneberger et al., [U-Net: Convolutional Networks for Biomedical Image
#   Segmentation](https://arxiv.org/abs/1505.04597), MICCAI 2015. The first network with these skip branches.
# - M. Nagel et al., [A White Paper on Neural Network Quantization](https://arxiv.org/abs/2106.08295), 2021. Grids, ranges,
#   and cross-layer equalization: it stretches channels to make their ranges similar.
# - C. Si et al., [FreeU: Free Lunch in Diffusion U-Net](https://arxiv.org/abs/2309.11497), CVPR 2024. What deep and skip
#   branches contribute to a picture.
#
# **Next:** lesson 5 combines calibration, learned rounding and the split.
