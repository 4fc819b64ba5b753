# %% [markdown]
# # How can sixteen values for each weight draw the same pictures?
#
# | | |
# |---|---|
# | You will be able to | say what each part of Q-Diffusion does and costs, implement AdaRound's penalty and decision, pack 4-bit codes, quantize a diffusion model of your own |
# | You need | lessons 0 to 4 |
# | Minutes | 40 to work through; the cells run in less than a minute on two CPU cores |
# | Memory | below 900 MB |
# | In the paper | sections 3.3 and 4 of [Q-Diffusion](https://arxiv.org/abs/2302.04304) |
#
# ## The picture first
#
# W4A8 means: *weights* in 4 bits, *activations* (what flows between layers) in 8. Two models below have the same kind of
# file. The *linear* one rounds each weight to the nearest of its 16 values. The other one is made by Q-Diffusion:
# calibration inputs from all time steps (lesson 3), split shortcuts (lesson 4), and two parts that are new in this
# lesson, *learned rounding* and *learned step sizes*. Its first and last layer, 0.03 % of the weights, have 16 bits; the
# ladder below says what they do. On a GPU (profile `gpu`) the cell runs the whole method. On a CPU,
# which needs minutes for it, the cell loads the result that is shipped with the course. All cells after it are the same.

# %%
from qdiff_lib import Recipe, load, quantize, record, sample, with_sampler
from qdiff_lib.recipes.timestep_rules import Uniform

images, steps, samples = lesson.pick(tiny=(16, 20, 128), laptop=(32, 20, 256), gpu=(64, 100, 1024))
pipe = with_sampler(load("ddpm-fashion", device=lesson.device), "ddim")
inputs = record(pipe, Uniform(), samples, steps, batch_size=4)  # the noise network's inputs, of all steps
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
    f"after {steps} steps the error of linear rounding is {error_rough:.4f}, that of Q-Diffusion {error_fine:.4f}: "
    f"{error_rough / error_fine:.1f} times less (n = {images} images)",
)

# %% [markdown]
# ## A toy with a known best answer
#
# A layer of 101 neurons, each with ten weights of 4 bits. Its ten inputs are mixtures of three signals, as neighbouring
# pixels and channels are. Each weight can go down or up, so a neuron has $2^{10} = 1024$ roundings: few enough to try
# them all.
#
# **Predict:** rounding each weight to nearest moves each weight the least. What place does it take among all 1024, by the
# squared error of the neuron's output: usually the first, one of the first ten, or further back?

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
print(f"nearest: the best for {(place == 1).sum()} of {len(place)} neurons, median place {place.median()}")

# %% [markdown]
# ## The equation, and the lines that implement it
#
# Nearest makes each error small, but takes no notice of the others: where inputs are alike, errors of the same sign add
# up. The best rounding sends some weights the long way, so that errors cancel. A layer has thousands of weights, and
# $2^{1000}$ roundings cannot be tried. They can be learned: AdaRound gives each weight a variable $V$ that says how much
# of a step is added after rounding down, with $\gamma = -0.1$ and $\zeta = 1.1$:
#
# $$\tilde w = s\left(\mathrm{clip}\left(\lfloor w / s \rfloor + h(V) + z,\ 0,\ 2^b - 1\right) - z\right) \qquad
# h(V) = \mathrm{clip}\left(\sigma(V)(\zeta - \gamma) + \gamma,\ 0,\ 1\right)$$
#
# $h$ is soft at first, so that it has a gradient. The penalty $\sum 1 - |2h(V) - 1|^\beta$ pushes it to 0 or 1, while
# $\beta$ falls from 20 to 2 (in few iterations: from 8 to 1). The library's `AdaRound` holds $V$ and these formulas.

# %%
from qdiff_lib.quantizers.adaround import AdaRound

toy = AdaRound(w, s, z, bits=4)
optimizer = torch.optim.Adam([toy.v], lr=0.1)
for iteration in range(500):
    loss = output_error(toy()).sum()
    if iteration > 100:  # a warm-up without the penalty
        loss = loss + 0.03 * toy.regularizer(beta=20 - 18 * (iteration - 100) / 400)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
decided = output_error(toy.decided())
show(figures.all_roundings(errors, nearest, decided))
left = (decided.mean() / nearest.mean()).item()
claim(left < 0.6, f"learned roundings leave {left:.0%} of nearest's mean error; they are not always the best")

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
# model, the first block of the way up. It reads a concatenation, so one of its layers has two grids. (The library feeds
# each unit with what the quantized units before it give; this demonstration feeds it in full precision.)
#
# **Predict:** how many of its weights end on the *other* side of nearest: one in a thousand, one in ten, or half? With the
# slider you can follow them: each starts at its own fraction of a step, and wanders to one of two walls.

