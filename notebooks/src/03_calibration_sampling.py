# %% [markdown]
# # From which steps should the calibration inputs come?
#
# | | |
# |---|---|
# | You will be able to | **choose** the steps of a calibration set, and say what a bad choice costs; **write** the uniform rule; **predict** which rounding a set will lead to; **keep** calibration and evaluation apart |
# | You need | lessons 00 to 02, PyTorch, what a covariance is |
# | Time | 40 minutes to work through; half a minute to run on a CPU, less on a GPU |
# | Memory | below 900 MB |
# | In the paper | sections 3.1 and 3.3.1, Figure 4 of Q-Diffusion (Li et al., ICCV 2023, arXiv 2302.04304) |
#
# To round a network well, one must see what flows through it. No training data is needed: the sampler itself makes
# inputs, some at each step. But a set is small, and a run has many steps. Which of them should it show?

# %% [markdown]
# ## The picture first
#
# Four sets of 20 inputs each, recorded from the same runs: from all 20 steps, from the first two, the middle two and
# the last two. Each set chooses the range of every activation. 8-bit activations, floating-point weights (W32A8),
# and nothing else differs.

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
    """A set of ``count`` inputs of the pool, as many of each step as the rule says."""
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
from qdiff_lib.evaluation.trajectory_errors import trajectory_mse

exact = runs.pop("full precision").trajectory
mse = {label: trajectory_mse(exact, run.trajectory)[-1].item() for label, run in runs.items()}
for label in ("last 2", "middle 2"):
    worse = mse[label] / mse["uniform"]
    claim(worse > 3, f"a set from the {label} steps: {worse:.0f} times the error of the uniform set")
print(f"from the first 2 steps: {mse['first 2'] / mse['uniform']:.1f} times")

# %% [markdown]
# Only the choice of steps differs. This lesson asks why it matters, first for ranges, then for roundings.
#
# ## Six rules
#
# Step 1 is the noisy end. *Uniform* is the paper's rule: some inputs at every $c$-th step. *Normal* is that of PTQ4DM
# (post-training quantization for diffusion models, Shang et al., CVPR 2023): diffusion times drawn from a normal
# distribution whose mean lies below one half, towards the clean end. (Here its deviation is 0.2 of the run, half of that
# in PTQ4DM's published command: it keeps to the middle more clearly.)

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
# *Difficulty 2 of 5, importance 5 of 5, 7 minutes.* Take inputs at the steps $0, c, 2c, \dots$ below $T$, the same
# number at each. Where the numbers do not divide, some steps get one more: the set must have *exactly* its size.

# %% tags=["exercise"] exercise="03.uniform_counts"
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
# *Difficulty 2 of 5, importance 4 of 5, 6 minutes.* The counts say how many inputs to keep at a step, not from which
# of the trajectories that run side by side. Keeping the first ones at every step shows the network a few pictures
# growing up, and no others. Draw anew at each step, and none twice.


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
# Why should *weights* care about the steps? Take a neuron that reads 8 neighbouring pixels, $y = w^\top x_t$. Each
# weight may go down or up to the grid: 256 roundings. A rounding that is off by $d$ has at step $t$ the mean squared
# error
#
# $$E_t(d) = d^\top C_t\, d,\qquad C_t = a_t M + (1 - a_t)\,I,$$
#
# where $C_t$ is the second moment of the input: $M$ that of pictures, whose neighbours are alike, $I$ that of white noise,
# and $a_t$ (the paper's $\bar\alpha_t$) the level of lesson 01. A calibration set that takes the share $p_t$ of its
# inputs from step $t$ sees the error $\sum_t p_t E_t(d)$, and takes the best $d$ for it.

# %% tags=["nbval-check-output"]
from qdiff_lib.course.gaussian import alpha_bars

NEURONS, PIXELS, MU, SIGMA, LIKE = 200, 8, -0.4, 0.7, 0.9
a = alpha_bars(STEPS)[:-1, None, None]  # before each step
apart = (torch.arange(PIXELS)[:, None] - torch.arange(PIXELS)).abs()
M = SIGMA**2 * LIKE ** apart.double() + MU**2
C = a * M + (1 - a) * torch.eye(PIXELS)  # (T, 8, 8)
w = 14 * torch.rand(NEURONS, PIXELS, generator=generator, dtype=torch.float64) - 7  # in steps of the grid
ups = torch.cartesian_prod(*[torch.arange(2.0, dtype=torch.float64)] * PIXELS)  # (256, 8): down or up
d = w.floor()[:, None] + ups - w[:, None]  # (neurons, 256, 8)
E = torch.einsum("nki,tij,nkj->tnk", d, C, d)  # error of every rounding at every step
nearest = d.square().sum(-1).argmin(-1)
print("at the noisy end C is I within", f"{(C[0] - torch.eye(PIXELS)).abs().max():.1g}")
print(
    f"neighbouring pixels: correlation {C[0, 0, 1] / C[0, 0, 0]:.2f} first, {C[-1, 0, 1] / C[-1, 0, 0]:.2f} last"
)

