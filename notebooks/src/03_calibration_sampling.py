# %% [markdown]
# # From which steps should the calibration inputs come?
#
# | | |
# |---|---|
# | You will be able to | **choose** the steps of a calibration set, and name the cost of a bad choice; **write** the uniform rule; **predict** which rounding a set leads to; **keep** calibration and evaluation apart |
# | You need | lessons 0 to 2, PyTorch, and what a covariance is |
# | Time | about 40 minutes; the cells run in half a minute on two CPU cores, and faster on a GPU |
# | Memory | below 900 MB |
# | In the paper | sections 3.1 and 3.3.1, Figure 4 of [Q-Diffusion](https://arxiv.org/abs/2302.04304) |
#
# To round a network well, we must see the values inside it. We need no training data for this: the sampler itself makes
# inputs of the network at each step. A calibration set is small, and a run has many steps. Which steps should the set
# show? All letters are in [notation and glossary](../docs/notation.md).

# %% [markdown]
# ## The picture first
#
# Here are four sets of 20 inputs each, recorded from the same runs. They come from all 20 steps, from the first two, from
# the middle two, and from the last two. Each set chooses the range of every activation. Activations have 8 bits, and
# weights stay in floating point (W32A8). All else is equal.

# %%
import torch
from qdiff_lib import Recipe, load, quantize, record, sample, with_sampler
from qdiff_lib.calibration.calibration_set import CalibrationSet
from qdiff_lib.calibration.record import draw_counts
from qdiff_lib.course.figures import lesson_03 as figures
from qdiff_lib.course.figures.lesson_01 import same_seeds
from qdiff_lib.recipes.timestep_rules import First, Last, Middle, Normal, Single, Uniform

