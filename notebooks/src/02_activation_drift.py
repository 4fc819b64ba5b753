# %% [markdown]
# # Why can one range not serve all time steps?
#
# | | |
# |---|---|
# | You will be able to | **measure** how the ranges inside a network drift along the run; **compute** what a fixed range costs, in bits; **write** two observers that choose a range; **check** a calibration, layer by layer |
# | You need | lessons 00 and 01, PyTorch, what a histogram is |
# | Time | 40 minutes to work through; half a minute to run on a CPU, less on a GPU |
# | Memory | below 900 MB |
# | In the paper | section 3.1 and Figure 5 of Q-Diffusion (Li et al., ICCV 2023, arXiv 2302.04304) |
#
# Weights are the same in every step. Activations, the numbers that flow between the layers, are not: the network
# first sees pure noise and at last almost a picture. *Static* quantization, which this course is about, fixes the range
# of an activation beforehand.

# %% [markdown]
# ## The picture first
#
# Every row is a layer of the shipped network, every column a denoising step. The colour shows how much of the
# range that would serve *all* steps the layer's input covers at this one. The samples are drawn in full precision; this
# takes an hour on a CPU, so it is a recorded result.

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
    least.median() < 0.85, f"at its narrowest step the median layer covers {least.median():.0%} of its range"
)
claim(least.min() < 0.6, f"the layer that drifts most covers {least.min():.0%}")
near, far = (share[:, k:] - share[:, :-k] for k in (1, half))
near, far = near.abs().mean(), far.abs().mean()
claim(near < far, f"a share changes by {near:.1%} from step to step, by {far:.1%} over half of the run")

# %% [markdown]
# Neighbouring steps are alike, far ones differ: this is the paper's observation. Below is the same as a ridge plot, for
# the three layers that drift most, without those that read the time step alone: thin bars from the smallest to the
# largest value, thick ones for the middle 98 %.

# %%
show(figures.ridges(fig5.data, moving))

# %% [markdown]
# ## A toy with a known answer
#
# Let an activation be spread evenly over $[-c_t, c_t]$, where $c_t$ shrinks from 8 to 1 along the run. A grid of $b$
# bits over a range of width $w$ has the step size $s = w / (2^b - 1)$. A value inside the range is off by at most
# $s/2$, evenly spread: that gives its mean squared error $E$. A step's own range has the width $w_t = 2c_t$. One range for
# all steps has the width $W$ of the widest, and makes the error larger:
#
# $$E = \frac{s^2}{12},\qquad \frac{E_\text{one}}{E_\text{own}}
# = \Bigl(\frac{W}{w_t}\Bigr)^2 = \frac{1}{u_t^2},\qquad u_t = \frac{w_t}{W}.$$
#
# **$u_t$ is the utilisation**: the share of the grid that step $t$ can use. This costs $\log_2 (1/u_t)$ bits, because
# one bit less about doubles the step size.
#
# **Predict**: how many of 8 bits are left at the last step of the toy, where $c_t = 1$?

# %% tags=["nbval-check-output"]
import torch
from qdiff_lib.quantizers.grid import Grid, fake_quantize
from qdiff_lib.quantizers.range_finders import min_max


def grid_error(x, found, bits):
    """Mean squared error of x on the grid ``found``, a pair (scale, zero_point)."""
    return (fake_quantize(x, *found, bits) - x).square().mean()


sizes, generator = (8, 4, 2, 1), torch.Generator().manual_seed(0)
toy = [c * (2 * torch.rand(200_000, generator=generator) - 1) for c in sizes]
one = min_max(torch.cat(toy), Grid(8))
for c, x in zip(sizes, toy, strict=True):
    ratio = grid_error(x, one, 8) / grid_error(x, min_max(x, Grid(8)), 8)
    print(f"c = {c}: error ratio {ratio:.0f}, bits lost {0.5 * ratio.log2():.1f}")
claim(abs(ratio / 64 - 1) < 0.1, "at u = 1/8 the error is 64 times as large: 3 of 8 bits are lost")

# %% [markdown]
# ### Exercise: utilisation
#
# *Difficulty 1 of 5, importance 3 of 5, 5 minutes.* On a real grid $u$ is counted in codes: those from the lowest to the
# highest that the tensor uses, as a share of all $2^b$.

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
# An *observer* looks at an activation while calibration batches pass by, and chooses scale and zero point in the end.
# The simplest keeps the extremes: with $l = \min(0, \min x)$ and $h = \max(0, \max x)$ over **all** batches,
#
# $$s = \frac{h - l}{2^b - 1},\qquad z = \mathrm{round}(-l / s).$$
#
# *Difficulty 2 of 5, importance 5 of 5, 7 minutes.*


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
# Min-max never clips, so one outlier decides the step size for everybody. A percentile observer leaves out a share of
# the values at each end. They are clipped, and all others get a finer grid.
#
# *Difficulty 3 of 5, importance 4 of 5, 8 minutes.* The percentile is that of all batches together.


