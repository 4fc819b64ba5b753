# %% [markdown]
# # Can you build AdaRound yourself?
#
# | | |
# |---|---|
# | You will be able to | write AdaRound from an empty cell, in six small functions; test each one; run your loop on a unit of the real model; compare it with the library |
# | You need | lessons 0 and 5 |
# | Time | about 75 minutes; the cells run in less than a minute on two CPU cores |
# | Memory | below 900 MB |
# | In the paper | section 3.3.1 of [Q-Diffusion](https://arxiv.org/abs/2302.04304) |
#
# All letters are in [notation and glossary](../docs/notation.md).
#
# ## The picture first
#
# Lesson 5 used the library's class `AdaRound`. In this lesson you write all of it yourself: six functions in five
# stages. Each function has its own check. The last function is the whole learning loop. You run it on one unit of the
# real model, and compare the result with that of the library.
#
# The unit is the first residual block after the first downsampling. The next figure shows the error of its output with
# rounding to nearest, and with the library's AdaRound. Both use the same grids. The second bar is your goal.

# %%
from qdiff_lib import Recipe, load, record, with_sampler
from qdiff_lib.course import unit_function as units
from qdiff_lib.course.figures import lesson_07 as figures
from qdiff_lib.course.one_unit import catch
from qdiff_lib.recipes.timestep_rules import Uniform

NAME, SEED = "down_blocks.1.resnets.0", 5
steps, samples, iterations = lesson.pick(tiny=(20, 64, 120), laptop=(20, 256, 400), gpu=(100, 1024, 2000))
pipe = with_sampler(load("ddpm-fashion", device=lesson.device), "ddim")
caught = catch(pipe.unet, NAME, record(pipe, Uniform(), samples, steps, batch_size=4), batch_size=8)
choices = dict(iterations=iterations, rounding_start="fraction", learn_affine=False)
recipe = Recipe.qdiffusion(4, 8, include=(NAME, f"{NAME}.*"), **choices)
unit, layers = units.take_apart(pipe.unet, NAME, recipe)
nearest = units.nearest_weights(layers)

# %%
library = units.library_weights(pipe.unet, NAME, recipe, caught, SEED)
count = sum(layer.w.numel() for layer in layers)
at_nearest, at_library = unit.error(nearest, caught), unit.error(library, caught)
found = {"nearest": at_nearest, "the library's AdaRound": at_library}
show(figures.unit_errors(found, count))
claim(at_library < 0.6 * at_nearest, f"AdaRound's error is {at_library / at_nearest:.0%} of that of nearest")

# %% [markdown]
# ## The pieces that you get
#
# - `unit(weights, *inputs)` computes the output of the unit. `weights` is a list with one tensor for each layer, in the
#   order of `layers`. The unit then uses these in the place of its own weights.
# - `layers` is a list, too. Each layer has a weight `w`, a scale `s` and a zero point `z`, so you can write
#   `w, s, z = layer`. Their shapes are such that `w / s` and `w / s + z` work for every layer. They never change.
# - `caught.args` is a tuple of two tensors, the inputs of the unit: images with 32 channels, and the time embedding.
#   Each has one row for each calibration input. `caught.output` has as many rows. It is the unit's output in full
#   precision: the *target*.
#
# All these tensors are float32. To keep things simple, the activations stay in full precision in this lesson.

# %% tags=["nbval-check-output"]
for name, layer in zip(unit.names, layers, strict=True):
    shapes = ", ".join(f"{letter} {tuple(part.shape)}" for letter, part in layer._asdict().items())
    print(f"{name:14} {shapes}")
print(f"{count:,} weights; one input of the unit: {[tuple(x.shape[1:]) for x in caught.args]}")

