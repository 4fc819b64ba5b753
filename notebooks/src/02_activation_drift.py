# %% [markdown]
# # Why can one range not serve all time steps?
#
# | | |
# |---|---|
# | You will be able to | **measure** how the ranges inside a network change along the run; **compute** the cost of a fixed range in bits; **write** two observers that choose a range; **check** a calibration, layer by layer |
# | You need | lessons 0 and 1, PyTorch, and what a histogram is |
# | Time | about 40 minutes; the cells run in half a minute on two CPU cores, and faster on a GPU |
# | Memory | below 900 MB |
# | In the paper | section 3.1 and Figure 5 of [Q-Diffusion](https://arxiv.org/abs/2302.04304) |
#
# The weights are the same in every step. *Activations*, the numbers that flow between the layers, are not. At first
# the network sees pure noise, and at the end it sees almost a picture. This course is about *static* quantization: the
# range of an activation is fixed before the run. All letters are in [notation and glossary](../docs/notation.md).

# %% [markdown]
# ## The picture first
#
# Each row is a layer of the shipped network, and each column is a denoising step. Colour: the range of the layer's
# input at this step, as a share of its range over all steps. The samples were drawn in full precision. This takes an
# hour on a CPU, so it is a recorded result.

# %%
from qdiff_lib.course.figures import lesson_02 as figures

fig5 = recorded("activation_ranges")
show(figures.heat_map(fig5.data))
print(fig5.source())

# %%
share = figures.shares(fig5.data)  # (layers, steps)
least, half = share.amin(1), share.shape[1] // 2
moving = [fig5.data["layers"][i] for i in least.argsort() if "time_emb" not in fig5.data["layers"][i]][:3]
claim(
    least.median() < 0.85,
    f"the median layer's narrowest range is {least.median():.0%} of its range over all steps",
)
claim(least.min() < 0.6, f"in the layer that changes most it is {least.min():.0%}")
near, far = (share[:, k:] - share[:, :-k] for k in (1, half))
near, far = near.abs().mean(), far.abs().mean()
claim(near < far, f"a share changes by {near:.1%} from step to step, by {far:.1%} over half of the run")

# %% [markdown]
# Neighbouring steps have similar ranges, and steps far apart have different ranges. This is the paper's observation.
# The next figure shows the same for the three layers that change most. Layers that only see the time step are left
# out. Thin bars go from the smallest to the largest value, and thick bars hold the middle 98 % of the values.

# %%
show(figures.ridges(fig5.data, moving))

# %% [markdown]
# ## A toy with a known answer
#
# Let an activation have equal density over $[-R_t/2,\ R_t/2]$. The width $R_t$ of its range falls from 16 to 2 along
# the run. A grid of $b$ bits over a range of width $R_t$ has the scale $s = R_t / (2^b - 1)$. A value inside the range
# has an error of at most $s/2$, with equal density. So its mean squared error is $E = s^2/12$.
#
# Now one range serves all steps. It must have the width $R$ of the widest range. Its scale is larger, so its error is
# larger:
#
# $$\frac{E_\text{one}}{E_\text{own}} = \Bigl(\frac{R}{R_t}\Bigr)^2 = \frac{1}{u_t^2},\qquad u_t = \frac{R_t}{R}.$$
#
# **$u_t$ is the utilisation**: the share of the grid that step $t$ can use. The step loses $\log_2 (1/u_t)$ bits,
# because each lost bit makes the scale about twice as large.
#
# **Predict:** the grid has 8 bits. How many bits are left for the last step of the toy, with $R = 16$ and $R_t = 2$: 7,
# 5 or 3?

# %% tags=["nbval-check-output"]
import torch
from qdiff_lib.quantizers.grid import Grid, fake_quantize
from qdiff_lib.quantizers.range_finders import min_max


def grid_error(x, found, bits):
    """Mean squared error of x on the grid ``found``, a pair (scale, zero_point)."""
    return (fake_quantize(x, *found, bits) - x).square().mean()


wide, generator = (16, 8, 4, 2), torch.Generator().manual_seed(0)  # R_t
toy = [r / 2 * (2 * torch.rand(200_000, generator=generator) - 1) for r in wide]
one = min_max(torch.cat(toy), Grid(8))
for r, x in zip(wide, toy, strict=True):
    ratio = grid_error(x, one, 8) / grid_error(x, min_max(x, Grid(8)), 8)
    print(f"width {r:2d}: error ratio {ratio:.0f}, bits lost {0.5 * ratio.log2():.1f}")
claim(abs(ratio / 64 - 1) < 0.1, "at u = 1/8 the error is 64 times as large: 3 bits are lost, 5 are left")