STEPS, n = 20, lesson.pick(tiny=8, laptop=32, gpu=64)
pipe = with_sampler(load("ddpm-fashion", device=lesson.device), "ddim")
pool = record(pipe, Uniform(), samples=10 * STEPS, steps=STEPS, batch_size=8)
held_out = record(pipe, Uniform(), samples=4 * STEPS, steps=STEPS, seed=1, batch_size=8)
rules = {"uniform": Uniform(), "normal": Normal(), "first 2": First(2), "middle 2": Middle(2)}
rules |= {"last 2": Last(2), f"step {STEPS // 2 + 1} alone": Single(STEPS // 2)}


# %%
def drawn(rule, count):
    """A set of ``count`` inputs of the pool; the rule says how many come from each step."""
    counts = draw_counts(rule, STEPS, count, torch.Generator().manual_seed(0))
    index = torch.cat([(pool.step == s).nonzero().flatten()[:k] for s, k in enumerate(counts.tolist())])
    return CalibrationSet(pool.rows(index), pool.step[index], {})


draw = dict(n=n, steps=STEPS, batch_size=8, record=True)
runs = {"full precision": sample(pipe, **draw)}
for label in ("uniform", "first 2", "middle 2", "last 2"):
    runs[label] = sample(
        quantize(pipe, Recipe.linear(32, 8), drawn(rules[label], 20), progress=False), **draw
    )
show(same_seeds({label: run.images for label, run in runs.items()}))

# %%
from qdiff_lib.course.watching import errors_along

mse = {label: curve[-1].item() for label, curve in errors_along(runs)[0].items()}
for label in ("last 2", "middle 2"):
    worse = mse[label] / mse["uniform"]
    claim(worse > 3, f"a set from the {label} steps: {worse:.0f} times the error of the uniform set")
print(f"from the first 2 steps: {mse['first 2'] / mse['uniform']:.1f} times")

# %% [markdown]
# Only the choice of the steps differs. This lesson explains its effect, first on roundings, then on ranges.
#
# ## Six rules
#
# Step 1 is the noisy end. *Uniform* is the paper's rule: it takes inputs at every $c$-th step. *Normal* is the rule of
# PTQ4DM (post-training quantization for diffusion models, Shang et al., CVPR 2023). It draws diffusion times from a
# normal distribution. The mean of this distribution is below one half, towards the clean end. Its standard deviation in
# PTQ4DM is 0.4 of the run. We use 0.2, so that the middle shows more clearly.

# %% tags=["nbval-check-output"]
generator = torch.Generator().manual_seed(0)
taken = {label: draw_counts(rule, STEPS, 320, generator) for label, rule in rules.items()}
show(figures.strip_chart(taken))
claim(all(counts.sum() == 320 for counts in taken.values()), "every rule gives exactly 320 inputs")
late = taken["normal"][STEPS // 2 :].sum() / 320
claim(late > 0.5, f"the normal rule takes {late:.0%} of its inputs from the second half")

# %% [markdown]
# ### Exercise: the uniform rule
#
# *Difficulty 2 of 5, importance 5 of 5, time: about 7 minutes.* Take inputs at the steps $0, c, 2c, \dots$ below $T$,
# the same number at each. If the division leaves a rest, some of these steps get one more. The set must have *exactly*
# the required size.

# %% tags=["exercise"] exercise="03.uniform_counts"
import torch
from torch import Tensor


def uniform_counts(steps: int, samples: int, interval: int) -> Tensor:
    """How many inputs to keep at each step, (steps,) whole numbers that sum to ``samples``.

    interval: c; every c-th step is used, from step 0 on.
    """
    # BEGIN SOLUTION
    used = torch.arange(0, steps, interval)
    counts = torch.zeros(steps, dtype=torch.long)
    counts[used] = samples // len(used)
    counts[used[: samples % len(used)]] += 1
    return counts
    # END SOLUTION


# %% [markdown]
# ### Exercise: which trajectories?
#
# *Difficulty 2 of 5, importance 4 of 5, time: about 6 minutes.* The counts say how many inputs to keep at a step. Now
# choose the trajectories from which these inputs come. If you keep the same trajectories at every step, the set covers
# only a few images. Draw trajectories independently at each step, without replacement.


# %% tags=["exercise"] exercise="03.draw_trajectories"
def draw_trajectories(counts: Tensor, trajectories: int, generator: torch.Generator) -> list[Tensor]:
    """For each step, the numbers of the trajectories to keep there: counts[t] different ones, at random.

    counts: (T,) whole numbers. trajectories: how many there are; they have the numbers 0, 1, ...
    """
    # BEGIN SOLUTION
    order = [torch.randperm(trajectories, generator=generator) for _ in counts]
    return [shuffled[:count] for shuffled, count in zip(order, counts.tolist(), strict=True)]
    # END SOLUTION


# %% [markdown]
# ## A toy with a known answer
#
# Why do the steps matter for *weights*? Take a neuron that reads 8 neighbouring pixels, $y = w^\top x_t$. Each weight
# can be rounded down or up. So there are 256 roundings. Let $d$ be the change of the weights in one rounding. Its mean
# squared error at step $t$ is
#
# $$E_t(d) = d^\top C_t\, d,\qquad C_t = a_t M + (1 - a_t)\,I.$$
#
# $C_t$ is the second moment of the input. $M$ is the second moment of pictures, where neighbouring pixels are similar.
# $I$ is the second moment of white noise. $a_t$ (the paper's $\bar\alpha_t$) is the noise level of lesson 1. A
# calibration set takes the share $p_t$ of its inputs from step $t$. On this set, the error of a rounding is
# $\sum_t p_t E_t(d)$. The set chooses the rounding whose $d$ gives the smallest error.

# %% tags=["nbval-check-output"]
from qdiff_lib.course.gaussian import alpha_bars

NEURONS, PIXELS, MU, SIGMA, LIKE = 200, 8, -0.4, 0.7, 0.9
a = alpha_bars(STEPS)[:-1, None, None]  # before each step
apart = (torch.arange(PIXELS)[:, None] - torch.arange(PIXELS)).abs()
M = SIGMA**2 * LIKE ** apart.double() + MU**2
C = a * M + (1 - a) * torch.eye(PIXELS)  # (T, 8, 8)
w = 14 * torch.rand(NEURONS, PIXELS, generator=generator, dtype=torch.float64) - 7  # on a grid of scale 1
ups = torch.cartesian_prod(*[torch.arange(2.0, dtype=torch.float64)] * PIXELS)  # (256, 8): down or up
d = w.floor()[:, None] + ups - w[:, None]  # (neurons, 256, 8)
E = torch.einsum("nki,tij,nkj->tnk", d, C, d)  # error of every rounding at every step
nearest = d.square().sum(-1).argmin(-1)
print(f"largest difference of C and I at the noisy end: {(C[0] - torch.eye(PIXELS)).abs().max():.1g}")
at_first, at_last = ((c[0, 1] / c[0, 0]).item() for c in C[[0, -1]])
print(f"correlation of neighbouring pixels: {at_first:.2f} at the first step, {at_last:.2f} at the last")

# %% [markdown]
# In white noise the error is $d^\top I d = \sum_i d_i^2$.
#
# **Predict:** which rounding does a set from the *first* steps choose for nearly all neurons: nearest, or another one?
# And a set from the *last* steps: does its rounding have less error than nearest over the whole run, or more?


# %% tags=["nbval-check-output"]
def chosen_for(counts, errors):
    """Each neuron's best rounding for a set with these counts, (neurons,); errors: (T, neurons, roundings)."""
    return torch.einsum("t,tnk->nk", (counts / counts.sum()).double(), errors).argmin(-1)


def per_step(choice, errors):
    """Error of the chosen roundings at each step, (T,), summed over the neurons."""
    return errors.gather(2, choice.expand(len(errors), -1)[..., None]).sum((1, 2))


toy = {label: per_step(chosen_for(counts, E), E) for label, counts in taken.items()}
plain_toy = per_step(nearest, E)
show(figures.by_step(toy, plain_toy, f"Toy: {NEURONS} neurons, every rounding tried"))
same = (chosen_for(taken["first 2"], E) == nearest).double().mean()
claim(same > 0.9, f"a set from the first steps chooses nearest for {same:.0%} of the neurons")
mean = {label: (error.sum() / plain_toy.sum()).item() for label, error in toy.items()}
assert mean["uniform"] < min(mean.values()) + 1e-9, "it has the smallest mean of all roundings"
claim(mean["last 2"] > 1, f"a set from the last steps: {mean['last 2']:.2f} times nearest's error, so more")
claim(mean["middle 2"] < min(mean["first 2"], mean["last 2"]), "the middle steps are better than both ends")
print(", ".join(f"{label} {value:.2f}" for label, value in mean.items()))

# %% [markdown]
# **Observe.** The errors of two weights can cancel only if their inputs are similar. In noise no inputs are similar:
# rounding to nearest is already best. A set of pictures chooses a rounding whose errors cancel in pictures. In noise
# they do not cancel. The uniform set minimises the mean error over the run, because its own error *is* this mean.
#
# ## The real network
#
# The first convolution reads $x_t$ itself. Each of its 32 outputs reads 9 pixels. So each has 512 roundings to 4 bits,
# and we can try them all. A layer inside the network reads 288 numbers for each output. There we use GPTQ (Frantar et
# al., ICLR 2023). This formula rounds one weight after the other. After each rounding it changes the next weights to
# compensate the error. It needs only $C_t$. We measure all errors on held-out inputs, from another seed.

# %%
from qdiff_lib.course.watching import watched_inputs

LAYERS = ["conv_in", "down_blocks.2.resnets.0.conv2", "up_blocks.2.resnets.0.conv2"]
LAYERS += ["up_blocks.3.resnets.1.conv2"]


def inputs_of_layers(inputs, most):
    """For each layer a list of its inputs at each step, at most ``most`` at a step, (n, C, H, W)."""
    seen = {layer: [] for layer in LAYERS}
    watching = watched_inputs(pipe.unet, LAYERS, lambda layer, x: seen[layer].append(x.cpu()))
    with watching, torch.no_grad():
        for s in range(STEPS):
            rows = (inputs.step == s).nonzero().flatten()[:most]
            pipe.unet(**inputs.rows(rows, lesson.device))
    return seen


seen, new = inputs_of_layers(pool, 8), inputs_of_layers(held_out, 4)

# %%
from qdiff_lib.ptq.gptq import windows
from qdiff_lib.quantizers.grid import Grid, PerAxis
from qdiff_lib.quantizers.range_finders import min_max


def moments(layer, steps):
    """C_t of what one output of the layer sees, (T, K, K)."""
    seen = (windows(pipe.unet.get_submodule(layer), x) for x in steps)  # (N, H, W, C, 3, 3) each
    rows = (x.flatten(3).flatten(0, 2) for x in seen)
    return torch.stack([(x.T @ x / len(x)).double() for x in rows])


C_seen, C_new = (moments("conv_in", each["conv_in"]) for each in (seen, new))
w_in = pipe.unet.conv_in.weight.detach().cpu().flatten(1).double()  # (32, 9)
s_in, z_in = min_max(w_in, Grid(4, granularity=PerAxis(0)))
ups_in = torch.cartesian_prod(*[torch.arange(2.0, dtype=torch.float64)] * 9)
d_in = s_in[:, None] * ((w_in / s_in).floor().clamp(-z_in, 14 - z_in)[:, None] + ups_in) - w_in[:, None]
E_seen, E_new = (torch.einsum("nki,tij,nkj->tnk", d_in, each, d_in) for each in (C_seen, C_new))

# %%
first = {label: per_step(chosen_for(counts, E_seen), E_new) for label, counts in taken.items()}
plain = per_step(d_in.square().sum(-1).argmin(-1), E_new)
show(figures.by_step(first, plain, "conv_in, W4: every rounding tried"))
best = per_step(E_new.sum(0).argmin(-1), E_new).sum()  # chosen by the held-out inputs themselves
mean = {label: (error.sum() / plain.sum()).item() for label, error in first.items()}
off = (first["uniform"].sum() / best - 1).item()
claim(off < 0.05, f"the uniform set's error is only {off:.1%} above that of the best rounding")
claim(mean["first 2"] > 0.97, f"noise again gives nearest: {mean['first 2']:.2f} times its error")
claim(
    mean["middle 2"] < min(mean["first 2"], mean["last 2"]),
    f"middle {mean['middle 2']:.2f}, first {mean['first 2']:.2f}, last {mean['last 2']:.2f}: as in the toy",
)

# %%
from qdiff_lib.course.one_unit import quantized_unit
from qdiff_lib.ptq.gptq import gptq_levels

UNIT, LAYER = "up_blocks.3.resnets.1", LAYERS[-1]
D_seen, D_new = (moments(LAYER, each[LAYER]) for each in (seen, new))
inner = quantized_unit(pipe.unet, UNIT, Recipe.linear(4, 32, include=(LAYER,))).conv2.cpu()
w_inner = inner.weight.detach().flatten(1).double()
s_inner, z_inner = (torch.cat(part, 1).flatten(1).double() for part in inner.column_grids())


def errors_of(codes, moment):
    """Error at each step, (T,), of weights with these codes."""
    d = s_inner * codes.flatten(1) - w_inner
    return torch.einsum("ni,tij,nj->t", d, moment, d)


def fitted(counts):
    """The codes that GPTQ finds for a set with these counts."""
    return gptq_levels(inner, torch.einsum("t,tij->ij", (counts / counts.sum()).double(), D_seen))


deep = {label: errors_of(fitted(counts), D_new) for label, counts in taken.items()}
plain_inner = errors_of(((w_inner / s_inner).round() + z_inner).clamp(0, 15) - z_inner, D_new)

# %%
show(figures.by_step(deep, plain_inner, f"{LAYER}, W4: GPTQ"))
mean = {label: (error.sum() / plain_inner.sum()).item() for label, error in deep.items()}
for label in ("first 2", "last 2"):
    worse = mean[label] / mean["uniform"]
    claim(worse > 1.5, f"{label}: {worse:.1f} times the error of the uniform set")
own, other = (deep["first 2"] / deep["uniform"])[[0, -1]]
claim(own < 1 < other, f"set of the first 2 steps over uniform: {own:.2f} at step 1, {other:.1f} at the last")

# %% [markdown]
# **Observe.** A set is good for its own steps and bad for the other steps. The order is the same as in the toy: the ends
# are worst, the middle is better, and all steps together are best.
#
# ## Coverage of the ranges
#
# The same holds for ranges of activations. Here nothing is averaged: the smallest and the largest value of the set
# decide. Move the slider to see how much of each step's range a rule covers.
#
# **Predict:** which steps does a set from the last two steps cover least: early steps or late steps?


# %%
def range_of(x):
    return min(x.min().item(), 0), max(x.max().item(), 0)


def coverage_of(label):
    """How much of each held-out step's range lies within the range of the rule's steps."""
    covered = {}
    for layer in LAYERS:
        low, high = range_of(torch.cat([seen[layer][s] for s in taken[label].nonzero().flatten()]))
        ends = [range_of(x) for x in new[layer]]
        covered[layer] = torch.tensor([(min(b, high) - max(a, low)) / (b - a) for a, b in ends])
    return figures.coverage(taken[label], covered, label)


explore(coverage_of, "rule", values=list(rules), twin=("uniform", "first 2", "middle 2", "last 2"))

# %% [markdown]
# ## All rules, the whole network
#
# Now the whole method at W4A8, with learned roundings and learned step sizes (lesson 5). The first and the last layer
# have 16 bits. One calibration for each rule takes too long for a lesson, so this is a recorded result.
#
# It follows Figure 4 of the paper (4-bit weights): sets from the first, the middle and the last $n$ steps. The paper
# finds there: (1) uniform is better than all of them; (2) the middle is better than both ends; (3) a larger $n$ helps.
# The cell says how well each of them holds here.
#
# Each row is one calibration with one seed. The grey band shows the effect of chance: uniform was calibrated several
# times, with other inputs from the same steps and other batches. Differences inside the band may be chance. Differences
# just outside the band may also be chance. (In the paper, the FID on CIFAR-10 at W4A8 is 5.14 for PTQ4DM, which draws
# normal times, and 4.93 for Q-Diffusion. These two methods differ in more than the rule.)

# %%
fig4 = recorded("calibration_sampling")
show(figures.recorded_rules(fig4.data))
print(fig4.source())
error = {(row["rule"], row["share"]): row["trajectory_mse"] for row in fig4.data["rows"]}
luck = [row["trajectory_mse"] for row in fig4.data["seeds"]]
worse = sum(value > max(luck) for value in error.values())
print(f"(1) {worse} of {len(error) - 1} other sets have more error than uniform's worst seed")
times = max(error.values()) / max(luck)
claim(times > 10, f"the error of the worst set is {times:.0f} times that of uniform's worst seed")
shares = sorted({share for _, share in error if share})
best_of = {s: min(("first", "middle", "last"), key=lambda rule: error[rule, s]) for s in shares}
print("(2) best of the three:", ", ".join(f"{rule} at {s:.0%} of the steps" for s, rule in best_of.items()))
helps = [error[rule, shares[-1]] < error[rule, shares[0]] for rule in ("first", "middle", "last")]
print(f"(3) {shares[-1]:.0%} of the steps are better than {shares[0]:.0%} for {sum(helps)} of 3 rules")

# %% [markdown]
# ### Exercise: never evaluate on the noise of the calibration
#
# A rounding may fit its calibration set *too* well. Then its error on this set is smaller than on other inputs. So the
# noise of the calibration runs must not appear in the evaluation.
#
# The library gives each image its own random stream. The number of the stream depends on the role (0: evaluation, 1:
# calibration), the seed and the image. torch's CPU generator keeps only 32 bits of this number. So a larger number gives
# the same stream as some smaller number.
#
# *Difficulty 2 of 5, importance 4 of 5, time: about 6 minutes.* Give every (role, seed, image) its own number below
# $2^{32}$.


# %% tags=["exercise"] exercise="03.stream_number"
def stream_number(role: int, seed: int, image: int) -> int:
    """A whole number from 0 to 2^32 - 1 that no other role, seed and image have.

    role: 0 or 1. seed: 0 to 2^11 - 1. image: 0 to 2^20 - 1.
    """
    # BEGIN SOLUTION
    seeds, images = 2**11, 2**20
    return (role * seeds + seed) * images + image
    # END SOLUTION


# %% tags=["nbval-check-output"]
from qdiff_lib.course.exercises.lesson_03 import own_and_true
from qdiff_lib.diffusion.sampling import noise_generators

both = [g for role in ("evaluation", "calibration") for g in noise_generators(0, 0, 64, role)]
noise = torch.stack([torch.randn(8, generator=g) for g in both]).unique(dim=0)
claim(len(noise) == len(both), f"the streams of 64 images in two roles: {len(noise)} different noises")
wrapped, small = (torch.randn(8, generator=torch.Generator().manual_seed(k)) for k in (2**32 + 5, 5))
claim(torch.equal(wrapped, small), "torch: the seeds 2^32 + 5 and 5 give the same noise")
counts, best, white = (4, 8, 16, 64, 256, 1024), E.mean(0).amin(-1).mean(), plain_toy.mean() / NEURONS
own, true = zip(*[own_and_true(d, C, m, 10, generator) for m in counts])  # of the toy's neurons
show(figures.own_and_true(counts, own, true, best.item(), white.item()))
ratio = [after / before for before, after in zip(own, true)]
claim(min(true) >= best, "no set finds a rounding with less true error than the best rounding")
claim(ratio[1] > 2, f"{counts[1]} inputs: the true error is {ratio[1]:.0f} times the error on the set")
claim(ratio[-1] < 1.05, f"{counts[-1]} inputs: {ratio[-1]:.2f} times; a large set cannot be fitted too well")

# %% [markdown]
# A small set looks better than it is. It helps only if its true error is below that of nearest. So never use the same
# seed for calibration and evaluation.
#
# ## Stress: one step alone
#
# Now a set from a single step. In the toy, $C_t$ depends only on $a_t$. So at the step whose $a_t$ is nearest to the mean
# of all $a_t$, the moment $C_t$ is about the mean moment.
#
# **Predict:** is there a single step whose set is about as good as the uniform set: in the toy, and for the layer inside
# the network?

# %%
alone = torch.eye(STEPS)
one = {"toy": [per_step(chosen_for(k, E), E).sum() for k in alone]}
one["conv_in"] = [per_step(chosen_for(k, E_seen), E_new).sum() for k in alone]
one[LAYER] = [errors_of(fitted(k), D_new).sum() for k in alone]
for label, errors in {"toy": toy, "conv_in": first, LAYER: deep}.items():
    one[label] = torch.stack(one[label]) / errors["uniform"].sum()
show(figures.one_step(one))
typical = int((a.flatten() - a.mean()).abs().argmin())
ratio, least = one["toy"][typical], one[LAYER].min()
claim(ratio < 1.02, f"toy, yes: step {typical + 1} alone has {ratio:.3f} times uniform's error")
print(f"conv_in: the best step alone has {one['conv_in'].min():.3f} times uniform's error")
claim(least > 1.2, f"{LAYER}, no: the best step alone has {least:.2f} times uniform's error")

# %% [markdown]
# One number, the noise level, describes the input of the first layer. Layers inside the network see features of pictures.
# Different features appear at different steps, and no single step shows them all. The uniform rule needs no knowledge of
# this.
#
# ## Recap
#
# 1. A calibration set decides ranges and roundings. Both are good for the steps of the set and bad for other steps.
# 2. The error of a rounding is $d^\top C_t\,d$. A calibration set replaces $C_t$ by its own mean over the steps.
# 3. A set of noise gives nearest. A set of pictures gives roundings that are wrong for noise. The uniform rule minimises
#    the mean error.
# 4. Take exactly the required number of inputs, evenly over every $c$-th step, from other trajectories at each step.
# 5. Never evaluate on the noise of the calibration. A rounding looks too good there, most of all with a small set.
#
# **Not shown:** why small sets from the first steps are better than those from the middle in the whole network, though
# the middle is best for single layers; sets that weight steps by their effect on the final image (lesson 1: early errors
# pass through more steps); text-to-image models, whose sets must also cover prompts; several calibrations of each rule,
# which would separate chance from effect.

# %%
quiz("03")
progress()

# %% [markdown]
# ## Read more
#
# - X. Li et al., [Q-Diffusion: Quantizing Diffusion Models](https://arxiv.org/abs/2302.04304), ICCV 2023. Section 3.3.1 has
#   the uniform rule, Figure 4 the sets from the first, the middle and the last steps.
# - Y. Shang et al., [Post-training Quantization on Diffusion Models](https://arxiv.org/abs/2211.15736) (PTQ4DM), CVPR
#   2023. The normal rule, and a comparison of calibration sets.
# - E. Frantar et al., [GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
#   Transformers](https://arxiv.org/abs/2210.17323), ICLR 2023. Rounding with the second moment of the inputs.
# - M. Nagel et al., [Up or Down? Adaptive Rounding for Post-Training Quantization](https://arxiv.org/abs/2004.10568),
#   ICML 2020. Why nearest is not best, with the same quadratic form.
#
# **Next:** lesson 4 is about layers whose inputs have two different ranges within one step.
