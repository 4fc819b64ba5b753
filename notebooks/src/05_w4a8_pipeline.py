# %% [markdown]
# # How can sixteen values for each weight draw the same pictures?
#
# | | |
# |---|---|
# | You will be able to | say what each part of Q-Diffusion does and costs; write AdaRound's penalty and decision; pack 4-bit codes; quantize your own diffusion model |
# | You need | lessons 0 to 4 |
# | Time | about 40 minutes; the cells run in less than a minute on two CPU cores |
# | Memory | below 900 MB |
# | In the paper | sections 3.3 and 4 of [Q-Diffusion](https://arxiv.org/abs/2302.04304) |
#
# All letters are in [notation and glossary](../docs/notation.md).
#
# ## The picture first
#
# W4A8 means: *weights* have 4 bits, and *activations* (the values between layers) have 8. The next figure compares two
# such models with full precision.
#
# The *linear* model rounds each weight to the nearest of its 16 values. The other model was made by Q-Diffusion. This
# method uses calibration inputs from all time steps (lesson 3) and split shortcuts (lesson 4). Two parts are new in
# this lesson: *learned rounding* and *learned step sizes*. A *step size* is the scale $s$ of a grid. The first and the
# last layer of this model have 16 bits. These two layers hold 0.03 % of the weights.
#
# On a GPU (profile `gpu`) the next cell runs the whole method. On a CPU this would take minutes, so the cell loads a
# finished model that comes with the course. All later cells are the same on both.

# %%
from qdiff_lib import Recipe, load, quantize, record, sample, with_sampler
from qdiff_lib.recipes.timestep_rules import Uniform

images, steps, samples = lesson.pick(tiny=(16, 20, 128), laptop=(32, 20, 256), gpu=(64, 100, 1024))
pipe = with_sampler(load("ddpm-fashion", device=lesson.device), "ddim")
inputs = record(pipe, Uniform(), samples, steps, batch_size=4)  # inputs of the noise network, from all steps
seen = record(pipe, Uniform(), 20, steps, batch_size=4)  # for the ranges of linear quantization
linear = quantize(pipe, Recipe.linear(weights=4, activations=8), seen, progress=False)
if lesson.profile == "gpu":
    learned = quantize(pipe, Recipe.qdiffusion(weights=4, activations=8, profile="gpu", edge_bits=16))
else:
    learned = with_sampler(load("ddpm-fashion-w4a8", device=lesson.device), "ddim")

# %%
from qdiff_lib.course.figures import lesson_05 as figures
from qdiff_lib.evaluation.trajectory_errors import trajectory_mse

models = {"full precision": pipe, "linear W4A8": linear, "Q-Diffusion W4A8": learned}
draw = dict(n=images, steps=steps, batch_size=8, record=True, progress=True)
drawn = {label: sample(model, **draw) for label, model in models.items()}
show(figures.pictures({label: found.images for label, found in drawn.items()}))
truth, rough, fine = (found.trajectory for found in drawn.values())
error_rough, error_fine = (trajectory_mse(truth, x)[-1].item() for x in (rough, fine))
claim(
    error_rough > 5 * error_fine,
    f"after {steps} steps the error of linear rounding is {error_rough:.4f}: this is "
    f"{error_rough / error_fine:.0f} times that of Q-Diffusion, {error_fine:.4f} (n = {images} images)",
)

# %% [markdown]
# ## A toy with a known best answer
#
# Take a layer of 101 neurons. Each neuron has ten weights of 4 bits. All neurons read the same ten inputs. The inputs
# are mixtures of three signals, so they are correlated, like neighbouring pixels and channels. Each weight can be
# rounded down or up. So a neuron has $2^{10} = 1024$ roundings, and we can try them all.
#
# **Predict:** rounding to nearest changes each weight the least. Now we sort all 1024 roundings of a neuron by the
# squared error of its output. Place 1 has the smallest error. Which place does rounding to nearest usually have: place
# 1, places 2 to 10, or a later place?