# %% [markdown]
# ### Exercise: utilisation
#
# *Difficulty 1 of 5, importance 3 of 5, time: about 5 minutes.* On a real grid we count $u$ in codes. Count the codes
# from the lowest code that the tensor uses to the highest. Divide by the number of all codes, $2^b$.

# %% tags=["exercise"] exercise="02.range_utilisation"
from torch import Tensor


def range_utilisation(x: Tensor, scale: Tensor, zero_point: Tensor, bits: int) -> float:
    """Share of the grid's 2^b codes from the lowest to the highest that ``x`` uses, above 0 and at most 1.

    scale, zero_point: of the grid, 0-dimensional.
    """
    # BEGIN SOLUTION
    used = ((x / scale).round() + zero_point).clamp(0, 2**bits - 1)
    return ((used.max() - used.min() + 1) / 2**bits).item()
    # END SOLUTION


# %% [markdown]
# ### Exercise: a min-max observer
#
# An *observer* sees the calibration batches of an activation one after the other. At the end it chooses the scale and
# the zero point. The simplest observer keeps the extremes over **all** batches:
# $x_\min = \min(0, \min x)$ and $x_\max = \max(0, \max x)$. Then
#
# $$s = \frac{x_\max - x_\min}{2^b - 1},\qquad z = \mathrm{round}(-x_\min / s).$$
#
# *Difficulty 2 of 5, importance 5 of 5, time: about 7 minutes.*


# %% tags=["exercise"] exercise="02.min_max_observer"
def min_max_observer(batches: list[Tensor], bits: int) -> tuple[float, float]:
    """Scale and zero point of the b-bit grid that covers all values of all batches, and 0."""
    # BEGIN SOLUTION
    lowest = highest = 0.0
    for batch in batches:
        lowest = min(lowest, batch.min().item())
        highest = max(highest, batch.max().item())
    gap = (highest - lowest) / (2**bits - 1)
    return gap, float(round(-lowest / gap))
    # END SOLUTION


# %% [markdown]
# ### Exercise: a percentile observer
#
# A min-max observer never clips. So one outlier sets the scale for all values. A percentile observer leaves out a share
# of the values at each end. These values are clipped, and all other values get a finer grid.
#
# *Difficulty 3 of 5, importance 4 of 5, time: about 8 minutes.* Take the percentile of all batches together.


# %% tags=["exercise"] exercise="02.percentile_observer"
import torch


def percentile_observer(batches: list[Tensor], bits: int, percent: float) -> tuple[float, float]:
    """Scale and zero point when 100 - percent % of all values are clipped at each end; 0 stays inside.

    percent: above 50 and at most 100.
    """
    # BEGIN SOLUTION
    everything = torch.cat([batch.flatten() for batch in batches])
    cut = 1 - percent / 100
    bottom = min(torch.quantile(everything, cut).item(), 0.0)
    ceiling = max(torch.quantile(everything, 1 - cut).item(), 0.0)
    gap = (ceiling - bottom) / (2**bits - 1)
    return gap, float(round(-bottom / gap))
    # END SOLUTION


# %% [markdown]
# **Which observer is better?** This depends on the tails of the distribution. Values of equal density have no tails. A
# Laplace distribution has long tails, and many activations are similar to it.

# %% tags=["nbval-check-output"]
from qdiff_lib.quantizers.range_finders import percentile

even = 2 * torch.rand(100_000, generator=generator) - 1
signs = torch.where(torch.rand(100_000, generator=generator) < 0.5, -1.0, 1.0)
heavy = -signs * torch.rand(100_000, generator=generator).clamp(min=1e-6).log()  # Laplace
gain = {}
for name, x in (("equal density", even), ("long tails", heavy)):
    for bits in (4, 8):
        clipped = grid_error(x, percentile(x, Grid(bits), 99.5), bits)
        gain[name, bits] = grid_error(x, min_max(x, Grid(bits)), bits) / clipped
        print(f"{name}, {bits} bits: error of min-max over that of percentile: {gain[name, bits]:.2f}")
claim(gain["long tails", 4] > 1.5, "4 bits and long tails: clipping has less error")
claim(gain["long tails", 8] < 1, "8 bits and long tails: clipping has more error")

# %% [markdown]
# ## The real model
#
# Now a smaller run, with a *forward pre-hook* on each of four layers. A forward pre-hook is a function that PyTorch
# calls with the layer's input. You register it with `module.register_forward_pre_hook(hook)`. The function
# `sampled_inputs` does this. At each step it keeps a random sample of the input, and its extremes. The hills in the
# figure are histograms.

# %%
from qdiff_lib import load, sample, with_sampler
from qdiff_lib.course.watching import histograms, range_table, sampled_inputs