# %% [markdown]
# ## Stage 1: a rounding that has a slope
#
# Rounding has no useful gradient: its slope is 0 nearly everywhere. So AdaRound rounds down, and adds a share $h(V)$ of
# the scale. This $h$ has a slope. It is the *rectified sigmoid*, with $\gamma = -0.1$ and $\zeta = 1.1$:
#
# $$h(V) = \mathrm{clip}\left(\mathrm{sigmoid}(V)(\zeta - \gamma) + \gamma,\ 0,\ 1\right)$$

# %% [markdown]
# ### Exercise: the rectified sigmoid
#
# *Difficulty 1 of 5, importance 3 of 5, time: about 4 minutes.* Write $h$ for a tensor of any shape.


# %% tags=["exercise"] exercise="07.rectified_sigmoid"
import torch


def rectified_sigmoid(v: torch.Tensor) -> torch.Tensor:
    """h(V) for each V, in the shape of v, with gamma = -0.1 and zeta = 1.1. v: float32, of any shape."""
    # BEGIN SOLUTION
    return (torch.sigmoid(v) * (1.1 - -0.1) + -0.1).clamp(0, 1)
    # END SOLUTION


# %% [markdown]
# Where does $V$ start? At the start, the soft weight $\tilde w$ should be $w$ itself. So $h(V)$ must be the *fraction*
# $w / s - \lfloor w / s \rfloor$, which is at least 0 and below 1.
#
# **Predict:** a weight has $w / s = -2.3$. Which share of the scale must be added after rounding down: 0.3, 0.7 or $-0.3$?

# %% tags=["nbval-check-output"]
from qdiff_lib.quantizers.adaround import AdaRound

one, grid_of_one = torch.tensor([-2.3]), (torch.tensor([1.0]), torch.tensor([8.0]))
start_of_one = AdaRound(one, *grid_of_one, bits=4)
floor, added, v = start_of_one.floor.item(), start_of_one.h().item(), start_of_one.v.item()
print(f"floor {floor:g}, share {added:.2f}, V {v:.2f}")
places = torch.linspace(-4, 4, 801)
start_of_one.v.data = places
show(figures.toy_weight(-2.3, places.tolist(), start_of_one.h().tolist()))

# %% [markdown]
# ### Exercise: where V starts
#
# *Difficulty 2 of 5, importance 4 of 5, time: about 8 minutes.* Set $h(V)$ equal to the fraction, and solve for $V$. The
# clip has no effect, because the fraction is between 0 and 1. Write the function that computes this $V$.


