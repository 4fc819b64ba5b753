# %% [markdown]
# # Why does a 4-bit model that is fine for one step fail after a hundred?
#
# | | |
# |---|---|
# | You will be able to | **derive** how the error of one denoising step travels to the last; **predict** its growth and check the prediction; **tell** errors that average out from errors that add up; **measure** both on a real model |
# | You need | lesson 00, PyTorch, the mean and variance of a sum |
# | Time | 40 minutes to work through; half a minute to run on a CPU, less on a GPU |
# | Memory | below 900 MB |
# | In the paper | section 3.1 and Figure 3 of Q-Diffusion (Li et al., ICCV 2023, arXiv 2302.04304) |
#
# A diffusion model draws a picture in many small steps. Each step calls the same network. With rounded weights,
# each call is a little wrong. This lesson follows such a little error to the end of the run.

# %% [markdown]
# ## The picture first
#
# We round the weights of the shipped model to 8, 5 and 4 bits, each to the nearest value of its grid ("linear"
# quantization, W8, W5, W4), and keep the activations in floating point (A32). The last row has 4-bit weights too,
# but they were chosen by Q-Diffusion, the method that this course builds up to. (Its first and last layer, 0.03 % of the
# weights, have 16 bits; lesson 5 takes apart what that and each other part of the method contributes.)

# %%
from qdiff_lib import Recipe, load, quantize, record, sample, with_sampler
from qdiff_lib.course.figures import lesson_01 as figures
from qdiff_lib.recipes.timestep_rules import Uniform

steps, n = lesson.pick(tiny=20, laptop=50, gpu=100), lesson.pick(tiny=16, laptop=32, gpu=64)
pipe = with_sampler(load("ddpm-fashion", device=lesson.device), "ddim")
inputs = record(pipe, Uniform(), samples=20, steps=20)  # what the network sees: quantize() looks at it
models = {f"linear W{bits}A32": quantize(pipe, Recipe.linear(bits, 32), inputs) for bits in (8, 5, 4)}
models["Q-Diffusion W4A32"] = with_sampler(load("ddpm-fashion-w4a32", device=lesson.device), "ddim")
draw = dict(n=n, steps=steps, batch_size=8, record=True, progress=True)
runs = {"full precision": sample(pipe, **draw)}
runs |= {label: sample(model, **draw) for label, model in models.items()}
show(figures.same_seeds({label: run.images for label, run in runs.items()}))

# %%
from qdiff_lib.evaluation.trajectory_errors import trajectory_mse, trajectory_snr

exact = runs.pop("full precision").trajectory  # (steps, images, 1, 32, 32): x after each step
mse = {label: trajectory_mse(exact, run.trajectory) for label, run in runs.items()}
snr = {label: trajectory_snr(exact, run.trajectory) for label, run in runs.items()}
first, last = (10 ** (snr["linear W4A32"][i].item() / 20) for i in (0, -1))  # dB: size over size
claim(first > 15, f"after one step with 4-bit weights, x is {first:.0f} times as large as its error")
claim(last < first / 4, f"after {steps} steps it is only {last:.1f} times as large")
plain, learned = mse["linear W4A32"][-1], mse["Q-Diffusion W4A32"][-1]
claim(learned < plain / 2, f"4 bits by Q-Diffusion end with an error of {learned:.4f} instead of {plain:.4f}")

# %% [markdown]
# So one step is fine and the picture is not. What happens on the way?
#
# ## A toy with a known answer
#
# Take a picture of one pixel, $x_0 \sim N(\mu, \sigma^2)$. Noising it to level $a_t$ (the paper's $\bar\alpha_t$)
# gives $x_t = \sqrt{a_t}\,x_0 + \sqrt{1-a_t}\,e$. For this data nobody has to train a network: the best prediction of
# the noise is a straight line in $x_t$,
#
# $$e(x_t) = \frac{\sqrt{1-a_t}}{a_t\sigma^2 + 1 - a_t}\,\bigl(x_t - \sqrt{a_t}\,\mu\bigr).$$
#
# DDIM (denoising diffusion implicit model, the sampler of the paper and of this course) then takes the step
#
# $$x_{t-1} = A\,x_t + B\,e(x_t),\qquad A = \sqrt{a_{t-1}/a_t},\qquad B = \sqrt{1-a_{t-1}} - A\sqrt{1-a_t}.$$
#
# The cell below starts from pure noise and runs it, with the shipped model's schedule.

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
# 100 steps are not infinitely many: they end at a deviation of 0.685, and so many samples are off by 0.002
claim(
    abs(x.mean() - MU) < 0.03 and abs(x.std() - SIGMA) < 0.03, "noise has become data: the sampler is right"
)