LAYERS = [
    "conv_in",
    "down_blocks.2.resnets.0.conv2",
    "up_blocks.2.resnets.0.conv2",
    "up_blocks.3.resnets.1.conv1",
]
steps, n = 20, lesson.pick(tiny=32, laptop=64, gpu=64)
pipe = with_sampler(load("ddpm-fashion", device=lesson.device), "ddim")
values, full = sampled_inputs(pipe, LAYERS, n, steps, progress=True)  # for each layer (steps, values)
table = range_table(values, n)
show(figures.ridges(table, LAYERS, histograms(values)))
show(figures.heat_map(table))

# %% [markdown]
# ## The cost of one range
#
# In the toy, the error at step $t$ is $1/u_t^2$ times the error with the step's own range. Real activations do not have
# equal density.
#
# **Predict:** is the factor for real activations still about $1/u_t^2$: yes or no? Which of the four layers has the
# largest factor?

# %%
from qdiff_lib.course.watching import shares_of_codes

BITS = 8
used, lost = {}, {}
for layer, v in values.items():
    one = min_max(v.flatten(), Grid(BITS))
    used[layer] = shares_of_codes(v, one, BITS)
    lost[layer] = torch.stack(
        [grid_error(x, one, BITS) / grid_error(x, min_max(x, Grid(BITS)), BITS) for x in v]
    )
show(figures.utilisation(used, lost, BITS))

# %%
worst = max(lost, key=lambda layer: lost[layer].max())
least, ratio = used[worst].min(), lost[worst].max()
claim(least < 0.6, f"{worst} uses only {least:.0%} of the {2**BITS} codes at its narrowest step")
claim(ratio > 2, f"it has the largest factor: {ratio:.1f} times the error with its own range")
rule = torch.cat([lost[layer] * used[layer] ** 2 for layer in LAYERS]).median()
claim(0.7 < rule < 1.4, f"the median factor is {rule:.2f} times 1 / u^2")
bits_lost = {layer: 0.5 * lost[layer].max().log2().item() for layer in LAYERS}
for layer, count in bits_lost.items():
    print(f"{layer:<30} bits lost at its worst step: {count:.1f}")
most = max(bits_lost.values())
claim(1 < most < 3, f"up to {most:.1f} of the {BITS} bits are lost")

# %% [markdown]
# **Observe.** With 8 bits, a loss of two bits is small. With 4 bits, it is half of all bits. This range covers all
# steps, so it clips nothing. What happens if the range comes from one step only? Move the slider. The range of one
# layer then comes from this step.


# %%
LAYER = "up_blocks.2.resnets.0.conv2"


def range_from(where):
    v = values[LAYER]
    x = v.flatten() if where == "all" else v[where - 1]
    found = min_max(x, Grid(BITS))
    low, high = (code - found.zero_point for code in (0, 2**BITS - 1))
    outside = (v < (low - 0.5) * found.scale) | (v > (high + 0.5) * found.scale)
    error = (fake_quantize(v, *found, BITS) - v).square()
    own = torch.stack([grid_error(row, min_max(row, Grid(BITS)), BITS) for row in v])
    words = "all steps" if where == "all" else f"step {where}"
    return figures.fixed_range((error * ~outside).mean(1), (error * outside).mean(1), own, LAYER, words)


explore(range_from, "range from step", values=(1, 5, 10, 15, 20, "all"), twin=(1, 5, 15, "all"))

# %% [markdown]
# A range can be wrong in two ways. If it is too wide, the grid is coarse. If it is too narrow, values are clipped. To
# clip *much* is worse, because the error of clipping is not bounded by half of the scale. Step 15 has one of this
# layer's widest ranges, so its range works as well as the range of all steps. Other layers have other wide steps.
#
# ## A check of the calibration: KL divergence
#
# Nobody looks at a hundred layers one by one. The Kullback-Leibler (KL) divergence is one number for each layer. It
# says how much the distribution $\hat P$ of the layer's quantized outputs differs from the distribution $P$ of its
# full-precision outputs:
#
# $$\mathrm{KL}(P\,\|\,\hat P) = \sum_i p_i \log \frac{p_i}{\hat p_i}.$$
#
# It is 0 if both are equal. **Smaller is better.** With the natural logarithm its unit is the *nat*. We estimate it
# from histograms: $p_i$ is the share of the values in bin $i$. Here there are 256 equal bins over the joint range. We
# add half a count to each bin. So an empty bin does not give infinity.

# %% tags=["nbval-check-output"]
from qdiff_lib.evaluation.kl_divergence import kl_divergence

normal, other = (torch.randn(200_000, generator=generator) for _ in range(2))
exact = torch.tensor(1.5).log() + (1 + 0.25) / (2 * 1.5**2) - 0.5  # of N(0, 1) from N(0.5, 1.5^2)
estimate = kl_divergence(normal, 1.5 * other + 0.5, bins=256, pseudocount=0.5)
print(f"two Gaussians: exact {exact:.2f}, estimated {estimate:.2f}")
print(f"two samples of the same Gaussian: {kl_divergence(normal, other):.2f}")
claim(abs(estimate - exact) < 0.05 * exact, "the estimate is within 5 % of the formula")

