# %% [markdown]
# # How can sixteen values for each weight draw the same pictures?
#
# | | |
# |---|---|
# | You will be able to | say what each part of Q-Diffusion does and costs, implement AdaRound's penalty and decision, pack 4-bit codes, quantize a diffusion model of your own |
# | You need | lessons 0 to 4 |
# | Minutes | 40 to work through; the cells run in less than a minute on two CPU cores |
# | Memory | below 900 MB |
# | In the paper | sections 4 and 5 of [Q-Diffusion](https://arxiv.org/abs/2302.04304) |

# %% [markdown]
# ## The picture first
#
# W4A8 means: *weights* in 4 bits, *activations* (what flows between layers) in 8. Two models below have exactly the same
# kind of file. The *linear* one rounds each weight to the nearest of its 16 values. The other one is made by Q-Diffusion:
# calibration inputs from all time steps (lesson 3), split shortcuts (lesson 4), and two parts that are new in this lesson,
# *learned rounding* and *learned step sizes*.
#
# On a GPU the next cell runs the whole method. On a CPU, which takes minutes for it, it loads the result that is
# shipped with the course. Everything after it is the same.

# %%
from qdiff_lib import Recipe, load, quantize, record, sample, with_sampler
from qdiff_lib.calibration import Uniform

images, steps, samples = lesson.pick(tiny=(16, 20, 128), laptop=(32, 20, 256), gpu=(64, 100, 1024))
pipe = with_sampler(load("ddpm-fashion", device=lesson.device), "ddim")
inputs = record(pipe, Uniform(), samples, steps, batch_size=8)
seen = record(pipe, Uniform(), 20, steps)  # for the ranges of linear quantization
linear = quantize(pipe, Recipe.linear(weights=4, activations=8), seen, progress=False)
if lesson.profile == "gpu":
    learned = quantize(pipe, Recipe.qdiffusion(weights=4, activations=8, profile="gpu"))
else:
    learned = with_sampler(load("ddpm-fashion-w4a8", device=lesson.device), "ddim")

# %%
from qdiff_lib.course.figures import lesson_05 as figures
from qdiff_lib.metrics import trajectory_mse

models = {"full precision": pipe, "linear W4A8": linear, "Q-Diffusion W4A8": learned}
draw = dict(n=images, steps=steps, batch_size=8, record=True, progress=True)
drawn = {label: sample(model, **draw) for label, model in models.items()}
show(figures.pictures({label: found.images for label, found in drawn.items()}))
truth = drawn["full precision"].trajectory
error = {label: trajectory_mse(truth, found.trajectory)[-1].item() for label, found in drawn.items()}

# %%
ratio = error["linear W4A8"] / error["Q-Diffusion W4A8"]
claim(
    ratio > 1.7,
    f"after {steps} steps Q-Diffusion's error is {error['Q-Diffusion W4A8']:.4f}, that of linear rounding "
    f"{error['linear W4A8']:.4f}: {ratio:.1f} times as large (n = {images} images)",
)
same_grid = learned.unet.conv_in.weight_grid == linear.unet.conv_in.weight_grid
claim(
    same_grid,
    f"and both use the same kind of grid: {learned.unet.conv_in.weight_grid.bits} bits, one for each channel",
)

# %% [markdown]
# ## A toy with a known best answer
#
# One neuron with ten weights, 3 bits, and inputs that are alike, as neighbouring pixels are. Each weight can go down or
# up, so there are $2^{10} = 1024$ roundings: few enough to try them all.
#
# **Predict:** rounding each weight to nearest changes each weight the least. What place does it take among all 1024, by
# the error of the neuron's output: the first, one of the first ten, or further back?

# %%
import itertools

import torch
from qdiff_lib.grid import Grid
from qdiff_lib.ranges import min_max

generator = torch.Generator().manual_seed(0)
neurons = torch.randn(101, 10, generator=generator, dtype=torch.float64)
x = 1 + torch.randn(500, 1, generator=generator, dtype=torch.float64)  # what all inputs share
x = x + 0.5 * torch.randn(500, 10, generator=generator, dtype=torch.float64)  # (inputs, weights)
ways = torch.tensor(list(itertools.product((0.0, 1.0), repeat=10)), dtype=torch.float64)  # down or up


def output_errors(w, rounded):
    """Mean squared error of the neuron's output for each of the rounded weights (ways, 10)."""
    return ((rounded - w) @ x.T).square().mean(dim=1)