# %% tags=["exercise"] exercise="02.percentile_observer"
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
# **Which one is better?** That depends on the tail. Evenly spread values have none; those of a Laplace distribution, which
# is like many activations, have a long one.

# %% tags=["nbval-check-output"]
from qdiff_lib.quantizers.range_finders import percentile

even = 2 * torch.rand(100_000, generator=generator) - 1
signs = torch.where(torch.rand(100_000, generator=generator) < 0.5, -1.0, 1.0)
heavy = -signs * torch.rand(100_000, generator=generator).clamp(min=1e-6).log()  # Laplace
gain = {}
for name, x in (("even", even), ("heavy-tailed", heavy)):
    for bits in (4, 8):
        clipped = grid_error(x, percentile(x, Grid(bits), 99.5), bits)
        gain[name, bits] = grid_error(x, min_max(x, Grid(bits)), bits) / clipped
        print(
            f"{name}, {bits} bits: the whole range has {gain[name, bits]:.2f} times the error of a clipped one"
        )
claim(gain["heavy-tailed", 4] > 1.5, "4 bits and a long tail: a clipped range is better")
claim(gain["heavy-tailed", 8] < 1, "8 bits can afford the whole range, and lose by clipping")

# %% [markdown]
# ## The real model, live
#
# A smaller run, with a *forward pre-hook* on each of four layers: a function that PyTorch calls with the layer's input.
# It is registered with `module.register_forward_pre_hook(hook)`; `sampled_inputs` does this, and keeps at each step a
# random sample of the input and its extremes. The hills are histograms.

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
# ## What one range costs
#
# **Predict**: the toy says that the error at step $t$ is $1/u_t^2$ times that of the step's own range. Will real
# activations, which are not spread evenly, keep to it? And in which of the four layers is the price highest?

# %%
from qdiff_lib.course.exercises.lesson_02 import used_share

BITS = 8
used, lost = {}, {}
for layer, v in values.items():
    one = min_max(v.flatten(), Grid(BITS))
    used[layer] = torch.tensor([used_share(x, *one, BITS) for x in v])
    lost[layer] = torch.stack(
        [grid_error(x, one, BITS) / grid_error(x, min_max(x, Grid(BITS)), BITS) for x in v]
    )
show(figures.utilisation(used, lost, BITS))

# %%
worst = max(lost, key=lambda layer: lost[layer].max())
least, ratio = used[worst].min(), lost[worst].max()
claim(least < 0.6, f"{worst} uses only {least:.0%} of the {2**BITS} codes at its narrowest step")
claim(ratio > 2, f"there its error is {ratio:.1f} times that of its own range")
rule = torch.cat([lost[layer] * used[layer] ** 2 for layer in LAYERS]).median()
claim(0.7 < rule < 1.4, f"in the median the error ratio is {rule:.2f} times what 1 / u^2 says")
bits_lost = {layer: 0.5 * lost[layer].max().log2().item() for layer in LAYERS}
for layer, count in bits_lost.items():
    print(f"{layer:<30} bits lost at its worst step: {count:.1f}")
most = max(bits_lost.values())
claim(1 < most < 3, f"up to {most:.1f} of the {BITS} bits are lost")

# %% [markdown]
# Observe: 8 bits can afford to lose two; of 4 bits they would be half. And this range has seen all steps,
# so it clips nothing. What if it was taken from one step only? Turn the knob: the range of one layer comes from that
# step.


# %%
layer = "up_blocks.2.resnets.0.conv2"


def range_from(where):
    v = values[layer]
    x = v.flatten() if where == "all" else v[where - 1]
    found = min_max(x, Grid(BITS))
    low, high = (code - found.zero_point for code in (0, 2**BITS - 1))
    outside = (v < (low - 0.5) * found.scale) | (v > (high + 0.5) * found.scale)
    error = (fake_quantize(v, *found, BITS) - v).square()
    own = torch.stack([grid_error(row, min_max(row, Grid(BITS)), BITS) for row in v])
    words = "all steps" if where == "all" else f"step {where}"
    return figures.fixed_range((error * ~outside).mean(1), (error * outside).mean(1), own, layer, words)


explore(range_from, "range from step", values=(1, 5, 10, 15, 20, "all"), twin=(1, 5, 15, "all"))