# %% [markdown]
# **Predict.** In white noise the error is $d^\top I d = \sum_i d_i^2$. Which rounding will a set from the *first* steps
# choose? And the last steps' choice: where will it be better than that, where worse? Then run.


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
claim(same > 0.9, f"a set of noise chooses round-to-nearest for {same:.0%} of the neurons")
mean = {label: (error.sum() / plain_toy.sum()).item() for label, error in toy.items()}
assert mean["uniform"] < min(mean.values()) + 1e-9, "it minimises just this mean, over all roundings"
claim(mean["last 2"] > 1, f"a set of pictures: {mean['last 2']:.2f} times nearest's error over the run")
claim(mean["middle 2"] < min(mean["first 2"], mean["last 2"]), "the ends are bad, the middle least bad")
print(", ".join(f"{label} {value:.2f}" for label, value in mean.items()))

# %% [markdown]
# Observe: the errors of two weights cancel only if their inputs are alike. Noise has no such inputs, so a set of noise
# learns nothing, and keeps nearest. A set of pictures lets errors cancel that do not cancel in noise. The uniform
# set minimises the mean over the run, because it *is* the mean over the run.
#
# ## The real network
#
# The first convolution reads $x_t$ itself, 9 pixels for each of its 32 outputs: 512 roundings to 4 bits, few enough to
# try them all. A layer further inside reads 288 numbers; there GPTQ (Frantar et al., ICLR 2023), a formula that
# rounds one weight after the other and lets the next ones make up for it, takes $C_t$ and chooses. All errors are
# measured on held-out inputs, from another seed.

# %%
from qdiff_lib.course.watching import watched_inputs

LAYERS = ["conv_in", "down_blocks.2.resnets.0.conv2", "up_blocks.2.resnets.0.conv2"]
LAYERS += ["up_blocks.3.resnets.1.conv2"]


def inputs_of_layers(inputs, most):
    """For each layer a list of its inputs at each step, ``most`` at a step, (n, C, H, W)."""
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
w = pipe.unet.conv_in.weight.detach().cpu().flatten(1).double()  # (32, 9)
s, z = min_max(w, Grid(4, granularity=PerAxis(0)))
ups = torch.cartesian_prod(*[torch.arange(2.0, dtype=torch.float64)] * 9)
d_in = s[:, None] * ((w / s).floor().clamp(-z, 14 - z)[:, None] + ups) - w[:, None]  # (32, 512, 9)
E_seen, E_new = (torch.einsum("nki,tij,nkj->tnk", d_in, each, d_in) for each in (C_seen, C_new))

# %%
first = {label: per_step(chosen_for(counts, E_seen), E_new) for label, counts in taken.items()}
plain = per_step(d_in.square().sum(-1).argmin(-1), E_new)
show(figures.by_step(first, plain, "conv_in, W4: every rounding tried"))
best = per_step(E_new.sum(0).argmin(-1), E_new).sum()  # chosen by the held-out inputs themselves
mean = {label: (error.sum() / plain.sum()).item() for label, error in first.items()}
off = (first["uniform"].sum() / best - 1).item()
claim(off < 0.05, f"uniform is within {off:.1%} of the best rounding there is")
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
layer = quantized_unit(pipe.unet, UNIT, Recipe.linear(4, 32, include=(LAYER,))).conv2.cpu()
w = layer.weight.detach().flatten(1).double()
s, z = (torch.cat(part, 1).flatten(1).double() for part in layer.column_grids())


def errors_of(codes, moment):
    """Error at each step, (T,), of weights with these codes."""
    d = s * codes.flatten(1) - w
    return torch.einsum("ni,tij,nj->t", d, moment, d)


def fitted(counts):
    """The codes that GPTQ finds for a set with these counts."""
    return gptq_levels(layer, torch.einsum("t,tij->ij", (counts / counts.sum()).double(), D_seen))


deep = {label: errors_of(fitted(counts), D_new) for label, counts in taken.items()}
plain = errors_of(((w / s).round() + z).clamp(0, 15) - z, D_new)

# %%
show(figures.by_step(deep, plain, f"{LAYER}, W4: GPTQ"))
mean = {label: (error.sum() / plain.sum()).item() for label, error in deep.items()}
for label in ("first 2", "last 2"):
    worse = mean[label] / mean["uniform"]
    claim(worse > 1.5, f"{label}: {worse:.1f} times the error of the uniform set")
own, other = (deep["first 2"] / deep["uniform"])[[0, -1]]
claim(own < 1 < other, f"the first 2 steps' set: {own:.2f} times at its own step, {other:.1f} at the last")

