# %% [markdown]
# # Why does a 4-bit model that is fine for one step fail after a hundred?
#
# | | |
# |---|---|
# | You will be able to | **derive** how the error of one denoising step reaches the last step; **predict** its growth and check the prediction; **tell** errors that cancel from errors that add up; **measure** both on a real model |
# | You need | lesson 0, PyTorch, the mean and the variance of a sum |
# | Time | about 40 minutes; the cells run in half a minute on two CPU cores, and faster on a GPU |
# | Memory | below 900 MB |
# | In the paper | section 3.1 and Figure 3 of [Q-Diffusion](https://arxiv.org/abs/2302.04304) |
#
# A diffusion model draws a picture in many small steps. Each step runs the same network. With rounded weights, each run
# of the network has a small error. This lesson follows such an error to the last step. All letters are in
# [notation and glossary](../docs/notation.md).

# %% [markdown]
# ## The picture first
#
# We round the weights of the shipped model to 8, 5 and 4 bits. Each weight goes to the nearest value of its grid. This
# is *linear* quantization, written W8, W5 and W4. The activations stay in floating point (A32).
#
# The last row also has 4-bit weights. Q-Diffusion chose their codes: this is the method that the course explains. In
# this model the first and the last layer have 16 bits. They hold 0.03 % of the weights. Lesson 5 measures each part of
# the method alone.

# %%
from qdiff_lib import Recipe, load, quantize, record, sample, with_sampler
from qdiff_lib.course.figures import lesson_01 as figures
from qdiff_lib.recipes.timestep_rules import Uniform

steps, n = lesson.pick(tiny=20, laptop=50, gpu=100), lesson.pick(tiny=16, laptop=32, gpu=64)
pipe = with_sampler(load("ddpm-fashion", device=lesson.device), "ddim")
inputs = record(pipe, Uniform(), samples=20, steps=20)  # inputs of the network, which quantize() needs
models = {f"linear W{bits}A32": quantize(pipe, Recipe.linear(bits, 32), inputs) for bits in (8, 5, 4)}
models["Q-Diffusion W4A32"] = with_sampler(load("ddpm-fashion-w4a32", device=lesson.device), "ddim")
draw = dict(n=n, steps=steps, batch_size=8, record=True, progress=True)
runs = {"full precision": sample(pipe, **draw)}
runs |= {label: sample(model, **draw) for label, model in models.items()}
show(figures.same_seeds({label: run.images for label, run in runs.items()}))

# %%
from qdiff_lib.course.watching import errors_along

exact = runs["full precision"].trajectory  # (steps, images, 1, 32, 32): x after each step
mse, snr = errors_along(runs)  # of the other runs, after each step
first, last = (10 ** (snr["linear W4A32"][i].item() / 20) for i in (0, -1))  # dB: size over size
claim(first > 15, f"after one step with 4-bit weights, x is {first:.0f} times as large as its error")
claim(last < first / 4, f"after {steps} steps it is only {last:.1f} times as large")
linear4, learned4 = mse["linear W4A32"][-1], mse["Q-Diffusion W4A32"][-1]
claim(
    learned4 < linear4 / 2,
    f"with Q-Diffusion's 4 bits the last error is {learned4:.4f} instead of {linear4:.4f}",
)

# %% [markdown]
# After one step the error is small. After all steps the picture is wrong. What happens between?
#
# ## A toy with a known answer
#
# Take a picture of one pixel, $x_0 \sim N(\mu, \sigma^2)$. At the noise level $a_t$ (the paper's $\bar\alpha_t$) it
# becomes $x_t = \sqrt{a_t}\,x_0 + \sqrt{1-a_t}\,e$, where $e$ is noise. For this data we need not train a network. The
# best prediction of the noise is known, and it is a straight line in $x_t$:
#
# $$e(x_t) = \frac{\sqrt{1-a_t}}{a_t\sigma^2 + 1 - a_t}\,\bigl(x_t - \sqrt{a_t}\,\mu\bigr).$$
#
# DDIM (denoising diffusion implicit model) is the sampler of the paper and of this course. It takes this step:
#
# $$x_{t-1} = A\,x_t + B\,e(x_t),\qquad A = \sqrt{a_{t-1}/a_t},\qquad B = \sqrt{1-a_{t-1}} - A\sqrt{1-a_t}.$$
#
# The next cell starts from pure noise and takes all steps, with the noise levels of the shipped model.

# %% tags=["nbval-check-output"]
import torch
from qdiff_lib.course.gaussian import alpha_bars