# %% tags=["nbval-check-output"]
import torch
from qdiff_lib.quantizers.grid import Grid, PerAxis
from qdiff_lib.quantizers.range_finders import min_max

generator = torch.Generator().manual_seed(0)
normal = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
w, x = normal(101, 10), normal(500, 3) @ normal(3, 10) + 0.3 * normal(500, 10)
s, z = min_max(w, Grid(bits=4, granularity=PerAxis(0)))  # one scale for each neuron
xx = x.T @ x / len(x)
output_error = lambda rounded: ((rounded - w) @ xx * (rounded - w)).sum(-1)
on_grid = lambda codes: s * ((codes + z).clamp(0, 15) - z)
ways = (torch.arange(1024)[:, None] >> torch.arange(10)) & 1  # 0: down, 1: up
errors = torch.stack([output_error(on_grid(torch.floor(w / s) + way)) for way in ways], dim=1)
nearest = output_error(on_grid(torch.round(w / s)))
place = figures.places(errors, nearest)
print(f"nearest is the best for {(place == 1).sum()} of {len(place)} neurons; median place {place.median()}")

# %% [markdown]
# ## The equation and its code
#
# Rounding to nearest makes each single error small. But if inputs are correlated, errors of the same sign add up in the
# output. The best rounding sends some weights to the farther value, so that errors cancel. A real layer has thousands of
# weights. Even 1000 weights have $2^{1000}$ roundings, too many to try. But we can learn a good rounding. AdaRound
# gives each weight a variable $V$. It rounds $w / s$ down, and then adds a share $h(V)$ between 0 (down) and 1 (up).
# The result is the *soft weight* $\tilde w$. With $\gamma = -0.1$ and $\zeta = 1.1$:
#
# $$\tilde w = s\left(\mathrm{clip}\left(\lfloor w / s \rfloor + h(V) + z,\ 0,\ 2^b - 1\right) - z\right) \qquad
# h(V) = \mathrm{clip}\left(\mathrm{sigmoid}(V)(\zeta - \gamma) + \gamma,\ 0,\ 1\right)$$
#
# At first $h$ lies between 0 and 1, so a gradient can change it. A *penalty* moves it to 0 or 1. It is the sum over all
# weights, $\sum \left(1 - |2h(V) - 1|^\beta\right)$. During learning, $\beta$ falls. In the paper and in the next cell
# it falls from 20 to 2. The real unit below has few iterations, so there it falls from 8 to 1. The library's class
# `AdaRound` holds $V$ and computes these formulas.

# %%
from qdiff_lib.quantizers.adaround import AdaRound

toy = AdaRound(w, s, z, bits=4)
optimizer = torch.optim.Adam([toy.v], lr=0.1)
for iteration in range(500):
    loss = output_error(toy()).sum()
    if iteration > 100:  # the first iterations have no penalty
        loss = loss + 0.03 * toy.regularizer(beta=20 - 18 * (iteration - 100) / 400)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
decided = output_error(toy.decided())
show(figures.all_roundings(errors, nearest, decided))
left = (decided.mean() / nearest.mean()).item()
claim(left < 0.6, f"the mean error of learned roundings is {left:.0%} of that of rounding to nearest")

# %% [markdown]
# ### Exercise: the penalty of undecided roundings
#
# *Difficulty 2 of 5, importance 4 of 5, time: about 6 minutes.* Write the penalty for the variables `v` of a layer. First
# compute $h$ for each of them.


# %% tags=["exercise"] exercise="05.rounding_penalty"
import torch


def rounding_penalty(v: torch.Tensor, beta: float) -> torch.Tensor:
    """The sum over all variables v of 1 - |2 h(v) - 1|^beta, one number, with gamma = -0.1 and zeta = 1.1.

    v: float32 (n,). beta: at least 1, not always a whole number.
    """
    # BEGIN SOLUTION
    h = (torch.sigmoid(v) * (1.1 - -0.1) + -0.1).clamp(0, 1)
    return (1 - (2 * h - 1).abs().pow(beta)).sum()
    # END SOLUTION