# %% tags=["exercise"] exercise="07.starting_variable"
def starting_variable(w: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    """V (O, C) for which h(V) is the fraction of w / s above its floor. w: float64 (O, C). s: float64 (O, 1)."""
    # BEGIN SOLUTION
    fraction = w / s - torch.floor(w / s)
    return -torch.log((1.1 - -0.1) / (fraction - -0.1) - 1)
    # END SOLUTION


# %% [markdown]
# ## Stage 2: the soft weight
#
# $$\tilde w = s\left(\mathrm{clip}\left(\lfloor w / s \rfloor + h(V) + z,\ 0,\ 2^b - 1\right) - z\right)$$
#
# **Predict:** all layers have soft weights with these starting $V$. What is the error of the unit's output: exactly 0,
# small but not 0, or that of rounding to nearest?

# %% tags=["nbval-check-output"]
soft_at_first = [AdaRound(*layer, bits=4)().detach() for layer in layers]
at_first = unit.error(soft_at_first, caught)
same = [torch.isclose(soft, layer.w, atol=1e-5) for soft, layer in zip(soft_at_first, layers, strict=True)]
inside = sum(part.sum().item() for part in same) / count
claim(0 < at_first < 0.2 * at_nearest, "small, not 0: below a fifth of the error of nearest")
claim(
    0.9 < inside < 1, "more than 90 % of the soft weights are equal to w; the others are clipped by the grid"
)

# %% [markdown]
# ### Exercise: the soft weight
#
# *Difficulty 2 of 5, importance 4 of 5, time: about 8 minutes.* Write the formula of $\tilde w$. You get $h$, not $V$.


# %% tags=["exercise"] exercise="07.soft_weight"
def soft_weight(
    w: torch.Tensor, s: torch.Tensor, z: torch.Tensor, h: torch.Tensor, bits: int
) -> torch.Tensor:
    """The soft weight (O, C). w and h are (O, C), scale s and zero point z are (O, 1), all float32."""
    # BEGIN SOLUTION
    codes = (torch.floor(w / s) + h + z).clamp(0, 2**bits - 1)
    return s * (codes - z)
    # END SOLUTION


# %% [markdown]
# ## Stage 3: the penalty, and how it grows
#
# At the end each $h$ must be 0 or 1. The penalty $\sum \left(1 - |2h(V) - 1|^\beta\right)$ pushes it there. The size of
# its slope says how hard it pushes. We start with a large $\beta$ and end with a small one.
#
# **Predict:** with $\beta = 8$, which weights does the penalty push hardest: those with $h$ near 0.5, those with $h$ near
# 0 or 1, or all equally?

# %%
middle, end = torch.tensor(0.6), torch.tensor(0.9)
at = {beta: [figures.slope(h, beta).item() for h in (middle, end)] for beta in (8, 1)}
claim(at[8][1] > 100 * at[8][0], f"beta = 8: slope {at[8][0]:.4f} at h = 0.6, and {at[8][1]:.1f} at h = 0.9")
claim(at[1][0] == at[1][1], f"beta = 1: slope {at[1][0]:.0f} at h = 0.6, and {at[1][1]:.0f} at h = 0.9")
explore(figures.penalty, "beta", values=[8, 6, 4, 2, 1], twin=[8, 4, 2, 1])

# %% [markdown]
# ### Exercise: the annealed penalty
#
# *Difficulty 3 of 5, importance 4 of 5, time: about 10 minutes.* The first fifth of all iterations is the *warm-up*: it
# has no penalty, so only the error of the output counts. Then $\beta$ falls from 8 to 1. So at first the penalty pushes
# only weights that are almost decided. At the end it pushes all weights.
#
# Write the penalty of one iteration. Here are the details. Let `iterations` be the number of all iterations. They are
# numbered from 0 to `iterations - 1`. In the warm-up, the number of an iteration is below `iterations / 5`. After that,
# $\beta$ falls in a straight line. It would be 8 at the number `iterations / 5`, and 1 at the number `iterations`.


# %% tags=["exercise"] exercise="07.annealed_penalty"
def annealed_penalty(h: torch.Tensor, iteration: int, iterations: int) -> torch.Tensor:
    """The sum over all h of 1 - |2 h - 1|^beta, with the beta of this iteration; 0 in the warm-up.

    h: float32 (n,). iteration: its number, from 0. iterations: how many there are, not always a multiple of 5.
    """
    # BEGIN SOLUTION
    first = iterations / 5
    if iteration < first:
        return torch.zeros(())
    beta = 8 - 7 * (iteration - first) / (iterations - first)
    return (1 - (2 * h - 1).abs().pow(beta)).sum()
    # END SOLUTION


# %% [markdown]
# ## Stage 4: one iteration
#
# Now the soft weights go into the unit. The *objective* is a number that should become small. It is the sum of two parts:
#
# 1. the squared error of the unit's output, summed over its features (axis 1) and then averaged over all other axes, and
# 2. `strength` times the penalty, summed over all weights of all layers.
#
# One iteration computes the objective and its gradient with respect to all $V$. Then it moves $V$ against the gradient.
# In this stage we use plain *gradient descent*: the new $V$ is $V$ minus `lr` times the gradient.
#
# You may call your functions of the earlier stages, or write their formulas again. The check runs your function on a
# small unit with two layers. Its weights are float64 (O, C), and its scales and zero points are float64 (O, 1).

# %% [markdown]
# ### Exercise: one iteration
#
# *Difficulty 4 of 5, importance 5 of 5, time: about 15 minutes.* Write one iteration for all layers together. `beta` is
# given, so there is no warm-up here. Return the objective as it is before $V$ moves.


# %% tags=["exercise"] exercise="07.one_iteration"
def one_iteration(
    unit, layers: list, v: list, inputs: tuple, target, beta: float, strength: float, lr: float
) -> tuple:
    """The pair (objective, list of the new V). Codes have 4 bits. The given v stay unchanged.

    unit(weights, *inputs) computes the output, (N, O, ...). target: its target, of the same shape. layers: a
    list of (w, s, z). v: a list with V of each layer, in the shape of its w; requires_grad is False.
    """
    # BEGIN SOLUTION
    leaves = [each.detach().clone().requires_grad_() for each in v]
    h = [(torch.sigmoid(each) * 1.2 - 0.1).clamp(0, 1) for each in leaves]
    pairs = zip(layers, h, strict=True)
    weights = [s * ((torch.floor(w / s) + up + z).clamp(0, 15) - z) for (w, s, z), up in pairs]
    objective = (unit(weights, *inputs) - target).square().sum(1).mean()
    objective = objective + strength * sum((1 - (2 * up - 1).abs().pow(beta)).sum() for up in h)
    objective.backward()
    return objective.item(), [leaf.detach() - lr * leaf.grad for leaf in leaves]
    # END SOLUTION


# %% [markdown]
# ## Stage 5: the loop, and the decision
#
# The whole of AdaRound:
#
# 1. $V$ starts as in stage 1, for each layer.
# 2. Iteration $i$ uses a batch: `batches[i]` has the numbers of some rows. Take these rows of each input and of the
#    target. Compute the objective of stage 4, with the penalty of stage 3. Then move all $V$. Now the optimizer is *Adam*,
#    `torch.optim.Adam`, with the learning rate `lr`. Adam keeps running means of the gradients. So make it once, before
#    the first iteration.
# 3. After the last iteration each weight is decided: its share becomes 1 if $h \ge 1/2$, else 0. With these shares, the
#    formula of stage 2 gives the *hard* weights.

# %% [markdown]
# ### Exercise: the loop
#
# *Difficulty 5 of 5, importance 5 of 5, time: about 20 minutes.* Write AdaRound. The number of iterations is
# `len(batches)`. The check gives a small unit as in stage 4, in float64. The real unit is float32, and some of its weights
# have four axes. Formulas such as `w / s` work for both.


# %% tags=["exercise"] exercise="07.learn_rounding"
def learn_rounding(unit, layers: list, inputs: tuple, target, batches, strength: float, lr: float) -> tuple:
    """The pair (list of the last V, list of hard weights), one tensor for each layer. Codes have 4 bits.

    unit, layers, target: as before. inputs: a tuple of tensors, each with N rows, as the target. batches: int64,
    (iterations, rows of a batch).
    """
    # BEGIN SOLUTION
    v = [(-torch.log(1.2 / ((w / s) % 1 + 0.1) - 1)).requires_grad_() for w, s, z in layers]
    share = lambda: [(torch.sigmoid(each) * 1.2 - 0.1).clamp(0, 1) for each in v]
    soft = lambda part, up: part.s * ((torch.floor(part.w / part.s) + up + part.z).clamp(0, 15) - part.z)
    on_grid = lambda ups: [soft(layer, up) for layer, up in zip(layers, ups, strict=True)]
    adam, first = torch.optim.Adam(v, lr=lr), len(batches) / 5
    for i, rows in enumerate(batches):
        output = unit(on_grid(share()), *(each[rows] for each in inputs))
        beta = 8 - 7 * (i - first) / (len(batches) - first)
        penalties = sum((1 - (2 * h - 1).abs().pow(beta)).sum() for h in share())
        total = (output - target[rows]).square().sum(1).mean() + (i >= first) * strength * penalties
        adam.zero_grad()
        total.backward()
        adam.step()
    return v, on_grid([h >= 0.5 for h in share()])
    # END SOLUTION


# %% [markdown]
# ## Your loop on the real unit
#
# The next cell gives your loop the same unit, the same batches and the same settings as the library. If your check says
# *right*, the figure has a third bar. Your loop and the library add the same numbers, but maybe in another order. So the
# two errors are nearly equal, but not bit for bit.

# %%
rounding = recipe.rounding
batches = units.random_batches(len(caught.output), rounding.batch_size, iterations, SEED)
given = layers, caught.args, caught.output, batches, rounding.regularization, rounding.lr
mine = units.attempt(check("07.learn_rounding", learn_rounding), learn_rounding, unit, *given)
with_mine = found if mine is None else found | {"your AdaRound": unit.error(mine, caught)}
show(figures.unit_errors(with_mine, count))
if mine is not None:
    ratio = with_mine["your AdaRound"] / at_library
    print(f"your error is {ratio:.3f} times that of the library: about 1, if both do the same")

# %% [markdown]
# ## Where it breaks: without the penalty
#
# Now the library learns once more, with a penalty of strength 0. Then no $h$ has to become 0 or 1, so the soft weights can
# fit the output even better. After that, each weight is decided as before.
#
# **Predict:** compare the error of these hard weights with that of AdaRound with the penalty. Is it smaller, about equal,
# or clearly larger?

# %%
free = units.library_weights(pipe.unet, NAME, recipe, caught, SEED, strength=0.0)
at_free = unit.error(free, caught)
show(figures.unit_errors(found | {"without the penalty": at_free}, count))
claim(
    at_free > 1.3 * at_library, f"without the penalty the error is {at_free / at_library:.1f} times as large"
)
different = [(a != b).float().mean().item() for a, b in zip(library, nearest, strict=True)]
print(
    "share of each layer's weights that AdaRound rounds away from nearest:", *(f"{x:.0%}" for x in different)
)

# %% [markdown]
# **Observe.** Without the penalty many weights end with an $h$ far from 0 and 1. The decision then moves each of them by
# up to half of the scale. These new errors are like random errors, and no iteration is left to compensate for them.
#
# ## Recap
#
# 1. A share $h(V)$ of the scale makes rounding smooth. It starts at the fraction, so the soft weight starts at $w$.
# 2. The rectified sigmoid reaches 0 and 1 exactly, because it is stretched and clipped.
# 3. The penalty begins after the warm-up. It then pushes more and more weights, until nearly all are decided.
# 4. The objective uses the output of the whole unit. So the layers learn together, and their errors can cancel.
# 5. At the end only codes remain. $V$, Adam and the penalty are no longer needed.
#
# **Not shown:** the library can also start from GPTQ's codes, and learn scales and biases (lesson 5). It takes the inputs
# of a unit from the quantized units before it. And it works with more calibration inputs than fit into memory.

# %%
quiz("07")
progress()

# %% [markdown]
# ## Read more
#
# - M. Nagel et al., [Up or Down? Adaptive Rounding for Post-Training Quantization](https://arxiv.org/abs/2004.10568),
#   ICML 2020. AdaRound. Its section 3 derives the loss from the task loss.
# - C. Louizos, M. Welling and D. Kingma, [Learning Sparse Neural Networks through L0
#   Regularization](https://arxiv.org/abs/1712.01312), ICLR 2018. The rectified sigmoid comes from here.
# - Y. Li et al., [BRECQ: Pushing the Limit of Post-Training Quantization by Block
#   Reconstruction](https://arxiv.org/abs/2102.05426), ICLR 2021. The loss of a whole block, as in stage 4.
# - X. Li et al., [Q-Diffusion: Quantizing Diffusion Models](https://arxiv.org/abs/2302.04304), ICCV 2023. Where the inputs
#   of the unit come from.
#
# **Next:** read the library's own loop in `qdiff_lib/ptq/fitting.py`, and its formulas in
# `qdiff_lib/quantizers/adaround.py`. You will find all steps of your own loop there.