# %% [markdown]
# Two ways to fail: a range that is too wide has coarse steps, a range that is too narrow clips. Clipping *much*
# is the worse one, because its error is not bounded by half a step. Step 15 alone does as well as all of them, as it is
# among the widest of this layer; which steps are wide differs from layer to layer.
#
# ## The calibration check: KL divergence
#
# Nobody looks at a hundred layers by hand. The Kullback-Leibler (KL) divergence puts a number on how far the
# distribution of a layer's quantized outputs, $Q$, is from that of its full-precision outputs, $P$:
#
# $$\mathrm{KL}(P\,\|\,Q) = \sum_i p_i \log \frac{p_i}{q_i}.$$
#
# It is 0 when both are equal. **Smaller is better.** With the natural logarithm its unit is the *nat*. The
# estimate is made from histograms: here 256 equal bins over the joint range, half a count added to each bin, so
# that an empty bin costs something finite.

# %% tags=["nbval-check-output"]
from qdiff_lib.evaluation.kl_divergence import kl_divergence

p, q = (torch.randn(200_000, generator=generator) for _ in range(2))
exact = torch.tensor(1.5).log() + (1 + 0.25) / (2 * 1.5**2) - 0.5  # of N(0, 1) from N(0.5, 1.5^2)
estimate = kl_divergence(p, 1.5 * q + 0.5, bins=256, pseudocount=0.5)
print(f"two Gaussians: exact {exact:.2f}, estimated {estimate:.2f}")
print(f"two samples of the same Gaussian: {kl_divergence(p, q):.2f}")
claim(abs(estimate - exact) < 0.05 * exact, "the estimator is within 5 % of the formula")

# %% [markdown]
# Now three calibrations of the same network, activations to 8 bits, weights untouched. Each set has 16 inputs: from all
# steps alike, from the first two steps (noise), from the last two (nearly pictures). The check uses other inputs.

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
claim(every < 0.8 * min(early, late), f"mean KL divergence: {every:.4f} nats if calibrated on all steps")
print(f"on the first two steps: {early:.4f} nats, on the last two: {late:.4f}")

# %% [markdown]
# ## Stress: does the check see what the pictures see?
#
# The final error of eight images, from the same noise, for the three calibrations. The divergence looks at one layer
# and one step at a time. The images have gone through all of them.

# %%
from qdiff_lib.evaluation.trajectory_errors import trajectory_mse

eight, error = full.trajectory[:, :8], {}
for label, model in quantized.items():
    run = sample(model, 8, steps, record=True)
    error[label] = trajectory_mse(eight, run.trajectory)[-1].item()
    print(f"calibrated on {label:<16} MSE of the images {error[label]:.4f}")
worse, early = (error[f"{which} two steps"] / error["all steps"] for which in ("last", "first"))
claim(worse > 3, f"the last two steps give {worse:.0f} times the error of all steps")
print(f"the first two steps: {early:.1f} times")

# %% [markdown]
# ## Recap
#
# 1. Activation ranges drift along the run; neighbouring steps are alike, far ones differ.
# 2. A step that uses the share $u$ of a fixed grid has $1/u^2$ times the error: $\log_2(1/u)$ bits are lost.
# 3. A range from too few steps clips elsewhere, which is worse than a coarse grid.
# 4. An observer must see all steps. A percentile trades a few clipped values for a finer grid.
# 5. KL divergence checks a calibration layer by layer; smaller is better. Images have the last word.
#
# **Not shown:** ranges that change with the time step, which cost a table and a look-up per layer; the two halves of
# shortcut layers, whose ranges differ at one and the same step (lesson 04); learned step sizes (lesson 05).

# %%
quiz("02")

# %% [markdown]
# ## References
#
# - Li et al., *Q-Diffusion: Quantizing Diffusion Models*, ICCV 2023, arXiv 2302.04304. Figure 5 shows the drift, over
#   1,000 samples and 100 DDIM steps.
# - Shang et al., *Post-training Quantization on Diffusion Models* (PTQ4DM), CVPR 2023, arXiv 2211.15736. The first to
#   point at the time steps; draws its calibration steps from a normal distribution.
# - Nagel et al., *A White Paper on Neural Network Quantization*, 2021, arXiv 2106.08295. Grids, ranges and observers,
#   with practical advice.
# - Krichevsky and Trofimov, *The Performance of Universal Encoding*, IEEE Transactions on Information Theory, 1981.
#   Why half a count is added to each bin.
#
# **Next:** lesson 03 asks from which steps the calibration inputs should come.