# %% [markdown]
# ### Exercise: the decision
#
# *Difficulty 2 of 5, importance 3 of 5, time: about 5 minutes.* When learning ends, each weight is *decided*. If
# $h \ge 1/2$, it goes up: its share becomes 1. Else it goes down: its share becomes 0. Write the function that returns
# the codes, from 0 to $2^b - 1$.


# %% tags=["exercise"] exercise="05.decide_codes"
def decide_codes(w: torch.Tensor, s: float, z: float, h: torch.Tensor, bits: int) -> torch.Tensor:
    """The codes (n,) of the weights w (n,), with scale s, zero point z and the learned shares h (n,).

    w and h are float32. Codes are whole numbers, in a tensor of any type.
    """
    # BEGIN SOLUTION
    up = (h >= 0.5).to(w.dtype)
    return (torch.floor(w / s) + up + z).clamp(0, 2**bits - 1)
    # END SOLUTION


# %% [markdown]
# ## A real unit
#
# Q-Diffusion quantizes the network *unit by unit*. A unit is a residual block, an attention block, or a single layer.
# Q-Diffusion learns the roundings of each unit so that the unit's output stays close to its output in full precision.
#
# Below is one unit of the shipped model: the first block on the way up. It reads a concatenation, so one of its layers
# has two grids. (In the library, the inputs of a unit come from the quantized units before it. Here they come from the
# full-precision network.) A weight is *undecided* while its $h$ is between 0.05 and 0.95.
#
# **Predict:** after learning, which share of the unit's weights is *not* at the nearest value: about one in a thousand,
# about one in ten, or about half? The third of the next cells gives the answer.

# %%
from qdiff_lib.course.one_unit import catch, moment, observe, quantized_unit, unit_error
from qdiff_lib.modules.activation_quantizer import activation_quantizers
from qdiff_lib.modules.quant_layer import quant_layers
from qdiff_lib.ptq.fitting import annealed_beta, reconstruction_loss

NAME = "up_blocks.0.resnets.0"
recipe = Recipe.qdiffusion(4, 8, include=(NAME, f"{NAME}.*"), iterations=150)
caught = catch(pipe.unet, NAME, inputs, batch_size=8)


def start_unit():
    """The unit with quantizers, and the rounding variables of its weights."""
    unit = quantized_unit(pipe.unet, NAME, recipe)
    return unit, [part for layer in quant_layers(unit) for part in layer.start_rounding()]


soft, at_first = start_unit()
print(f"{len(quant_layers(soft))} layers, {len(at_first)} grids, {len(caught.output)} calibration inputs")
print(f"output error before learning, with h between 0 and 1: {unit_error(soft, caught):.3f}")

# %%
how, (unit, rounds) = recipe.rounding, start_unit()
optimizer = torch.optim.Adam([part.v for part in rounds], lr=how.lr)
losses, moments = [], [moment(0, rounds)]
for iteration in range(how.iterations):
    args, target = caught.draw(how.batch_size, generator)
    loss = reconstruction_loss(unit(*args), target)
    losses.append(loss.item())
    if iteration >= how.warmup * how.iterations:
        penalties = sum(part.regularizer(annealed_beta(iteration, how)) for part in rounds)
        loss = loss + how.regularization * penalties
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if (iteration + 1) % 15 == 0:
        moments.append(moment(iteration + 1, rounds, moments[0]))

# %%
import copy

plain, hard = quantized_unit(pipe.unet, NAME, recipe), copy.deepcopy(unit)
for layer in quant_layers(plain):
    layer.round_weight()  # to nearest
for layer in quant_layers(hard):
    layer.finish_rounding()  # as learned