def all_errors(w):
    s, z = min_max(w, Grid(bits=3))
    rounded = s * ((torch.floor(w / s) + ways + z).clamp(0, 7) - z)
    nearest = s * ((torch.round(w / s) + z).clamp(0, 7) - z)
    return output_errors(w, rounded), output_errors(w, nearest[None]).item()


# %% tags=["nbval-check-output"]
results = [all_errors(w) for w in neurons]
places = torch.tensor([figures.rank(errors, nearest) for errors, nearest in results])
typical = int((places == places.median()).nonzero()[0])
print(f"nearest is the best of 1024 for {(places == 1).sum()} of {len(places)} neurons")
print(f"its median place is {places.median()}")

# %%
w, (errors, nearest) = neurons[typical], results[typical]
show(figures.all_roundings(errors, nearest))
claim(
    nearest > 1.2 * errors.min().item(),
    f"for this neuron the best rounding has {errors.min().item() / nearest:.0%} of nearest's error",
)

# %% [markdown]
# Nearest makes each error small, but takes no notice of the others: where inputs are alike, errors of the same sign add up.
# The best rounding sends some weights the long way, so that their errors cancel. A layer has thousands of weights, and
# $2^{1000}$ roundings cannot be tried. They can be learned.

# %% [markdown]
# ## The equation, and the lines that implement it
#
# AdaRound gives each weight a variable $V$ that says how much of a step is added after rounding down, with
# $\gamma = -0.1$ and $\zeta = 1.1$:
#
# $$\tilde w = s\left(\mathrm{clip}\left(\lfloor w / s \rfloor + h(V) + z,\ 0,\ 2^b - 1\right) - z\right) \qquad
# h(V) = \mathrm{clip}\left(\sigma(V)(\zeta - \gamma) + \gamma,\ 0,\ 1\right)$$
#
# $h$ is soft at first, so that it has a gradient. The penalty $\sum 1 - |2h(V) - 1|^\beta$ pushes it to 0 or 1 while
# $\beta$ falls. Here it learns the toy, with the library's `AdaRound`:

# %%
from qdiff_lib.rounding import AdaRound

toy = AdaRound(w, *min_max(w, Grid(bits=3)), bits=3)
optimizer = torch.optim.Adam([toy.v], lr=0.03)
for iteration in range(400):
    output_error = output_errors(w, toy()[None]).mean()
    beta = 20 - 18 * iteration / 400
    penalty = 0.01 * toy.regularizer(beta) if iteration > 80 else 0.0
    optimizer.zero_grad()
    (output_error + penalty).backward()
    optimizer.step()
found = output_errors(w, toy.decided()[None]).item()
show(figures.all_roundings(errors, nearest, found))
claim(
    found < nearest,
    f"learned: {found / nearest:.0%} of nearest's error, place {figures.rank(errors, found)} of {len(errors)}",
)

# %% [markdown]
# ### Exercise: the penalty of undecided roundings
#
# *Difficulty 2 of 5, importance 4 of 5, 6 minutes.* Implement $h$ and the penalty for variables `v`.


# %% tags=["exercise"] exercise="05.rounding_penalty"
def rounding_penalty(v: torch.Tensor, beta: float) -> torch.Tensor:
    """The sum over all variables v (n,) of 1 - |2 h(v) - 1|^beta, with gamma = -0.1 and zeta = 1.1."""
    # BEGIN SOLUTION
    h = (torch.sigmoid(v) * (1.1 - -0.1) + -0.1).clamp(0, 1)
    return (1 - (2 * h - 1).abs().pow(beta)).sum()
    # END SOLUTION


# %% [markdown]
# ### Exercise: the decision
#
# *Difficulty 2 of 5, importance 3 of 5, 5 minutes.* When learning ends, every weight goes up where $h \ge 1/2$, else down.
# Write the codes.


# %% tags=["exercise"] exercise="05.decide_codes"
def decide_codes(w: torch.Tensor, s: float, z: float, h: torch.Tensor, bits: int) -> torch.Tensor:
    """The integer codes of the weights w (n,), with scale s, zero point z and learned h (n,)."""
    # BEGIN SOLUTION
    up = (h >= 0.5).to(w.dtype)
    return (torch.floor(w / s) + up + z).clamp(0, 2**bits - 1)
    # END SOLUTION