# %% [markdown]
# Observe: a set is good for the steps that it comes from, and others pay. The toy's order holds: the ends are bad, the
# middle is less bad, and all steps together are best.
#
# ## Coverage of the ranges
#
# The ranges of activations follow the same logic, without any averaging: the smallest and the largest value of the set
# decide. **Predict**: which single rule covers the widest ranges, and which steps does a set from the last two leave
# uncovered? Turn the knob.


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
# Now the whole method at W4A8, with learned roundings and learned step sizes (lesson 05), the first and the last layer
# at 16 bits. A calibration for each rule takes too long for a lesson, so this is a recorded result. It follows the paper's
# Figure 4 (4-bit weights): sets from the first, the middle and the last $n$ steps. The paper's findings there: (1) uniform
# beats them all; (2) the ends are bad, the middle is least bad; (3) a larger $n$ helps. The cell counts how far each holds
# here. A row is one calibration with one seed. How much of a difference may be chance, the grey band shows: uniform was
# calibrated several times, with other inputs from the same steps and other batches. What lies inside the band is not told
# apart, and what lies just outside may still be chance. (The paper's FID on CIFAR-10 at W4A8 is 5.14 for PTQ4DM, which draws
# normal times, and 4.93 for Q-Diffusion; they differ in more than the rule.)

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
least_bad = {s: min(("first", "middle", "last"), key=lambda rule: error[rule, s]) for s in shares}
print("(2) least bad:", ", ".join(f"{rule} at {s:.0%} of the steps" for s, rule in least_bad.items()))
helps = [error[rule, shares[-1]] < error[rule, shares[0]] for rule in ("first", "middle", "last")]
print(f"(3) {shares[-1]:.0%} of the steps are better than {shares[0]:.0%} for {sum(helps)} of 3 rules")

# %% [markdown]
# ### Exercise: never evaluate on the noise of the calibration
#
# Roundings may also fit their set *too* well. What is chosen by its error on some inputs looks better on these than it
# is. So the noise of the calibration runs must not appear in the evaluation. The library gives each image a random
# stream of its own; its number depends on the role (0: evaluation, 1: calibration), the seed and the image. torch's CPU
# generator keeps 32 bits of the number that it is seeded with; a larger number falls onto another's stream.
#
# *Difficulty 2 of 5, importance 4 of 5, 6 minutes.* Give every (role, seed, image) another number below $2^{32}$.


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
ratio = [new / old for old, new in zip(own, true)]
claim(min(true) >= best, "no set finds a rounding that is truly better than the best")
claim(ratio[1] > 2, f"{counts[1]} inputs: the true error is {ratio[1]:.0f} times what they show")
claim(ratio[-1] < 1.05, f"{counts[-1]} inputs: {ratio[-1]:.2f} times; a large set cannot be learned by heart")

# %% [markdown]
# Few inputs flatter, and may even do harm: below nearest's line a set is better than none. That is why the same seed
# must never calibrate and evaluate.
#
# ## Stress: one step alone
#
# Turn it to the extreme: a set from a single step. **Predict**: is there one step that serves all others? In the toy
# there must be: $C_t$ depends on $a_t$ only, so that the step whose $a_t$ is nearest to the mean of all shows about
# the mean moment. Does the real network have such a step?

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
claim(ratio < 1.02, f"toy: step {typical + 1} alone has {ratio:.3f} times uniform's error")
print(f"conv_in: the best step alone has {one['conv_in'].min():.3f} times uniform's error")
claim(least > 1.2, f"{LAYER}: the best step alone has {least:.2f} times uniform's error")

# %% [markdown]
# One number, the noise level, describes what the first layer sees. Deeper layers see features of pictures, which come
# and go: no single step shows them all. The uniform rule needs to know nothing about that.
#
# ## Recap
#
# 1. A calibration set decides ranges and roundings. Both fit the steps that it shows, and others pay.
# 2. The error of a rounding is $d^\top C_t\,d$; a set replaces $C_t$ by its own mean over the steps.
# 3. Noise teaches nothing but nearest; pictures teach what is wrong for noise. The uniform rule minimises the mean.
# 4. Exactly $N$ inputs, evenly over every $c$-th step, other trajectories at each of them.
# 5. Never evaluate on the noise of the calibration: inputs that a rounding was chosen by flatter it, small sets most.
#
# **Not shown:** why small sets from the first steps do better than those from the middle in the whole network, when
# single layers are served best by the middle; sets that weigh steps by how much their errors matter in the end (lesson
# 01: early errors travel further); text-to-image models, whose sets must show prompts, too; several calibrations of
# each rule, whose spread would tell chance from effect.

# %%
quiz("03")

# %% [markdown]
# ## References
#
# - Li et al., *Q-Diffusion: Quantizing Diffusion Models*, ICCV 2023, arXiv 2302.04304. Section 3.3.1 has the uniform rule,
#   Figure 4 the sets from the first, the middle and the last steps.
# - Shang et al., *Post-training Quantization on Diffusion Models* (PTQ4DM), CVPR 2023, arXiv 2211.15736. The normal rule,
#   and a comparison of what to calibrate on.
# - Frantar et al., *GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers*, ICLR 2023,
#   arXiv 2210.17323. Rounding with the second moment of the inputs.
# - Nagel et al., *Up or Down? Adaptive Rounding for Post-Training Quantization*, ICML 2020, arXiv 2004.10568. Why
#   nearest is not best, with the same quadratic form.
#
# **Next:** lesson 04 looks at layers whose inputs have two ranges at one and the same step.