at_nearest, at_learned, last = unit_error(plain, caught), unit_error(hard, caught), moments[-1]
show(figures.learning(losses, moments, at_nearest, at_learned))
claim(last.undecided < 0.05, f"{last.undecided:.1%} of the weights are still undecided at the end")
claim(
    0.01 < last.flipped < 0.4, f"{last.flipped:.1%} of {len(last.h):,} weights are not at the nearest value"
)
claim(at_learned < at_nearest / 1.5, f"the unit's error is {at_learned:.2f}; with nearest: {at_nearest:.2f}")
picture = lambda i: figures.rounding_variables(next(m for m in moments if m.iteration == i))
explore(picture, "iteration", values=[m.iteration for m in moments], twin=[0, 60, 105, 150])

# %% [markdown]
# ## Learned step sizes
#
# Now the weights are decided. Next, the activations get grids from their observed ranges. Then the scales of these grids
# are learned, too, by *learned step size quantization* (LSQ). LSQ needs the gradient of a rounded value with respect to
# the scale. Rounding itself has no useful gradient. So in the gradient, and only there, LSQ replaces rounding by the
# identity function. With 8 bits, learned scales reduce the error only a little. With 4 bits they reduce it a lot.

# %%
for bits in (8, 4):
    observe(hard, caught, bits, generator)
    before = unit_error(hard, caught)
    optimizer = torch.optim.Adam([q.start_learning() for q in activation_quantizers(hard)], lr=1e-2)
    for _ in range(60):
        args, target = caught.draw(16, generator)
        optimizer.zero_grad()
        reconstruction_loss(hard(*args), target).backward()
        optimizer.step()
    _ = [q.finish_learning() for q in activation_quantizers(hard)]
    after = unit_error(hard, caught)
    print(f"{bits}-bit activations: error {before:.2f} with observed ranges, {after:.2f} with learned scales")
claim(after < 0.8 * before, f"at 4 bits, {after / before:.0%} of the unit's error is left after learning")

# %% [markdown]
# ## The packed file
#
# The file holds the codes, two in a byte. It also holds a scale and a zero point for each output channel. A split layer
# has these for each of its two parts. Biases and norms stay floating-point numbers, because they are few. The file also
# says what each tensor is called and at which place in the file it starts ("names and places").

# %%
import tempfile

from qdiff_lib import save_quantized
from qdiff_lib.course.packed_file import file_parts
from qdiff_lib.graph.cost import model_bytes, parameter_count
from qdiff_lib.io.shipped_data import verified

folder = tempfile.TemporaryDirectory()  # is deleted when the kernel stops
path = save_quantized(learned, f"{folder.name}/w4a8")
parts, on_disk = file_parts(path), path.stat().st_size
full = verified("models/ddpm-fashion/unet/diffusion_pytorch_model.safetensors").stat().st_size
show(figures.file_parts(parts, full))
ideal = model_bytes(parameter_count(pipe.unet), bits=4)
print(f"{parameter_count(pipe.unet):,} parameters x 4 bits / 8 = {ideal / 1e6:.3f} MB")
larger = (on_disk - parts["names and places"]) / ideal - 1
claim(0 < larger < 0.1, f"without names, the file is {larger:.0%} larger than parameters x bits / 8")

# %% [markdown]
# ### Exercise: two codes in a byte
#
# *Difficulty 2 of 5, importance 3 of 5, time: about 6 minutes.* Write the function that packs codes. Neighbours are
# pairs: codes 0 and 1, codes 2 and 3, and so on. The first code of a pair takes the lower four bits of the byte.


# %% tags=["exercise"] exercise="05.pack_nibbles"
def pack_nibbles(codes: torch.Tensor) -> torch.Tensor:
    """Codes from 0 to 15, uint8 (n,), two in a byte: a tensor (ceil(n / 2),) of uint8.

    If n is odd, the last byte holds only one code, and its upper four bits are 0.
    [3, 15, 1] becomes [3 + 16 * 15, 1] = [243, 1].
    """
    # BEGIN SOLUTION
    if len(codes) % 2:
        codes = torch.cat([codes, codes.new_zeros(1)])
    return codes[::2] + 16 * codes[1::2]
    # END SOLUTION