# %% [markdown]
# ## A real unit: watch the roundings flip
#
# Q-Diffusion goes through the network *unit by unit* (a residual block, an attention block, or a layer alone) and
# learns each unit's roundings so that its output stays what it was in full precision. Below is one unit of the shipped
# model, the first block of the way up. It reads a shortcut, so one of its layers has two grids. (The library feeds
# each unit with what the quantized units before it give; this demonstration feeds it in full precision.)

# %%
from qdiff_lib.course.one_unit import catch, moment, observe, quantized_unit, unit_error
from qdiff_lib.layers import activation_quantizers, quant_layers

NAME = "up_blocks.0.resnets.0"
recipe = Recipe.qdiffusion(4, 8, include=(NAME, f"{NAME}.*"), iterations=150)
caught = catch(pipe.unet, NAME, inputs, batch_size=8)
unit, plain = (quantized_unit(pipe.unet, NAME, recipe) for _ in range(2))
for layer in quant_layers(plain):
    layer.round_weight()
rounds = [part for layer in quant_layers(unit) for part in layer.start_rounding()]
print(f"{len(quant_layers(unit))} layers, {len(rounds)} AdaRounds, {len(caught.output)} calibration inputs")
print(
    f"output error: {unit_error(unit, caught):.3f} soft, {unit_error(plain, caught):.3f} rounded to nearest"
)

# %% [markdown]
# **Predict:** how many of its weights will end up on the *other* side of nearest: one in a thousand, one in ten, or half?

# %%
from qdiff_lib.reconstruction import annealed_beta, reconstruction_loss

optimizer = torch.optim.Adam([part.v for part in rounds], lr=recipe.lr)
losses, moments = [], [moment(0, rounds)]
for iteration in range(recipe.iterations):
    args, target = caught.draw(recipe.batch_size, generator)
    loss = reconstruction_loss(unit(*args), target)
    losses.append(loss.item())
    if iteration >= recipe.warmup * recipe.iterations:
        beta = annealed_beta(iteration, recipe)
        loss = loss + recipe.regularization * sum(part.regularizer(beta) for part in rounds)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if (iteration + 1) % 15 == 0:
        moments.append(moment(iteration + 1, rounds, moments[0]))

# %%
for layer in quant_layers(unit):
    layer.finish_rounding()
at_nearest, at_learned = unit_error(plain, caught), unit_error(unit, caught)
show(figures.learning(losses, moments, at_nearest, at_learned))

# %%
last = moments[-1]
claim(last.undecided < 0.05, f"{last.undecided:.1%} of the weights are still undecided at the end")
claim(
    0.01 < last.flipped < 0.4, f"{last.flipped:.1%} of {len(last.h):,} weights are not at their nearest value"
)
claim(
    at_learned < at_nearest / 1.5,
    f"the unit's output error is {at_learned:.2f}; with every weight at nearest it is {at_nearest:.2f}",
)

# %% [markdown]
# A weight in the middle between two values costs little to flip; one that is close to a value is left there. Move the
# slider: each weight starts at its own fraction of a step, and wanders to one of the two walls.

# %%
explore(lambda k: figures.rounding_variables(moments[k]), "moment", range(len(moments)), twin=[0, 4, 7, 10])

# %% [markdown]
# ## Learned step sizes
#
# Once the weights are decided, activations get a grid from the ranges that were seen, and then their step sizes are
# learned, too (LSQ: the gradient of a rounded value with respect to its scale, straight through the rounding). At 8 bits
# there is little left to win; at 4 bits the same lines show what they do.

# %%
step_errors = {}
for bits in (8, 4):
    observe(unit, caught, bits, generator)
    seen = unit_error(unit, caught)
    optimizer = torch.optim.Adam([q.start_learning() for q in activation_quantizers(unit)], lr=1e-2)
    for _ in range(60):
        args, target = caught.draw(16, generator)
        optimizer.zero_grad()
        reconstruction_loss(unit(*args), target).backward()
        optimizer.step()
    for quantizer in activation_quantizers(unit):
        quantizer.finish_learning()
    step_errors[bits] = seen, unit_error(unit, caught)

# %%
for bits, (seen, tuned) in step_errors.items():
    print(f"{bits}-bit activations: error {seen:.3f} with ranges as seen, {tuned:.3f} with learned steps")