# %% [markdown]
# ### Exercise: the propagation factor
#
# **How does an error travel?** Suppose that $x_t$ is off by $d_t$, and that this step's noise prediction is off by $n_t$, because the network is
# quantized. Both enter the step, which is a straight line, so that
#
# $$d_{t-1} = F\,d_t + B\,n_t,\qquad F = A + B\,\frac{de}{dx}.$$
#
# **$F$ is the propagation factor**: what one step does to the error that it is given. $B\,n_t$ is new.
#
# *Difficulty 2 of 5, importance 4 of 5, 8 minutes.* You have $A$, $B$ and $e(x)$ above. What is $F$ for the toy?

# %% tags=["exercise"] exercise="01.propagation_factor"
from torch import Tensor


def propagation_factor(alpha_bar: Tensor, alpha_bar_prev: Tensor, sigma: float) -> Tensor:
    """By how much one exact DDIM step multiplies an error of its input.

    alpha_bar, alpha_bar_prev: 0-dimensional, before and after the step. sigma: of the data. Returns F.
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
# **How do errors add up?** If the errors $n_t$ are independent, with variance $q^2$, then variances add, and the variance $v$ of $d$ follows
#
# $$v \leftarrow F^2\,v + B^2 q^2,\qquad\text{starting from } v = 0.$$
#
# *Difficulty 2 of 5, importance 5 of 5, 8 minutes.* Return $v$ after each step.


# %% tags=["exercise"] exercise="01.accumulated_variance"
def accumulated_variance(factors: Tensor, gains: Tensor, noise_variance: float) -> Tensor:
    """Variance of the error after each step, (T,), from an exact start.

    factors: F of each step, (T,). gains: B of each step, (T,). noise_variance: q^2.
    """
    # BEGIN SOLUTION
    variances, now = [], torch.zeros(())
    for f, b in zip(factors, gains, strict=True):
        now = f**2 * now + b**2 * noise_variance
        variances.append(now)
    return torch.stack(variances)
    # END SOLUTION


# %% [markdown]
# ## Prediction against measurement
#
# Now we add a random error to every noise prediction of the toy, run it from 20 seeds with 256 pixels each, and
# compare with exact runs from the same start. The recursion has not seen any of these runs.

# %%
from qdiff_lib.course import gaussian

T, Q, SEEDS, PIXELS = 100, 0.03, 20, 256
factors, gains = gaussian.step_numbers(T, SIGMA)
predicted = gaussian.accumulated_variance(factors, gains, Q**2)
errors = [gaussian.simulate(T, PIXELS, MU, SIGMA, Q, seed=seed) for seed in range(SEEDS)]
measured = torch.stack([error.square().mean(1) for error in errors])  # (seeds, steps)
show(figures.growth(measured, predicted))

# %% tags=["nbval-check-output"]
spread = (2 / (SEEDS * PIXELS)) ** 0.5  # relative standard deviation of a variance from that many numbers
# five standard deviations: chance alone does not go that far, at any step
off = (measured.mean(0) / predicted - 1).abs().max().item()
claim(off < 5 * spread, f"at every step the mean of the seeds is within {5 * spread:.0%} of the recursion")
grown = (predicted[-1] / predicted[0]).sqrt().item()
claim(grown > 3, f"the error at the end is {grown:.1f} times that of the first step")
print(f"all later F together multiply the first step's error by {factors[1:].prod():.2f}")

# %% [markdown]
# ## Predict
#
# Double the number of steps: each step is half as long, so its $B$ is about half, but there are twice as many.
# The noise prediction is as wrong as before. **Does the final error grow, stay, or shrink?** And if the error $n$ were
# not new in each step, but the same number all the time? Write your two answers down, then run.

# %%
from qdiff_lib.course.gaussian import accumulated_variance as accumulate

counts = [5, 10, 20, 50, 100, 200, 500]
numbers = [gaussian.step_numbers(count, SIGMA) for count in counts]
fresh = torch.stack([accumulate(*each, Q**2)[-1].sqrt() for each in numbers])
persistent = torch.stack([accumulate(*each, Q**2, correlation=1)[-1].sqrt() for each in numbers])
single = torch.stack([gain.abs().mean() * Q for _, gain in numbers])
show(figures.more_steps(counts, single, fresh, persistent))

# %% tags=["nbval-check-output"]
more, shrinks, stays = counts[-1] // counts[0], fresh[0] / fresh[-1], persistent[0] / persistent[-1]
claim(shrinks > 5, f"with {more} times as many steps, independent errors end {shrinks:.1f} times smaller")
claim(0.7 < stays < 1.1, f"errors that are all alike do not get smaller: the ratio is {stays:.2f}")
print(
    f"with {counts[4]} steps, alike errors end {persistent[4] / fresh[4]:.1f} times as large as independent ones"
)

# %% [markdown]
# Observe: what decides is not only how large the error of a step is, but **how alike the errors of neighbouring steps
# are**. Independent errors add as variances: like the steps of a random walk, they partly cancel. Alike
# errors add as lengths. With correlation $r$ between neighbours, one more number has to be carried along: the
# covariance $c$ of the error of $x$ with the next prediction's error.
#
# $$v \leftarrow F^2 v + 2FB\,c + B^2q^2,\qquad c \leftarrow r\,(F\,c + B\,q^2)$$
#
# Turn the knob from independent ($r = 0$) to always the same ($r = 1$).


# %%
def with_correlation(r):
    runs = [gaussian.simulate(T, PIXELS, MU, SIGMA, Q, correlation=r, seed=seed) for seed in range(SEEDS)]
    variance = torch.stack([error.square().mean(1) for error in runs])
    recursions = (accumulate(factors, gains, Q**2, correlation) for correlation in (r, 1))
    return figures.growth(variance, *recursions, title=f"Correlation r = {r}")


explore(with_correlation, "correlation r", values=(0, 0.5, 0.9, 0.97, 0.99, 1), twin=(0, 0.9, 0.99, 1))

# %% [markdown]
# ## The real model: which of the two is it?
#
# Rounded weights are the same in every step. Are their errors alike? We can take each step of the 4-bit run apart.
# At the place $x^q_t$ where the quantized run is, let the full-precision network take the step:
#
# - where it ends, against the full-precision run: the **inherited** error, $F\,d_t$ of the toy;
# - from there to where the quantized run ends: the error that **this step adds**, $B\,n_t$ of the toy.


# %%
def step(unet, x, t):
    """One DDIM step from x, with the noise prediction of ``unet``."""
    x = x.to(lesson.device)
    with torch.no_grad():
        return pipe.scheduler.step(unet(x, t).sample, t, x).prev_sample.cpu()


four = runs["linear W4A32"].trajectory
pipe.scheduler.set_timesteps(steps)
ideal = [step(pipe.unet, x, t) for x, t in zip(four[:-1], pipe.scheduler.timesteps[1:], strict=True)]
ideal = torch.stack([exact[0], *ideal])  # the first step starts from the same noise: nothing to inherit
total, inherited, own = (d.flatten(1).double() for d in (four - exact, ideal - exact, four - ideal))
alike = torch.cosine_similarity(own[:-1], own[1:], dim=1)
sizes = [part.square().mean(1).sqrt() for part in (total, inherited, own)]
show(figures.anatomy(*sizes, alike, "linear W4A32"))

# %%
size, kept, added = sizes
factor = torch.cat([torch.ones(1).double(), kept[1:] / size[:-1]])  # the first step inherits nothing
print(f"measured propagation factors: {factor[1:].min():.2f} to {factor[1:].max():.2f}")
claim(
    kept[-2] > 5 * added[-2], f"late in the run, {kept[-2] / size[-2]:.0%} of the error's size is inherited"
)
claim(alike.mean() > 0.7, f"neighbouring steps err alike: their mean correlation is {alike.mean():.2f}")
one, all_alike = (accumulate(factor, added, 1.0, r)[-1].sqrt() for r in (0, 1))
print(f"the recursion's final error: {one:.2f} if independent, {all_alike:.2f} if always the same")
claim(one * 1.5 < size[-1] <= all_alike, f"the real one is {size[-1]:.2f}, between the two")

# %% [markdown]
# That is the answer to the title. A rounded weight errs in the same direction at every step, so its errors line up
# instead of cancelling, and they are handed on. Where the measured $F$ is above 1, the network makes them larger, too:
# two runs that have come apart a little are on their way to different pictures.
#
# ## All methods, step by step
#
# The mean squared error (MSE) of each run against the full-precision run from the same noise, and the same as a
# signal-to-noise ratio (SNR). The dashed line is the MSE between two images that have nothing to do with each other.
#
# **Predict:** after the first step fewer bits make more error. Must the last step keep that order? The rounding errors of
# a grid are drawn once, and all steps share them.

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
claim(w4 < unrelated, f"the error of 4 bits is {w4 / unrelated:.0%} of that between unrelated images")

# %% [markdown]
# ### Exercise: signal to noise
#
# *Difficulty 1 of 5, importance 4 of 5, 5 minutes.* The size of $x_t$ changes along the run, so an error is easier to
# judge as a ratio: in decibels (dB), $10 \log_{10}$ of the mean square of the full-precision $x_t$ over the mean squared
# error. The means are over all images and pixels of a step.


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
# The paper's Figure 3 follows 100 steps. This takes minutes on a CPU, so here it is as a recorded result, over more
# trajectories. In the paper, 8 bits stay low, 4 bits rounded to nearest grow, and calibrated 4 bits stay near 8 bits.
# The lines below the figure say how far each of the three holds here.

# %%
fig3 = recorded("error_per_step")
rows = {row["label"]: row for row in fig3.data["rows"] if row["activations"] == 32}
errors, ratios = ({label: torch.tensor(row[key]) for label, row in rows.items()} for key in ("mse", "snr_db"))
show(figures.error_curves(errors, ratios, fig3.data["n"], unrelated))
print(fig3.source())
start, (w4, w5, w8) = errors["linear W4A32"][0], (errors[f"linear W{bits}A32"][-1] for bits in (4, 5, 8))
learned = errors["Q-Diffusion W4A32"][-1]
claim(
    w4 > 50 * start, f"4 bits, linear: the MSE of the last step is {w4 / start:.0f} times that of the first"
)
claim(learned < w4 / 3, f"4 bits, Q-Diffusion: it ends {w4 / learned:.1f} times lower than linear")
print(f"against 8 bits, linear: Q-Diffusion's 4 bits have {learned / w8:.1f} times its error,", end=" ")
print(f"5 linear bits {w5 / w8:.0f} times, 4 linear bits {w4 / w8:.0f} times")

# %% [markdown]
# ## Stress: 4 bits for half of the run
#
# Use the 4-bit network for the first half of the steps and the exact one for the second, or the other way round.
# An early error travels through more steps and is multiplied by more factors $F$; a late one is made when the picture
# is nearly there. **Which half would you give the better network?** Decide, then run.


# %%
def finish(unet, x):
    """The image from the x of the middle of the run on."""
    for t in pipe.scheduler.timesteps[steps // 2 :]:
        x = step(unet, x, t)
    return x


middle, unet4 = steps // 2 - 1, models["linear W4A32"].unet
ends = {"first half": finish(pipe.unet, four[middle]), "second half": finish(unet4, exact[middle])}
ends = {f"4 bits in the {name}": x for name, x in ends.items()} | {"4 bits in all steps": four[-1]}
ends = {name: (x - exact[-1]).square().mean().item() for name, x in ends.items()}
show(figures.halves(ends, n))
early, late = (ends[f"4 bits in the {half} half"] for half in ("first", "second"))
claim(
    early > 2 * late,
    f"the first half needs the better network: 4 bits cost {early / late:.0f} times as much there",
)

# %% [markdown]
# ## Recap
#
# 1. A step hands on the error it is given, times $F$, and adds $B$ times the error of its own noise prediction.
# 2. For independent errors, $v \leftarrow F^2v + B^2q^2$ predicts the growth; more steps then make the end *better*.
# 3. The errors of rounded weights are alike from step to step. They line up, and more steps do not help.
# 4. So a model must be judged by whole trajectories from the same noise, not by one step.
# 5. What can help: a smaller error at each step, by rounding that is learned (lesson 05) on inputs from the whole run
#    (lesson 03).
#
# **Not shown:** quantized activations (the next lesson); samplers that add noise of their own at each step; whether a
# picture that differs is a *worse* picture: the MSE cannot tell, the Fréchet distance of lesson 05 can.

# %%
quiz("01")

# %% [markdown]
# ## References
#
# - Li et al., *Q-Diffusion: Quantizing Diffusion Models*, ICCV 2023, arXiv 2302.04304. Figure 3 is the curve that we
#   redrew.
# - Song, Meng, Ermon, *Denoising Diffusion Implicit Models*, ICLR 2021, arXiv 2010.02502. The deterministic step
#   $A x + B e$.
# - Ho, Jain, Abbeel, *Denoising Diffusion Probabilistic Models*, NeurIPS 2020, arXiv 2006.11239. Noise levels,
#   and the network that predicts noise.
# - He et al., *PTQD: Accurate Post-Training Quantization for Diffusion Models*, NeurIPS 2023, arXiv 2305.10657. Splits
#   the quantization error into a part that goes along with the output and a rest, and corrects for each.
#
# **Next:** lesson 02 quantizes the activations, whose ranges move while the picture appears.