# %% tags=["nbval-check-output"]
from safetensors.torch import load_file

byte = torch.tensor([243], dtype=torch.uint8)  # to unpack: split a byte, subtract z, multiply by s
print(f"the byte {byte.item()} holds the codes {(byte % 16).item()} and {(byte // 16).item()}")
packed = load_file(path)["mid_block.resnets.0.conv1.codes"]
layer = learned.unet.mid_block.resnets[0].conv1
codes = torch.stack([packed % 16, packed // 16], dim=1).reshape(layer.weight.shape)
scale, zero_point = (part.cpu() for part in layer.part_grid(0))
print(f"{len(packed):,} bytes, {codes.numel():,} weights, {len(codes.unique())} different codes")
same = torch.equal(scale * (codes - zero_point), layer.weight.cpu())
print("the unpacked weights equal those that the model computes with:", same)

# %% [markdown]
# ## What each part gains
#
# The next table has one row for each stage of the method. Each stage keeps all stages above it. For each row, the whole
# model was calibrated once. This takes many minutes on a CPU, so the table is a recorded result. After **linear** come
# the parts of the paper: **calibrated ranges** (for the weights of each channel, a search finds the range with the
# smallest error), **AdaRound**, **split** and **learned step sizes**. The last four stages are not in the paper:
#
# - **GPTQ start, learned scales**: GPTQ is a formula. It rounds weights one after the other, and changes later weights so
#   that they compensate earlier errors. AdaRound starts from its codes. Scales and biases are learned, too.
# - **16-bit first and last layer**: these two layers hold 0.03 % of the weights. The first layer reads the noisy image
#   itself. Its rounding errors look like noise in the image. And the network was trained to remove noise.
# - **whole network**: after the last unit, the codes, scales and biases of all layers are learned together. The goal is
#   that the output of the *whole network* is close to full precision. Some layers can then correct errors of others.
# - **bias correction**: both networks draw images from the same noise. Then the bias of the last layer is changed, so
#   that typical images of both networks are equally bright. This removes small errors that have the same sign at all
#   steps.
#
# Two numbers compare the drawn pictures with real pictures. The *Fréchet distance* compares their features as if both
# were normally distributed. The *KID* (kernel distance) does not need this assumption. For both, smaller is better. The
# column "left" is the error of a stage divided by the error of the stage above it.
#
# **Predict:** which stage has the smallest "left", so that it removes the largest share of the error? And which stage
# adds the most seconds of calibration?

# %%
ladder = recorded("ladder")
rows, first, best = ladder.data["rows"], ladder.data["rows"][0], ladder.data["rows"][-2]
show(figures.ladder(rows, ladder.data["n"], ladder.data["floor"]))
print(figures.ladder_table(rows))
print(ladder.source())
removes, adds, worse = figures.notable_stages(rows[:-1])
print(f"the smallest 'left': {removes}; the most seconds: {adds}; more error than before: {', '.join(worse)}")
gain, price = first["trajectory_mse"] / best["trajectory_mse"], best["seconds"] / first["seconds"]
claim(gain > 10, f"the last stage has 1 / {gain:.0f} of the error of the first stage")
claim(price > 5, f"its calibration takes {price:.0f} times as long, but only once: {best['seconds']:.0f} s")
beside = {row["label"]: row["trajectory_mse"] for row in ladder.data["besides"]}
alone = beside["linear, 16-bit first and last layer"]
claim(
    alone > 10 * best["trajectory_mse"], f"linear with 16 bits in these two layers has the error {alone:.4f}"
)

# %% [markdown]
# AdaRound removes most of the error. Some stages do not help on this model. These are likely reasons:
#
# - *Calibrated ranges* make the error of the weights small. But without learned rounding, the pictures need not become
#   better.
# - The *split* cannot gain much here. The two halves of this model's concatenations differ little (lesson 4).
# - Small differences can be chance. If one of the 128 images becomes another garment, the mean changes.
# - The effect of *bias correction* is smaller than such a change. `RESULTS.md` has it for 1,000 images and three seeds.
#
# The seconds are those of one run each. The same work can take longer in another run, so small differences say little.
#
# ## The same call with a text
#
# Stable Diffusion draws in the *latent space* of an autoencoder. Its UNet reads a text by *cross-attention*. At each step
# the UNet runs twice, with and without the text. Then the difference of the two outputs is enlarged (*guidance*). So
# calibration takes equally many inputs with and without the text. Nothing else changes.
#
# The course has two small models of emoji: `sd-emoji` reads a text, and `ldm-emoji` does not. `sd-emoji` was calibrated
# on other prompts than those in the figure. Its sampler (PLMS) runs the UNet once more than it has steps, so its curve
# has 26 points for 25 steps.
#
# **Predict:** the first figure has five rows, one for each way to store the weights and activations. Which rows still
# show what the text says: only full precision, full precision and Q-Diffusion, or all?

# %%
latent = recorded("latent")
show(figures.latent_pictures(latent.data, "sd-emoji", verified("recorded/latent/sd-emoji.png")))
show(figures.latent_errors(latent.data))
print(latent.source())
for name, model in latent.data["models"].items():
    last_mse = {row["label"]: row["mse"][-1] for row in model["rows"][1:]}
    ratio = last_mse["linear W4A8"] / last_mse["Q-Diffusion W4A8"]
    claim(ratio > 1.5, f"{name}: linear W4A8 has {ratio:.1f} times the error of Q-Diffusion W4A8")

# %% [markdown]
# **Observe.** All rows still show what the text says. Both methods change details of some pictures. The second figure
# measures this over all pictures: at W4A8, the error of the linear models is larger at every step.
#
# ## The same call at the paper's scale
#
# The library runs the network once, and so it finds the units and the shortcuts. It needs no list of known models. So the
# call below works for a network of the paper, and for your own network. It needs the weights, and a GPU for hours. Here
# the function is defined, but not called.
#
# A *preset* holds the paper's settings for one of its four models: ranges, sampler, steps and samples. A text-to-image
# model is calibrated on your prompts: half of its inputs have the text, half do not. FID is the Fréchet distance with the
# features of the Inception network. If a number has not been recorded with this library yet, the table says so.
#
# Sizes and bit operations need no weights. The networks are built without memory (on the *meta device*) and counted. The
# number of *bit operations* (BOPs) is $2 \times$ multiplications $\times$ weight bits $\times$ activation bits. A 32-bit
# float counts as 23 bits, the bits of its mantissa.
#
# The last lines were recorded on a large GPU. There, a network of the paper's form for CIFAR-10 was trained for three
# minutes, and then quantized in three ways. `RESULTS.md` shows its pictures.
#
# **Predict:** which W4A8 network of these has the smaller error after the last step: linear or Q-Diffusion? And which was
# calibrated faster?

# %% tags=["nbval-check-output"]
from qdiff_lib.course.paper_scale import costs, recorded_on_a_gpu, table
from qdiff_lib.recipes.presets import PRESETS


def at_paper_scale(name, work, source="", prompts=None):
    """name: of the preset. work: a folder, to continue after a stop. source: a folder, for models not on the hub."""
    full = load(source or PRESETS[name].hub, device="cuda")
    recipe = PRESETS[name].recipe(weights=4, activations=8)
    return quantize(full, recipe, work=work, resume=True, prompts=prompts)


on_gpu = recorded("gpu_cifar10")
print(table(("DDPM, CIFAR-10", "LDM-4, bedrooms", "Stable Diffusion v1.4")))
print(costs(), recorded_on_a_gpu(on_gpu.data), on_gpu.source(), sep="\n")
mse = {row["label"]: row["trajectory_mse"][-1] for row in on_gpu.data["rows"][1:]}
claim(
    mse["linear W4A8"] > 3 * mse["Q-Diffusion W4A8"],
    "on the GPU, the error of Q-Diffusion is the smaller one",
)

# %% [markdown]
# **Observe.** Q-Diffusion needs a minute more, and has the smaller error. In the pictures of `RESULTS.md` (section "A
# CIFAR-10 network on a GPU"), linear changes the colours.
#
# ## Where it breaks
#
# The weights keep their 4 learned bits. Now the *activations* get 4 bits, too, with the same ranges.
#
# **Predict:** does the model still draw clothes: yes or no?

# %%
from qdiff_lib.diffusion.pipelines import with_components

narrow = with_components(learned, unet=copy.deepcopy(learned.unet))
for quantizer in activation_quantizers(narrow.unet):  # from 256 values to 16, over the same range
    wider = (2**quantizer.grid.bits - 1) / 15
    quantizer.set_range(wider * quantizer.scale, (quantizer.zero_point / wider).round())
    quantizer.grid = Grid(bits=4)
broken = sample(narrow, **draw)
show(figures.pictures({label: run.images for label, run in (drawn | {"Q-Diffusion W4A4": broken}).items()}))
error_broken = trajectory_mse(truth, broken.trajectory)[-1].item()
claim(
    error_broken > 3 * error_fine,
    f"no clothes are left: the error is {error_broken:.3f}, {error_broken / error_fine:.0f} times that of W4A8",
)

# %% [markdown]
# Weights are fixed, so calibration can compensate their rounding errors. Activations are new for every input, so this is
# not possible for them. And 16 values are too few for a range that must include the outliers.
#
# ## Recap
#
# 1. Rounding to nearest is best for each weight alone. It is not best for an output, in which all errors add up.
# 2. AdaRound learns for each weight whether to round down or up. Its goal is a small error of a unit's output. A penalty
#    moves each $h$ to 0 or 1.
# 3. After that, the scales of the activations are learned. The split gives each half of a shortcut its own grid.
# 4. The file holds codes, two in a byte: parameters x bits / 8, and some percent for scales, biases and names.
# 5. Calibration takes time, but only once. The same call works for every UNet of diffusers.
#
# **Not shown:** FID on a large benchmark, which needs a GPU for hours. [Lesson 6](06_integer_execution.ipynb) measures
# speed.

# %%
quiz("05")
progress()

# %% [markdown]
# ## Read more
#
# - X. Li et al., [Q-Diffusion: Quantizing Diffusion Models](https://arxiv.org/abs/2302.04304), ICCV 2023. The whole
#   method. Section 4 has the experiments that are too large for this lesson.
# - M. Nagel et al., [Up or Down? Adaptive Rounding for Post-Training Quantization](https://arxiv.org/abs/2004.10568),
#   ICML 2020. AdaRound, and why nearest is not best.
# - Y. Li et al., [BRECQ: Pushing the Limit of Post-Training Quantization by Block
#   Reconstruction](https://arxiv.org/abs/2102.05426), ICLR 2021. Why to reconstruct blocks, not layers.
# - S. Esser et al., [Learned Step Size Quantization](https://arxiv.org/abs/1902.08153), ICLR 2020. LSQ.
# - E. Frantar et al., [GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
#   Transformers](https://arxiv.org/abs/2210.17323), ICLR 2023. The rounding from which the library starts.
#
# **Next:** [lesson 6](06_integer_execution.ipynb) computes this model in integers, and measures how much faster it is. In
# [lesson 7](07_build_adaround.ipynb) you write AdaRound yourself. You can also quantize your own model: call
# `quantize(pipe, Recipe.qdiffusion(weights=4, activations=8))`. If the pictures are wrong, lessons 1 to 4 help you to find
# the reason.