(seen8, tuned8), (seen4, tuned4) = step_errors[8], step_errors[4]
claim(tuned8 < 1.1 * seen8, f"at 8 bits learning changes the error by {tuned8 / seen8 - 1:+.0%} only")
claim(tuned4 < 0.8 * seen4, f"at 4 bits it changes it by {tuned4 / seen4 - 1:+.0%}")

# %% [markdown]
# ## The packed file
#
# What reaches the disk is the codes, two in a byte, with a scale and a zero point for each channel of each part. Biases
# and norms stay floats: they are few.

# %%
from qdiff_lib import save_quantized
from qdiff_lib.course.packed_file import file_parts
from qdiff_lib.zoo import verified

path = save_quantized(learned, "build/lesson-05/w4a8")
parts = file_parts(path)
full = verified("models/ddpm-fashion/unet/diffusion_pytorch_model.safetensors").stat().st_size
show(figures.file_parts(parts, full))

# %%
from qdiff_lib.cost import model_bytes, parameter_count

ideal, count = model_bytes(parameter_count(pipe.unet), bits=4), parameter_count(pipe.unet)
print(f"{count:,} parameters x 4 bits / 8 = {ideal / 1e6:.3f} MB")
claim(sum(parts.values()) == path.stat().st_size, "the parts add up to the file, byte by byte")
claim(
    ideal < path.stat().st_size < 1.15 * ideal,
    f"the file is {path.stat().st_size / ideal - 1:.0%} larger than parameters x bits / 8",
)

# %% [markdown]
# ### Exercise: two codes in a byte
#
# *Difficulty 2 of 5, importance 3 of 5, 6 minutes.* Write the packing. The first code takes the lower four bits.


# %% tags=["exercise"] exercise="05.pack_nibbles"
def pack_nibbles(codes: torch.Tensor) -> torch.Tensor:
    """Codes from 0 to 15, uint8 (n,), two in a byte: uint8 (ceil(n / 2),); an odd last code stands alone.

    [3, 15, 1] becomes [3 + 16 * 15, 1] = [243, 1].
    """
    # BEGIN SOLUTION
    if len(codes) % 2:
        codes = torch.cat([codes, codes.new_zeros(1)])
    return codes[::2] + 16 * codes[1::2]
    # END SOLUTION


# %% [markdown]
# The way back, for one layer of the file: cut each byte into its two codes, subtract the zero point, multiply by the scale.

# %% tags=["nbval-check-output"]
from safetensors.torch import load_file

