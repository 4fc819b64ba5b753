# %% [markdown]
# # Why can one range not serve all time steps?
#
# | | |
# |---|---|
# | You will be able to | **measure** how the ranges inside a network drift along the run; **compute** what a fixed range costs, in bits; **write** two observers that choose a range; **check** a calibration, layer by layer |
# | You need | lessons 00 and 01, PyTorch, what a histogram is |
# | Time | 40 minutes to work through; half a minute to run on a CPU, less on a GPU |
# | Memory | below 900 MB |
# | In the paper | section 3.3 and Figure 5 of Q-Diffusion (Li et al., ICCV 2023, arXiv 2302.04304) |
#
# Weights are the same in every step. Activations, the numbers that flow between the layers, are not: the network
# first sees pure noise and at last almost a picture. To quantize an activation, a range must be fixed beforehand.

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
least = share.amin(1)
moving = [fig5.data["layers"][i] for i in least.argsort()[:3]]
claim(
    least.median() < 0.85,
    f"the median layer covers {least.median():.0%} of its all-steps range at its narrowest step",
)
claim(least.min() < 0.6, f"the layer that drifts most, {moving[0]}, covers {least.min():.0%}")
near = (share[:, 1:] - share[:, :-1]).abs().mean()
far = (share[:, share.shape[1] // 2 :] - share[:, : -(share.shape[1] // 2)]).abs().mean()
claim(
    near < far,
    f"from one step to the next a share changes by {near:.1%} on average, over half of the run by {far:.1%}",
)

# %% [markdown]
# Neighbouring steps are alike, far ones differ: this is the paper's observation. Below is the same as a ridge plot, for
# the three layers that drift most: thin bars from the smallest to the largest value, thick ones for the middle 98 %.

# %%
show(figures.ridges(fig5.data, moving))

# %% [markdown]
# ## A toy with a known answer
#
# Let an activation be spread evenly over $[-c_t, c_t]$, where $c_t$ shrinks from 8 to 1 along the run. A grid of $b$
# bits over a range of width $w$ has the step size $s = w / (2^b - 1)$. A value inside the range is off by at most
# $s/2$, evenly spread, so the mean squared error is
#
# $$E = \frac{s^2}{12},\qquad\text{and for one range of width } W:\qquad \frac{E_\text{one}}{E_\text{own}}
# = \Bigl(\frac{W}{w_t}\Bigr)^2 = \frac{1}{u_t^2},\qquad u_t = \frac{w_t}{W}.$$
#
# **$u_t$ is the utilisation**: the share of the grid that step $t$ can use. It costs $\log_2 (1/u_t)$ bits, because one
# bit less doubles the step size.
#
# **Predict**: how many of 8 bits are left at the last step of the toy, where $c_t = 1$?

# %% tags=["nbval-check-output"]
import torch
from qdiff_lib.grid import Grid, fake_quantize
from qdiff_lib.ranges import min_max


def grid_error(x, found, bits):
    """Mean squared error of x on the grid (scale, zero_point)."""
    return (fake_quantize(x, *found, bits) - x).square().mean()


generator = torch.Generator().manual_seed(0)
toy = [c * (2 * torch.rand(200_000, generator=generator) - 1) for c in (8, 4, 2, 1)]
one = min_max(torch.cat(toy), Grid(8))
for c, x in zip((8, 4, 2, 1), toy, strict=True):
    ratio = grid_error(x, one, 8) / grid_error(x, min_max(x, Grid(8)), 8)
    print(f"c = {c}: error of one range / own range {ratio:.0f}, bits lost {0.5 * ratio.log2():.1f}")
claim(abs(ratio / 64 - 1) < 0.1, "at u = 1/8 the error is 64 times as large: 3 of 8 bits are lost")

# %% [markdown]
# ### Exercise: utilisation
#
# Difficulty 1 of 5, importance 3 of 5, 5 minutes. On a real grid $u$ is counted in codes: those from the lowest to the
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
# ## Observers: who chooses the range
#
# An *observer* looks at an activation while calibration batches pass by, and chooses scale and zero point in the end.
# The simplest keeps the extremes: with $l = \min(0, \min x)$ and $h = \max(0, \max x)$ over **all** batches,
#
# $$s = \frac{h - l}{2^b - 1},\qquad z = \mathrm{round}(-l / s).$$
#
# ### Exercise: a min-max observer
#
# Difficulty 2 of 5, importance 5 of 5, 7 minutes.


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
# Min-max never clips, so one outlier decides the step size for everybody. A percentile observer leaves out a share of
# the values at each end. They are clipped, and all others get a finer grid.
#
# ### Exercise: a percentile observer
#
# Difficulty 3 of 5, importance 4 of 5, 8 minutes. The percentile is that of all batches together.


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
# ## The real model, live
#
# A smaller run with hooks on four layers: a *forward pre-hook* is a function that PyTorch calls with a layer's input. At
# each step we keep a random sample of it, and its extremes.

# %%
from qdiff_lib import load, sample, with_sampler
from qdiff_lib.ranges import Reservoir

LAYERS = [
    "conv_in",
    "down_blocks.2.resnets.0.conv2",
    "up_blocks.2.resnets.0.conv2",
    "up_blocks.3.resnets.1.conv1",
]
steps, n = 20, lesson.pick(tiny=32, laptop=64, gpu=64)
pipe = with_sampler(load("ddpm-fashion", device=lesson.device), "ddim")
seen = {layer: Reservoir(1024, torch.Generator().manual_seed(0)) for layer in LAYERS}
hooks = [
    pipe.unet.get_submodule(layer).register_forward_pre_hook(
        lambda module, inputs, layer=layer: seen[layer].add(inputs[0])
    )
    for layer in LAYERS
]
full = sample(pipe, n, steps, batch_size=8, record=True, progress=True)
for hook in hooks:
    hook.remove()
values = {
    layer: torch.stack(seen[layer].kept).cpu().view(n // 8, steps, -1).transpose(0, 1).flatten(1)
    for layer in LAYERS
}  # (steps, values)

# %%
found = {"steps": steps, "n": n, "layers": LAYERS}
found["min"], found["max"] = (
    [f(v, dim=1).tolist() for v in values.values()] for f in (torch.amin, torch.amax)
)
found["low"], found["high"] = ([v.quantile(q, dim=1).tolist() for v in values.values()] for q in (0.01, 0.99))
hills = {
    layer: torch.stack([torch.histc(row, 60, v.min().item(), v.max().item()) for row in v])
    for layer, v in values.items()
}
show(figures.ridges(found, LAYERS, hills))

# %%
show(figures.heat_map(found))

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
bits_lost = {layer: 0.5 * ratio.max().log2().item() for layer, ratio in lost.items()}
claim(
    used[worst].min() < 0.6,
    f"{worst} uses only {used[worst].min():.0%} of the {2**BITS} codes at its narrowest step",
)
claim(lost[worst].max() > 2, f"there its error is {lost[worst].max():.1f} times that of its own range")
rule = torch.cat([lost[layer] * used[layer] ** 2 for layer in LAYERS])
claim(
    0.7 < rule.median() < 1.4,
    f"the rule 1 / u^2 is right to within {(rule.median() - 1).abs():.0%} in the median",
)
print("bits lost at the worst step:", ", ".join(f"{layer} {lost:.1f}" for layer, lost in bits_lost.items()))

# %% [markdown]
# Observe: 8 bits can afford what is lost here; 4 bits cannot. And this is the *best* fixed range, which has seen all
# steps. What if it was taken from one step only? Turn the knob: the range of one layer comes from that step.


# %%
def range_from(where):
    v = values[worst]
    x = v.flatten() if where == "all" else v[where - 1]
    found = min_max(x, Grid(BITS))
    low, high = (code - found.zero_point for code in (0, 2**BITS - 1))
    outside = (v < (low - 0.5) * found.scale) | (v > (high + 0.5) * found.scale)
    error = (fake_quantize(v, *found, BITS) - v).square()
    own = torch.stack([grid_error(row, min_max(row, Grid(BITS)), BITS) for row in v])
    words = "all steps" if where == "all" else f"step {where}"
    return figures.fixed_range((error * ~outside).mean(1), (error * outside).mean(1), own, worst, words)


explore(range_from, "range from step", values=(1, 5, 10, 15, 20, "all"), twin=(1, 10, 20, "all"))

# %% [markdown]
# Two ways to fail: a range that is too wide has coarse steps, a range that is too narrow clips. Clipping is the worse
# one, because its error is not bounded by half a step.
#
# ## The calibration check: KL divergence
#
# Nobody looks at a hundred layers by hand. The Kullback-Leibler (KL) divergence puts a number on how far the
# distribution of a layer's quantized outputs, $Q$, is from that of its full-precision outputs, $P$:
#
# $$\mathrm{KL}(P\,\|\,Q) = \sum_i p_i \log \frac{p_i}{q_i}.$$
#
# It is 0 when both are equal. **Smaller is better.** The estimate is made from histograms: here 256 equal bins over the
# joint range, half a count added to each bin, so that an empty bin costs something finite.

# %% tags=["nbval-check-output"]
from qdiff_lib.metrics import kl_divergence

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
from qdiff_lib.calibration import CalibrationSet, Uniform

pool = record(pipe, Uniform(), samples=160, steps=steps, batch_size=8)
held_out = record(pipe, Uniform(), samples=40, steps=steps, seed=1, batch_size=8)


def subset(rows):
    """16 inputs of the pool."""
    rows = rows.nonzero().flatten()[:16]
    return CalibrationSet(pool.rows(rows), pool.step[rows], pool.made_by)


sets = {
    "all steps": subset(pool.step >= 0),
    "first two steps": subset(pool.step < 2),
    "last two steps": subset(pool.step >= steps - 2),
}
quantized = {label: quantize(pipe, Recipe.linear(32, 8), chosen) for label, chosen in sets.items()}

# %%
CHECKED = [
    "conv_in",
    "down_blocks.2.resnets.0.conv2",
    "mid_block.resnets.0.conv1",
    "up_blocks.0.resnets.0.conv1",
    "up_blocks.2.resnets.0.conv2",
    "conv_out",
]


def outputs(unet):
    """Outputs of the checked layers over the held-out inputs, by layer."""
    kept = {layer: [] for layer in CHECKED}
    hooks = [
        unet.get_submodule(layer).register_forward_hook(
            lambda module, inputs, out, layer=layer: kept[layer].append(out.flatten().cpu())
        )
        for layer in CHECKED
    ]
    with torch.no_grad():
        for i in range(0, len(held_out), 8):
            unet(**held_out.rows(slice(i, i + 8), lesson.device))
    for hook in hooks:
        hook.remove()
    return {layer: torch.cat(parts) for layer, parts in kept.items()}


# %%
reference = outputs(pipe.unet)
kl = {}
for label, model in quantized.items():
    kl[label] = {layer: kl_divergence(reference[layer], out) for layer, out in outputs(model.unet).items()}
show(figures.divergences(kl, len(held_out)))
mean = {label: sum(each.values()) / len(each) for label, each in kl.items()}
claim(
    mean["all steps"] < 0.8 * min(mean["first two steps"], mean["last two steps"]),
    f"mean KL divergence: {mean['all steps']:.4f} calibrated on all steps, {mean['first two steps']:.4f} on the first "
    f"two, {mean['last two steps']:.4f} on the last two",
)

# %% [markdown]
# ## Stress: does the check see what the pictures see?
#
# The final error of eight images, from the same noise, for the three calibrations. The divergence looks at one layer
# and one step at a time. The images have gone through all of them.

# %%
from qdiff_lib.metrics import trajectory_mse

eight = full.trajectory[:, :8]
final = {
    label: trajectory_mse(eight, sample(model, 8, steps, record=True).trajectory)[-1].item()
    for label, model in quantized.items()
}
for label, error in final.items():
    print(f"calibrated on {label:<16} mean KL {mean[label]:.4f}   MSE of the images {error:.4f}")
claim(
    final["last two steps"] > 3 * final["all steps"],
    "the worst calibration by KL gives the worst images: its range "
    f"clips the noise that the run starts from, and the error is {final['last two steps'] / final['all steps']:.0f} times as large",
)
print(
    f"the first two steps: {final['first two steps'] / final['all steps']:.1f} times the error of all steps"
)

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