MU, SIGMA = -0.4, 0.7
x = torch.randn(100_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
levels = alpha_bars(100)
for a, a_prev in zip(levels[:-1], levels[1:], strict=True):
    e = (1 - a).sqrt() / (a * SIGMA**2 + 1 - a) * (x - a.sqrt() * MU)
    A = (a_prev / a).sqrt()
    B = (1 - a_prev).sqrt() - A * (1 - a).sqrt()
    x = A * x + B * e
print(f"mean {x.mean():.1f}, standard deviation {x.std():.1f}")
# with 100 steps the exact deviation at the end is 0.685; chance adds 0.002 for so many samples
claim(
    abs(x.mean() - MU) < 0.03 and abs(x.std() - SIGMA) < 0.03,
    "noise became data with the right mean and deviation: the sampler is right",
)

# %% [markdown]
# ### Exercise: the propagation factor
#
# **How does an error travel?** Suppose that $x_t$ has the error $d_t$. The noise prediction of this step has the error
# $\nu_t$, because the network is quantized. The step is linear in both, so
#
# $$d_{t-1} = F\,d_t + B\,\nu_t,\qquad F = A + B\,\frac{de}{dx}.$$
#
# **$F$ is the propagation factor.** One step multiplies the old error by $F$, and adds the new error $B\,\nu_t$.
#
# *Difficulty 2 of 5, importance 4 of 5, time: about 8 minutes.* You have $A$, $B$ and $e(x)$ above. Compute $F$ for
# the toy.

# %% tags=["exercise"] exercise="01.propagation_factor"
from torch import Tensor


def propagation_factor(alpha_bar: Tensor, alpha_bar_prev: Tensor, sigma: float) -> Tensor:
    """The factor F by which one exact DDIM step multiplies an error of its input.

    alpha_bar, alpha_bar_prev: 0-dimensional, before and after the step. sigma: of the data.
    """
    # BEGIN SOLUTION
    kept = (alpha_bar_prev / alpha_bar).sqrt()
    share_of_noise = (1 - alpha_bar_prev).sqrt() - kept * (1 - alpha_bar).sqrt()
    slope_of_e = (1 - alpha_bar).sqrt() / (alpha_bar * sigma**2 + 1 - alpha_bar)
    return kept + share_of_noise * slope_of_e
    # END SOLUTION


# %% [markdown]
# ### Exercise: the recursion
#
# **How do errors add up?** Suppose that the errors $\nu_t$ of the steps are independent, each with variance $\tau^2$.
# Then variances add. Let $v$ be the variance of $d$. In each step,
#
# $$v \leftarrow F^2\,v + B^2 \tau^2,\qquad\text{starting from } v = 0.$$
#
# *Difficulty 2 of 5, importance 5 of 5, time: about 8 minutes.* Return $v$ after each step.


# %% tags=["exercise"] exercise="01.accumulated_variance"
import torch


def accumulated_variance(factors: Tensor, gains: Tensor, noise_variance: float) -> Tensor:
    """Variance of the error after each step, (T,). The start has no error.

    factors: F of each step, (T,). gains: B of each step, (T,). noise_variance: the variance tau^2.
    """
    # BEGIN SOLUTION
    variances, now = [], torch.zeros(())
    for f, b in zip(factors, gains, strict=True):
        now = f**2 * now + b**2 * noise_variance
        variances.append(now)
    return torch.stack(variances)
    # END SOLUTION


# %% [markdown]
# ## Prediction and measurement
#
# Now we add a random error to every noise prediction of the toy. We run it from 20 seeds with 256 pixels each, and
# compare it with exact runs from the same start. The recursion does not use these runs.

# %%
from qdiff_lib.course.gaussian import final_error, predicted_variance, simulate, step_numbers

T, TAU, SEEDS, PIXELS = 100, 0.03, 20, 256
factors, gains = step_numbers(T, SIGMA)  # F and B of each step
predicted = predicted_variance(T, SIGMA, TAU)  # by the recursion
errors = [simulate(T, PIXELS, MU, SIGMA, TAU, seed=seed) for seed in range(SEEDS)]
measured = torch.stack([error.square().mean(1) for error in errors])  # (seeds, steps)
show(figures.growth(measured, predicted))

# %% tags=["nbval-check-output"]
spread = (2 / (SEEDS * PIXELS)) ** 0.5  # relative standard deviation of a variance from so many numbers
# the limit is five standard deviations, which chance does not reach at any step
off = (measured.mean(0) / predicted - 1).abs().max().item()
claim(off < 5 * spread, f"at every step the mean of the seeds is within {5 * spread:.0%} of the recursion")
grown = (predicted[-1] / predicted[0]).sqrt().item()
claim(grown > 3, f"the error at the end is {grown:.1f} times that of the first step")
print(f"the product of all later F, which multiplies the first step's error: {factors[1:].prod():.2f}")

# %% [markdown]
# ## More steps, smaller steps
#
# Double the number of steps. Each step is half as long, so its $B$ is about half. But there are twice as many steps.
# The error of one noise prediction has the same size as before.
#
# **Predict:** does the final error grow, stay about the same, or shrink, if each step has a new, independent error
# $\nu_t$? And if $\nu_t$ is the same number at all steps? Write down both answers.

# %%
counts = [5, 10, 20, 50, 100, 200, 500]
numbers = [step_numbers(count, SIGMA) for count in counts]
fresh = torch.stack([final_error(*each, TAU) for each in numbers])
persistent = torch.stack([final_error(*each, TAU, correlation=1) for each in numbers])
single = torch.stack([gain.abs().mean() * TAU for _, gain in numbers])
show(figures.more_steps(counts, single, fresh, persistent))

# %% tags=["nbval-check-output"]
new, old = (ends[4] / ends[3] for ends in (fresh, persistent))
print(
    f"{counts[4]} steps instead of {counts[3]}: the final error shrinks to {new:.2f} if errors are independent,"
)
print(f"and stays about the same ({old:.2f}) if all are equal")
more, shrinks, stays = counts[-1] // counts[0], fresh[0] / fresh[-1], persistent[0] / persistent[-1]
claim(shrinks > 5, f"with {more} times as many steps, independent errors end {shrinks:.1f} times smaller")
claim(0.7 < stays < 1.1, f"equal errors do not get smaller: the ratio is {stays:.2f}")
ratio = persistent[4] / fresh[4]
print(f"with {counts[4]} steps, equal errors end {ratio:.1f} times as large as independent ones")

# %% [markdown]
# **Observe.** The size of one step's error matters. It also matters **how similar the errors of neighbouring steps
# are**. Independent errors partly cancel, so their variances add. Equal errors add up directly: $n$ of them are $n$
# times as large, not $\sqrt n$ times.
#
# Let $\rho$ be the correlation of the errors of neighbouring steps. The recursion then needs one more number: the
# covariance $\kappa$ of the error of $x$ with the error of the next prediction.
#
# $$v \leftarrow F^2 v + 2FB\,\kappa + B^2\tau^2,\qquad \kappa \leftarrow \rho\,(F\,\kappa + B\,\tau^2)$$
#
# Move the slider from independent errors ($\rho = 0$) to equal errors ($\rho = 1$).


# %%
def with_correlation(rho):
    errors = [simulate(T, PIXELS, MU, SIGMA, TAU, correlation=rho, seed=seed) for seed in range(SEEDS)]
    variance = torch.stack([error.square().mean(1) for error in errors])
    recursions = (predicted_variance(T, SIGMA, TAU, correlation) for correlation in (rho, 1))
    return figures.growth(variance, *recursions, title=f"Correlation ρ = {rho}")


explore(with_correlation, "correlation ρ", values=(0, 0.5, 0.9, 0.97, 0.99, 1), twin=(0, 0.9, 0.99, 1))

# %% [markdown]
# ## The real model: independent or equal errors?
#
# The rounded weights are the same in every step. Are their errors similar, too? We can split each step of the 4-bit
# run into two parts. Start at the point $\hat x_t$ of the quantized run, and let the full-precision network take the step.
#
# - **Inherited error**: the end of this step minus the full-precision run. This is $F\,d_t$ in the toy.
# - **Added error**: the end of the quantized step minus the end of this step. This is $B\,\nu_t$ in the toy.


# %%
def step(unet, x, t):
    """One DDIM step from x, with the noise prediction of ``unet``."""
    x = x.to(lesson.device)
    with torch.no_grad():
        return pipe.scheduler.step(unet(x, t).sample, t, x).prev_sample.cpu()


four = runs["linear W4A32"].trajectory
pipe.scheduler.set_timesteps(steps)
ideal = [step(pipe.unet, x, t) for x, t in zip(four[:-1], pipe.scheduler.timesteps[1:], strict=True)]
ideal = torch.stack([exact[0], *ideal])  # the first step starts from the same noise: it inherits no error
total, inherited, own = (d.flatten(1).double() for d in (four - exact, ideal - exact, four - ideal))
alike = torch.cosine_similarity(own[:-1], own[1:], dim=1)
sizes = [part.square().mean(1).sqrt() for part in (total, inherited, own)]
show(figures.anatomy(*sizes, alike, "linear W4A32"))

# %%
size, kept, added = sizes
factor = torch.cat([torch.ones(1).double(), kept[1:] / size[:-1]])  # the first step inherits no error
print(f"measured propagation factors: {factor[1:].min():.2f} to {factor[1:].max():.2f}")
claim(
    kept[-2] > 5 * added[-2],
    f"near the end, the inherited error has {kept[-2] / size[-2]:.0%} of the size of the error",
)
claim(alike.mean() > 0.7, f"errors of neighbouring steps are similar: mean correlation {alike.mean():.2f}")
one, all_alike = (final_error(factor, added, 1.0, rho) for rho in (0, 1))
print(f"final error by the recursion: {one:.2f} for independent errors, {all_alike:.2f} for equal ones")
claim(one * 1.5 < size[-1] <= all_alike, f"the measured error is {size[-1]:.2f}, between the two")

# %% [markdown]
# This answers the question of the title. A rounded weight has the same error at every step. So the errors of the steps
# point in similar directions and add up instead of cancelling. Each step also passes on the errors of the steps before
# it. Where the measured $F$ is above 1, the network even makes them larger: two runs that differ a little then move
# towards different pictures.
#
# ## All methods, step by step
#
# The left panel shows the mean squared error (MSE) of each run against the full-precision run from the same noise. The
# right panel shows the signal-to-noise ratio (SNR). The dashed line is the MSE between two unrelated images.
#
# **Predict:** after the first step, fewer bits make more error. Is this order the same after the last step: yes or no?

# %%
unrelated = (exact[-1] - exact[-1].roll(1, dims=0)).double().square().mean().item()
show(figures.error_curves(mse, snr, n, unrelated))
w8, w5, w4 = (mse[f"linear W{bits}A32"][-1].item() for bits in (8, 5, 4))
one8, one5, one4 = (mse[f"linear W{bits}A32"][0].item() for bits in (8, 5, 4))
claim(
    one8 < one5 < one4,
    f"one step: fewer bits, more error: {one8:.0e} with 8, {one5:.0e} with 5, {one4:.0e} with 4",
)
claim(w8 * 10 < min(w5, w4), f"the last step: {w8:.4f} with 8 bits, {w5:.3f} with 5, {w4:.3f} with 4")
print("the same order after the last step:", "yes" if w8 < w5 < w4 else "no")
claim(w4 < unrelated, f"the error of 4 bits is {w4 / unrelated:.0%} of that between unrelated images")

# %% [markdown]
# Weights are rounded once, and every step uses the same rounding errors. The direction of these errors is partly
# chance, and some directions do more harm after many steps than others. So the number of bits alone does not decide the
# final order.

# %% [markdown]
# ### Exercise: signal to noise
#
# *Difficulty 1 of 5, importance 4 of 5, time: about 5 minutes.* The size of $x_t$ changes along the run. So an error is
# easier to judge as a ratio. The SNR in decibels (dB) is $10 \log_{10}$ of a ratio: the mean square of the
# full-precision $x_t$ over the mean squared error. Each mean is over all images and pixels of a step.


# %% tags=["exercise"] exercise="01.snr_per_step"
def snr_per_step(reference: Tensor, other: Tensor) -> Tensor:
    """SNR of each step in dB, (T,).

    reference, other: trajectories (T, N, C, H, W) in full precision and quantized, from the same noise.
    """
    # BEGIN SOLUTION
    signal = reference.double().pow(2).flatten(start_dim=1).mean(dim=1)
    error = (other - reference).double().pow(2).flatten(start_dim=1).mean(dim=1)
    return 10 * torch.log10(signal / error)
    # END SOLUTION


# %% [markdown]
# ## A hundred steps
#
# Figure 3 of the paper follows 100 steps. This takes minutes on a CPU, so here is a recorded result, with more runs.
# The paper finds three things: the error of 8 bits stays low, that of 4 bits rounded to nearest grows, and calibrated 4
# bits stay near 8 bits. The lines below the figure show how well each holds here.

# %%
fig3 = recorded("error_per_step")
rows = {row["label"]: row for row in fig3.data["rows"] if row["activations"] == 32}
curves, ratios = ({label: torch.tensor(row[key]) for label, row in rows.items()} for key in ("mse", "snr_db"))
show(figures.error_curves(curves, ratios, fig3.data["n"], unrelated))
print(fig3.source())
begin, (end4, end5, end8) = curves["linear W4A32"][0], (curves[f"linear W{b}A32"][-1] for b in (4, 5, 8))
by_qdiffusion = curves["Q-Diffusion W4A32"][-1]
claim(end4 > 50 * begin, f"4 bits, linear: the last MSE is {end4 / begin:.0f} times the first")
claim(
    by_qdiffusion < end4 / 3, f"4 bits, Q-Diffusion: the last MSE is {end4 / by_qdiffusion:.1f} times lower"
)
print(f"last MSE over that of 8 linear bits: {by_qdiffusion / end8:.1f} for Q-Diffusion's 4 bits,", end=" ")
print(f"{end5 / end8:.0f} for 5 linear bits, {end4 / end8:.0f} for 4 linear bits")
print(f"above: {steps} steps, {n} images; here: {fig3.data['steps']} steps, {fig3.data['n']} images")

# %% [markdown]
# **Observe.** Compare the last errors with those of your run above. With the profile `tiny` all of them are larger here,
# and 4 and 5 linear bits change places. The sampler is the same, and rounding to nearest has no calibration. Two things
# differ at once: the number of steps and the number of images. Also, each result starts from the noise of one seed only.
# So you may conclude that the order of 4 and 5 bits is not the same in every measurement. You may *not* conclude that
# more steps make the error larger. To find out, change only the number of steps, and repeat this with other seeds.
#
# ## Stress: 4 bits for half of the run
#
# Use the 4-bit network for one half of the steps, and the exact network for the other half. An early error passes
# through more steps, so more factors $F$ multiply it. A late error is added when the picture is nearly finished.
#
# **Predict:** which half needs the better network more: the first or the second?


# %%
def finish(unet, x):
    """The image, from the x in the middle of the run."""
    for t in pipe.scheduler.timesteps[steps // 2 :]:
        x = step(unet, x, t)
    return x


middle, unet4 = steps // 2 - 1, models["linear W4A32"].unet
pipe.scheduler.set_timesteps(steps)
ends = {"first half": finish(pipe.unet, four[middle]), "second half": finish(unet4, exact[middle])}
ends = {f"4 bits in the {name}": x for name, x in ends.items()} | {"4 bits in all steps": four[-1]}
ends = {name: (x - exact[-1]).square().mean().item() for name, x in ends.items()}
show(figures.halves(ends, n))
early, late = (ends[f"4 bits in the {half} half"] for half in ("first", "second"))
claim(
    early > 2 * late,
    f"the first half needs it more: 4 bits there make {early / late:.0f} times as much error",
)

# %% [markdown]
# ## Recap
#
# 1. A step multiplies the old error by $F$. It adds $B$ times the error of its own noise prediction.
# 2. For independent errors, $v \leftarrow F^2v + B^2\tau^2$ predicts the growth. More steps then make the result *better*.
# 3. The errors of rounded weights are similar from step to step, so they add up. The toy shows: if all errors are equal,
#    more steps do not help.
# 4. So judge a model by whole trajectories from the same noise, not by one step.
# 5. A smaller error at each step helps: learned rounding (lesson 5), with inputs from the whole run (lesson 3).
#
# **Not shown:** quantized activations (lesson 2); samplers that add their own noise at each step; whether a different
# picture is a *worse* picture. The MSE cannot tell this. The Fréchet distance of lesson 5 can.

# %%
quiz("01")
progress()

# %% [markdown]
# ## Read more
#
# - X. Li et al., [Q-Diffusion: Quantizing Diffusion Models](https://arxiv.org/abs/2302.04304), ICCV 2023. Figure 3 is
#   the curve of the section "A hundred steps".
# - J. Song et al., [Denoising Diffusion Implicit Models](https://arxiv.org/abs/2010.02502), ICLR 2021. The
#   deterministic step $A x + B e$.
# - J. Ho et al., [Denoising Diffusion Probabilistic Models](https://arxiv.org/abs/2006.11239), NeurIPS 2020. Noise
#   levels, and the network that predicts noise.
# - Y. He et al., [PTQD: Accurate Post-Training Quantization for Diffusion Models](https://arxiv.org/abs/2305.10657),
#   NeurIPS 2023. Splits the quantization error into a part that is correlated with the output and a rest, and corrects
#   both.
#
# **Next:** lesson 2 quantizes the activations. Their ranges change while the picture appears.