byte = torch.tensor([243], dtype=torch.uint8)
print(f"the byte {byte.item()} holds the codes {(byte % 16).item()} and {(byte // 16).item()}")
packed = load_file(path)["mid_block.resnets.0.conv1.weight"]
layer = learned.unet.mid_block.resnets[0].conv1
codes = torch.stack([packed % 16, packed // 16], dim=1).reshape(layer.layer.weight.shape)
scale, zero_point = (
    values.cpu().view(-1, 1, 1, 1) for values in (layer.weight_scale, layer.weight_zero_point)
)
unpacked = scale * (codes - zero_point)
print(f"{len(packed):,} bytes, {codes.numel():,} weights, {len(codes.unique())} different codes")
print("the weights that the model computes with:", torch.equal(unpacked, layer.layer.weight.cpu()))

# %% [markdown]
# ## What each part buys
#
# The whole model again, calibrated once for each rung of a ladder; each rung keeps what the ones before it added. This
# takes a quarter of an hour on the CPU, so it was recorded. The last rung is what the library adds to the paper's
# method for short calibrations: AdaRound starts from a rounding that compensates its own errors (GPTQ), and the scales
# and biases of the weights are learned as well.
#
# **Predict:** which rung takes away the most error? Which costs the most time?

# %%
ladder = recorded("ladder")
rows, n = ladder.data["rows"], ladder.data["n"]
show(figures.ladder(rows, n, ladder.data["floor"]))
print(f"{'':30}{'error':>9}{'SNR (dB)':>10}{'Frechet':>9}{'KID':>8}{'calibration (s)':>17}{'MB':>6}")
for row in rows:
    snr = "" if row["snr_db"] is None else f"{row['snr_db']:.1f}"
    print(f"{row['label']:30}{row['trajectory_mse']:9.4f}{snr:>10}", end="")
    print(f"{row['frechet']:9.2f}{row['kid']:8.4f}{row['seconds']:17.0f}{row['bytes'] / 1e6:6.2f}")
print(ladder.source())

# %%
first, best, whole = rows[0], rows[-2], rows[-1]
drops = {b["label"]: b["trajectory_mse"] / a["trajectory_mse"] for a, b in zip(rows, rows[1:-1])}
for label, left in drops.items():
    print(f"{label:30} leaves {left:5.0%} of the error before it")
gain = first["trajectory_mse"] / best["trajectory_mse"]
claim(
    gain > 2, f"from the first rung to the last the error falls {gain:.1f} times, in a file of the same size"
)
claim(
    best["seconds"] > 3 * first["seconds"],
    f"the price: {best['seconds']:.0f} s of calibration instead of {first['seconds']:.0f} s, once",
)
print(f"Frechet distance: full precision {whole['frechet']:.2f}, last rung {best['frechet']:.2f}")

# %% [markdown]
# The seams of this small model differ little (lesson 4), so the split cannot buy much here; in the paper's networks the
# halves of a shortcut are up to 200 times apart. Eight bits leave little for learned step sizes to win.

# %% [markdown]
# ## The same call at the paper's scale
#
# Nothing in the library knows this model's name: units and shortcuts are found by running the network once. The cell
# below is what you run on a GPU, for the networks of the paper or of your own. It needs their weights; here it is
# defined, not called.

# %%
HUB = {
    "DDPM, CIFAR-10": ("google/ddpm-cifar10-32", dict(steps=100)),
    "LDM-4, faces": ("CompVis/ldm-celebahq-256", dict(steps=200, split=False)),
    "Stable Diffusion v1.4": ("CompVis/stable-diffusion-v1-4", dict(steps=50, softmax_bits=16, batch_size=8)),
}


def at_paper_scale(name, calibration=None):
    hub_name, changes = HUB[name]
    full = load(hub_name, device=lesson.device)
    recipe = Recipe.qdiffusion(weights=4, activations=8, profile="paper", **changes)
    quantized = quantize(full, recipe, calibration, work=f"build/{name}", resume=True)
    return save_quantized(quantized, f"build/{name}-w4a8")


# %% [markdown]
# A text-to-image model needs prompts, so its calibration set is recorded by hand: run the pipeline on your prompts and keep
# what the network gets, the rows with and without text alike.

# %%
from qdiff_lib.calibration import CalibrationSet


def prompted(pipe, prompts, steps=50, every=2, **options):
    kept = []  # a list of the network's inputs at each step
    hook = pipe.unet.register_forward_pre_hook(
        lambda unet, args, more: kept.append((args, more)), with_kwargs=True
    )
    for start in range(0, len(prompts), 8):
        pipe(prompts[start : start + 8], num_inference_steps=steps, **options)
    hook.remove()
    calls = [(i % steps, *args, more["encoder_hidden_states"]) for i, (args, more) in enumerate(kept)]
    calls = [call for call in calls if call[0] % every == 0]
    step, times = (torch.cat([torch.full((len(c[1]),), int(c[i])) for c in calls]) for i in (0, 2))
    x, text = (torch.cat([c[i].cpu() for c in calls]) for i in (1, 3))
    order = torch.randperm(len(x))
    inputs = {"sample": x[order], "timestep": times[order], "encoder_hidden_states": text[order]}
    return CalibrationSet(inputs, step[order], {"rule": "prompts", "steps": steps})


# %%
from qdiff_lib.course.paper_scale import table

print(table(("DDPM, CIFAR-10", "LDM-4, bedrooms", "Stable Diffusion v1.4")))

# %% [markdown]
# ### Sizes and bit operations of the paper's networks
#
# These need no weights: the networks are built without memory (on the *meta device*) and counted. A *bit operation*
# (BOP) counts $2 \times$ multiplications $\times$ weight bits $\times$ activation bits; a 32-bit float counts as 23.

# %% tags=["nbval-check-output"]
from qdiff_lib import architectures
from qdiff_lib.cost import bops, layer_costs

NETWORKS = {"DDPM, CIFAR-10": architectures.DDPM_CIFAR10, "LDM-4, bedrooms": architectures.LDM4_BEDROOMS}
NETWORKS |= {"LDM-8, churches": architectures.LDM8_CHURCHES, "Stable Diffusion v1.4": architectures.SD_V1_4}
sizes, operations = {}, {}
for name, config in NETWORKS.items():
    sizes[name] = parameter_count(architectures.build(config, device="meta"))
    costs = layer_costs(config)
    operations[name] = [bops(costs, w_bits, a_bits) / 1e12 for w_bits, a_bits in ((32, 32), (8, 8), (4, 8))]
    megabytes = " -> ".join(f"{model_bytes(sizes[name], b) / 1e6:.1f}" for b in (32, 4))
    tera = " -> ".join(f"{value:.2f}" for value in operations[name])
    print(f"{name:22} {sizes[name] / 1e6:8.3f} M  {megabytes:>17} MB  {tera:>25} TBOPs (32/32, 8/8, 4/8)")

# %%
checked = [round(sizes[name] / 1e6, 3) for name in NETWORKS] == [35.746, 274.056, 294.967, 859.521]
claim(checked, "the parameter counts are those of the four models of the paper")
small = [values[0] / values[2] for values in operations.values()]
claim(
    max(small) - min(small) < 1e-6,
    f"W4A8 needs {small[0]:.1f} times fewer bit operations, in every network: 23 x 23 / 32",
)

# %% [markdown]
# ## Where it breaks
#
# **Predict:** the weights keep their 4 learned bits. Now the *activations* get 4 bits as well. Does the picture survive?


# %%
def coarser(model, bits):
    """The same model with activations on grids of fewer bits, over the same ranges; changes it in place."""
    for quantizer in activation_quantizers(model.unet):
        stretch = quantizer.grid.top / (2**bits - 1)
        quantizer.set_range(quantizer.scale * stretch, (quantizer.zero_point / stretch).round())
        quantizer.grid = Grid(bits)
    return model


drawn["Q-Diffusion W4A4"] = sample(coarser(learned, 4), **draw)
show(figures.pictures({label: found.images for label, found in drawn.items()}))

# %%
broken = trajectory_mse(truth, drawn["Q-Diffusion W4A4"].trajectory)[-1].item()
claim(
    broken > 3 * error["Q-Diffusion W4A8"],
    f"with 4-bit activations the error is {broken:.3f}, {broken / error['Q-Diffusion W4A8']:.0f} times that of W4A8",
)

# %% [markdown]
# Weights are fixed, so calibration can compensate what their rounding does. Activations are new for every input: 16 values
# for a range that must also hold the outliers are too few, whatever the step size. Others found the same at the paper's
# scale, and the same holds for models that were distilled to a few denoising steps.

# %% [markdown]
# ## Recap
#
# 1. Rounding to nearest is best for each weight and bad for their sum.
# 2. AdaRound learns which way each weight goes, judged by a unit's output; a penalty makes the decision hard.
# 3. Step sizes of activations are learned afterwards; the split gives each half of a shortcut a grid of its own.
# 4. The file holds codes, two in a byte: parameters x bits / 8, and some percent for scales, biases and names.
# 5. The price is calibration time, once. The same call serves every UNet of diffusers.
#
# **Not shown:** speed. The course computes with the integers' values in floating point, which is slower, not faster;
# speed needs kernels for 4-bit weights. Also not shown: FID on a large benchmark, which needs a GPU and hours.

# %%
quiz("05")

# %% [markdown]
# ## Read more
#
# - X. Li et al., [Q-Diffusion: Quantizing Diffusion Models](https://arxiv.org/abs/2302.04304), ICCV 2023: the whole
#   method; section 5 has what this lesson could not run.
# - M. Nagel et al., [Up or Down? Adaptive Rounding for Post-Training Quantization](https://arxiv.org/abs/2004.10568),
#   ICML 2020: AdaRound, and why nearest is not best.
# - Y. Li et al., [BRECQ](https://arxiv.org/abs/2102.05426), ICLR 2021: why to reconstruct blocks, not layers.
# - S. Esser et al., [Learned Step Size Quantization](https://arxiv.org/abs/1902.08153), ICLR 2020: LSQ.
# - E. Frantar et al., [GPTQ](https://arxiv.org/abs/2210.17323), ICLR 2023: the rounding that the library starts from.
#
# **Next:** a model of your own. `quantize(pipe, Recipe.qdiffusion(weights=4, activations=8))` is all it takes; lessons 1
# to 4 tell you where to look when the pictures are wrong.