# %%
from qdiff_lib.course.one_unit import catch, moment, observe, quantized_unit, unit_error
from qdiff_lib.modules.activation_quantizer import activation_quantizers
from qdiff_lib.modules.quant_layer import quant_layers

NAME = "up_blocks.0.resnets.0"
recipe = Recipe.qdiffusion(4, 8, include=(NAME, f"{NAME}.*"), iterations=150)
how = recipe.rounding  # the part that says how weights get their codes
caught = catch(pipe.unet, NAME, inputs, batch_size=8)
unit, plain = (quantized_unit(pipe.unet, NAME, recipe) for _ in range(2))
for layer in quant_layers(plain):
    layer.round_weight()
rounds = [part for layer in quant_layers(unit) for part in layer.start_rounding()]
print(f"{len(quant_layers(unit))} layers, {len(rounds)} grids, {len(caught.output)} calibration inputs")
print(
    f"output error: {unit_error(unit, caught):.3f} soft, {unit_error(plain, caught):.3f} rounded to nearest"
)

# %%
from qdiff_lib.ptq.fitting import annealed_beta, reconstruction_loss

optimizer = torch.optim.Adam([part.v for part in rounds], lr=how.lr)
losses, moments = [], [moment(0, rounds)]
for iteration in range(how.iterations):
    args, target = caught.draw(how.batch_size, generator)
    loss = reconstruction_loss(unit(*args), target)
    losses.append(loss.item())
    if iteration >= how.warmup * how.iterations:
        beta = annealed_beta(iteration, how)
        loss = loss + how.regularization * sum(part.regularizer(beta) for part in rounds)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if (iteration + 1) % 15 == 0:
        moments.append(moment(iteration + 1, rounds, moments[0]))

# %%
for layer in quant_layers(unit):
    layer.finish_rounding()
at_nearest, at_learned, last = unit_error(plain, caught), unit_error(unit, caught), moments[-1]
show(figures.learning(losses, moments, at_nearest, at_learned))
claim(last.undecided < 0.05, f"{last.undecided:.1%} of the weights are still undecided at the end")
claim(
    0.01 < last.flipped < 0.4, f"{last.flipped:.1%} of {len(last.h):,} weights are not at their nearest value"
)
claim(
    at_learned < at_nearest / 1.5,
    f"the unit's error is {at_learned:.2f} instead of nearest's {at_nearest:.2f}",
)
explore(lambda k: figures.rounding_variables(moments[k]), "moment", range(len(moments)), twin=[0, 4, 7, 10])

# %% [markdown]
# ## Learned step sizes
#
# Once the weights are decided, activations get grids from the ranges that were seen, and then their step sizes are
# learned, too: *learned step size quantization* (LSQ) takes the gradient of a rounded value with respect to its scale
# straight through the rounding. At 8 bits little is left to win; at 4 bits the same lines show what they do.

# %%
for bits in (8, 4):
    observe(unit, caught, bits, generator)
    before = unit_error(unit, caught)
    optimizer = torch.optim.Adam([q.start_learning() for q in activation_quantizers(unit)], lr=1e-2)
    for _ in range(60):
        args, target = caught.draw(16, generator)
        optimizer.zero_grad()
        reconstruction_loss(unit(*args), target).backward()
        optimizer.step()
    _ = [q.finish_learning() for q in activation_quantizers(unit)]
    after = unit_error(unit, caught)
    print(
        f"{bits}-bit activations: error {before:.2f} with the ranges as seen, {after:.2f} with learned steps"
    )
claim(after < 0.8 * before, f"at 4 bits learned steps leave {after / before:.0%} of the unit's error")

# %% [markdown]
# ## The packed file
#
# What reaches the disk is the codes, two in a byte, and a scale and a zero point for each output channel of each part.
# Biases and norms stay floats: they are few.

# %%
from qdiff_lib import save_quantized
from qdiff_lib.course.packed_file import file_parts
from qdiff_lib.graph.cost import model_bytes, parameter_count
from qdiff_lib.io.shipped_data import verified

path = save_quantized(learned, "build/lesson-05/w4a8")
parts, on_disk = file_parts(path), path.stat().st_size
full = verified("models/ddpm-fashion/unet/diffusion_pytorch_model.safetensors").stat().st_size
show(figures.file_parts(parts, full))
count = parameter_count(pipe.unet)
ideal = model_bytes(count, bits=4)
print(f"{count:,} parameters x 4 bits / 8 = {ideal / 1e6:.3f} MB")
larger = (on_disk - parts["names and places"]) / ideal - 1
claim(0 < larger < 0.1, f"without names, the file is {larger:.0%} larger than parameters x bits / 8")