# %% [markdown]
# Now we calibrate the same network three times, with 8-bit activations and unchanged weights. Each calibration set has
# 16 inputs, chosen at random. For the first set, each step is equally likely. The second set comes from the first two
# steps (noise), the third from the last two steps (nearly pictures). The check uses other inputs.

# %%
from qdiff_lib import Recipe, quantize, record
from qdiff_lib.course.watching import chosen
from qdiff_lib.recipes.timestep_rules import Uniform

pool = record(pipe, Uniform(), samples=160, steps=steps, batch_size=8)
held_out = record(pipe, Uniform(), samples=40, steps=steps, seed=1, batch_size=8)
rows = {
    "all steps": pool.step >= 0,
    "first two steps": pool.step < 2,
    "last two steps": pool.step >= steps - 2,
}
eight_bits = Recipe.linear(32, 8)
quantized = {label: quantize(pipe, eight_bits, chosen(pool, which, 16)) for label, which in rows.items()}

# %%
from qdiff_lib.course.watching import layer_outputs

CHECKED = [*LAYERS[:2], "mid_block.resnets.0.conv1", "up_blocks.0.resnets.0.conv1", LAYERS[2], "conv_out"]
reference, kl = layer_outputs(pipe.unet, CHECKED, held_out), {}
for label, model in quantized.items():
    found = layer_outputs(model.unet, CHECKED, held_out).items()
    kl[label] = {layer: kl_divergence(reference[layer], out) for layer, out in found}
show(figures.divergences(kl, len(held_out)))
every, early, late = (sum(each.values()) / len(each) for each in kl.values())
claim(every < 0.8 * min(early, late), f"mean KL divergence, calibrated on all steps: {every:.4f} nats")
print(f"calibrated on the first two steps: {early:.4f} nats, on the last two steps: {late:.4f} nats")

# %% [markdown]
# ## Stress: do the pictures agree with the check?
#
# The next cell measures the final error of eight images, from the same noise, for the three calibrations. The KL
# divergence looks at one layer and one step. The images went through all layers and all steps.
#
# **Predict:** which of the three calibrations has the largest error in the images?

# %%
from qdiff_lib.evaluation.trajectory_errors import trajectory_mse

eight, error = full.trajectory[:, :8], {}
for label, model in quantized.items():
    run = sample(model, 8, steps, record=True)
    error[label] = trajectory_mse(eight, run.trajectory)[-1].item()
    print(f"calibrated on {label:<16} MSE of the images {error[label]:.4f}")
last, first = (error[f"{which} two steps"] / error["all steps"] for which in ("last", "first"))
claim(last > 3, f"the last two steps give {last:.0f} times the error of all steps")
print(f"the first two steps give {first:.1f} times the error of all steps")

# %% [markdown]
# ## Recap
#
# 1. Activation ranges change along the run. Neighbouring steps have similar ranges, steps far apart do not.
# 2. A step that uses the share $u$ of a fixed grid has $1/u^2$ times the error. It loses $\log_2(1/u)$ bits.
# 3. A range from too few steps clips values of other steps. This is worse than a coarse grid.
# 4. An observer must see all steps. A percentile observer clips a few values and gets a finer grid.
# 5. The KL divergence checks a calibration layer by layer. Smaller is better. In the end, look at the images.
#
# **Not shown:** ranges that change with the time step (they need a table for each layer); the two halves of shortcut
# layers, whose ranges differ within one step (lesson 4); learned step sizes (lesson 5).

# %%
quiz("02")
progress()

# %% [markdown]
# ## Read more
#
# - X. Li et al., [Q-Diffusion: Quantizing Diffusion Models](https://arxiv.org/abs/2302.04304), ICCV 2023. Figure 5 shows
#   how the ranges change, over 1,000 samples and 100 DDIM steps.
# - Y. Shang et al., [Post-training Quantization on Diffusion Models](https://arxiv.org/abs/2211.15736) (PTQ4DM), CVPR
#   2023. The first paper on the role of the time steps. It draws its calibration steps from a normal distribution.
# - M. Nagel et al., [A White Paper on Neural Network Quantization](https://arxiv.org/abs/2106.08295), 2021. Grids, ranges
#   and observers, with practical advice.
# - R. Krichevsky and V. Trofimov, [The Performance of Universal Encoding](https://doi.org/10.1109/TIT.1981.1056331), IEEE
#   Transactions on Information Theory, 1981. The reason for half a count in each bin.
#
# **Next:** lesson 3 asks from which steps the calibration inputs should come.