# %% [markdown]
# ### Exercise: two codes in a byte
#
# *Difficulty 2 of 5, importance 3 of 5, 6 minutes.* Write the packing. The first code takes the lower four bits.


# %% tags=["exercise"] exercise="05.pack_nibbles"
def pack_nibbles(codes: torch.Tensor) -> torch.Tensor:
    """Codes from 0 to 15, uint8 (n,), two in a byte: a tensor (ceil(n / 2),) of uint8.

    The upper four bits of a last byte with one code are 0.
    [3, 15, 1] becomes [3 + 16 * 15, 1] = [243, 1].
    """
    # BEGIN SOLUTION
    if len(codes) % 2:
        codes = torch.cat([codes, codes.new_zeros(1)])
    return codes[::2] + 16 * codes[1::2]
    # END SOLUTION


# %% tags=["nbval-check-output"]
from safetensors.torch import load_file

byte = torch.tensor([243], dtype=torch.uint8)  # the way back: cut a byte, subtract z, multiply by s
print(f"the byte {byte.item()} holds the codes {(byte % 16).item()} and {(byte // 16).item()}")
packed = load_file(path)["mid_block.resnets.0.conv1.codes"]
layer = learned.unet.mid_block.resnets[0].conv1
codes = torch.stack([packed % 16, packed // 16], dim=1).reshape(layer.weight.shape)
scale, zero_point = (part.cpu() for part in layer.part_grid(0))
print(f"{len(packed):,} bytes, {codes.numel():,} weights, {len(codes.unique())} different codes")
same = torch.equal(scale * (codes - zero_point), layer.weight.cpu())
print("unpacked by hand, they are the weights that the model computes with:", same)

# %% [markdown]
# ## What each part buys
#
# The whole model, calibrated once for each rung of a ladder; a rung keeps what the ones before it added. This takes many
# minutes on a CPU, so it was recorded. The last four rungs are not in the paper. In the first of them AdaRound starts
# from a rounding that compensates its own errors (*GPTQ*), and the scales and biases are learned as well. In the second
# the first and the last layer, 0.03 % of the weights, get 16 bits. The first one reads the noisy image itself: its
# rounding errors look like noise in the image, and the network was trained to act on noise. The third begins after the last
# unit: the codes, scales and biases of all layers learn together, so that the output of the *whole network* comes close
# to that in full precision. What one unit lost, others can make up for. For the fourth, both networks draw images from
# the same noise, and the last layer's bias is changed so that the quantized one's typical image is as bright as the
# other's (*bias correction*): small errors that go the same way at all steps add up.
#
# Two numbers judge pictures without looking for the same ones. The *Fréchet distance* compares the features of drawn
# and of real pictures as if both were normal distributions; the *KID* (kernel distance) does so without that assumption.
# In both, smaller is better. "left" is the share of the error of the rung before.
#
# **Predict:** which rung takes away the most error? Which costs the most time?

# %%
ladder = recorded("ladder")
rows, first, best = ladder.data["rows"], ladder.data["rows"][0], ladder.data["rows"][-2]
show(figures.ladder(rows, ladder.data["n"], ladder.data["floor"]))
print(figures.ladder_table(rows))
print(ladder.source())
gain, price = first["trajectory_mse"] / best["trajectory_mse"], best["seconds"] / first["seconds"]
claim(
    gain > 10, f"from the first rung to the last the error falls {gain:.0f} times, in a file of the same kind"
)
claim(price > 5, f"the price is {price:.0f} times as long a calibration, once: {best['seconds']:.0f} s")
beside = {row["label"]: row["trajectory_mse"] for row in ladder.data["besides"]}
alone = beside["linear, 16-bit first and last layer"]
claim(alone > 10 * best["trajectory_mse"], f"linear with 16-bit first and last layers still has {alone:.4f}")
up = [row["label"] for row, less in zip(rows[1:-1], rows) if row["trajectory_mse"] > less["trajectory_mse"]]
print("rungs that made it worse:", ", ".join(up))

# %% [markdown]
# AdaRound takes away most. The order of the rungs matters, and not each of them helps on this model.
# Ranges that are best for the weights by themselves, without learned rounding, need not be best for the pictures. And
# the halves of this small model's concatenations differ little (lesson 4), so the split cannot buy much here. Such small
# differences are also a matter of luck: of 128 images, one that turns into another garment moves the mean. What bias
# correction buys is less than that: `RESULTS.md` has it for 1,000 images and three seeds.
#
# ## The same call with a text
#
# Stable Diffusion draws in the *latent space* of an autoencoder, and its UNet reads a text by *cross-attention*. It asks
# the UNet twice at each step, with and without the text, and goes beyond the difference of the two answers (*guidance*).
# So calibration inputs are taken of both kinds, in equal parts, and nothing else changes. Two small models of emoji come
# with the course, one with a text and one without; they were quantized on prompts other than those below.
#
# **Predict:** in which rows will the pictures still show what the text says?

# %%
latent = recorded("latent")
models = latent.data["models"]
show(figures.latent_pictures(latent.data, "sd-emoji", verified("recorded/latent/sd-emoji.png")))
show(figures.latent_errors(latent.data))
print(latent.source())
for name, model in models.items():
    last = {row["label"]: row["mse"][-1] for row in model["rows"][1:]}
    ratio = last["linear W4A8"] / last["Q-Diffusion W4A8"]
    claim(ratio > 1.5, f"{name}: linear W4A8 has {ratio:.1f} times the error of Q-Diffusion W4A8")

# %% [markdown]
# ## The same call at the paper's scale
#
# Nothing in the library knows a model by name: units and shortcuts are found by running the network once. So the call
# below is the same for a network of the paper, or of your own. It needs the weights and a GPU for hours, and is defined
# here, not called. A *preset* holds the paper's settings for one of its four models: ranges, sampler, steps and
# samples. A text-to-image model is calibrated on your prompts, with and without text alike. FID is the Fréchet distance
# of the features of the Inception network. Numbers that nobody recorded with this library yet say so.
#
# Sizes and bit operations need no weights: the networks are built without memory (on the *meta device*) and counted. A
# *bit operation* (BOP) counts $2 \times$ multiplications $\times$ weight bits $\times$ activation bits; a 32-bit float
# counts as 23, the bits of its mantissa.

# %% tags=["nbval-check-output"]
from pathlib import Path

from qdiff_lib.course.paper_scale import table
from qdiff_lib.graph.cost import bops, layer_costs
from qdiff_lib.graph.networks import build
from qdiff_lib.recipes.presets import PRESETS


def at_paper_scale(name, folder="", prompts=None):  # name: of the preset; folder: of a model not on the hub
    full = load(folder or PRESETS[name].hub, device="cuda")
    recipe = PRESETS[name].recipe(weights=4, activations=8)
    return quantize(full, recipe, work=Path("build", name), resume=True, prompts=prompts)


print(table(("DDPM, CIFAR-10", "LDM-4, bedrooms", "Stable Diffusion v1.4")))
for name, preset in PRESETS.items():
    count, costs = parameter_count(build(preset.unet, device="meta")), layer_costs(preset.unet)
    tera = " -> ".join(f"{bops(costs, *bits) / 1e12:.2f}" for bits in ((32, 32), (8, 8), (4, 8)))
    print(f"{name:14} {count / 1e6:8.3f} M parameters {tera:>26} TBOPs (32/32, 8/8, 4/8)")

# %% [markdown]
# ## Where it breaks
#
# **Predict:** the weights keep their 4 learned bits. Now the *activations* get 4 bits as well, over the same ranges. Does
# the picture survive?

# %%
for quantizer in activation_quantizers(learned.unet):  # from 256 values to 16, over the same range
    wider = (2**quantizer.grid.bits - 1) / 15
    quantizer.set_range(wider * quantizer.scale, (quantizer.zero_point / wider).round())
    quantizer.grid = Grid(bits=4)
drawn["Q-Diffusion W4A4"] = sample(learned, **draw)
show(figures.pictures({label: found.images for label, found in drawn.items()}))
broken = trajectory_mse(truth, drawn["Q-Diffusion W4A4"].trajectory)[-1].item()
claim(broken > 3 * error_fine, f"the error is {broken:.3f}, {broken / error_fine:.0f} times that of W4A8")

# %% [markdown]
# Weights are fixed, so calibration can make up for their rounding. Activations are new for every input, and 16 values for
# a range that must hold the outliers are too few.
#
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
#   method; section 4 has what this lesson could not run.
# - M. Nagel et al., [Up or Down? Adaptive Rounding for Post-Training Quantization](https://arxiv.org/abs/2004.10568),
#   ICML 2020: AdaRound, and why nearest is not best.
# - Y. Li et al., [BRECQ](https://arxiv.org/abs/2102.05426), ICLR 2021: why to reconstruct blocks, not layers.
# - S. Esser et al., [Learned Step Size Quantization](https://arxiv.org/abs/1902.08153), ICLR 2020: LSQ.
# - E. Frantar et al., [GPTQ](https://arxiv.org/abs/2210.17323), ICLR 2023: the rounding that the library starts from.
#
# **Next:** a model of your own. `quantize(pipe, Recipe.qdiffusion(weights=4, activations=8))` is all it takes; lessons 1
# to 4 tell you where to look when the pictures are wrong.
