# %% [markdown]
# # When do integers make it faster?
#
# | | |
# |---|---|
# | You will be able to | compute a layer in whole numbers; choose an accumulator; go from sums back to codes without floating point; predict and measure a speed-up |
# | You need | lessons 0 and 5 |
# | Time | about 45 minutes; the cells run in about two minutes on two CPU cores, the first time in about three |
# | Memory | below 900 MB; the first time, a second process needs the same amount for about a minute |
# | In the paper | sections 3.3.2 and 4 of [Q-Diffusion](https://arxiv.org/abs/2302.04304) |
#
# All letters are in [notation and glossary](../docs/notation.md). The page `docs/engines.md` of the project says
# more about the programs that compute in integers.
#
# ## The picture first
#
# Until now the course *simulated* integers: it computed in floating point, and rounded. Here an *engine* computes with
# integers. An engine is a program that runs a network. The engine of this lesson is OpenVINO. It runs on the CPU, so all
# of this lesson runs there. If OpenVINO is not installed, the lesson says so. It then uses the *reference* engine of the
# library, which computes the same whole numbers, but slowly.
#
# The first time, the network must be translated into the engine's own form. This takes about a minute. The result is
# kept for the next time.

# %%
from qdiff_lib import load, run_on, sample, with_sampler
from qdiff_lib.course.integer_speed import engine_here, prepare
from qdiff_lib.engines.run import why_missing

engine = engine_here()
print(f"this lesson runs on: {engine}", why_missing("openvino"))
images, steps, batch, repeats = lesson.pick(tiny=(16, 30, 8, 5), laptop=(32, 50, 8, 9), gpu=(64, 50, 32, 9))
pipe = with_sampler(load("ddpm-fashion", device="cpu"), "ddim")
learned = with_sampler(load("ddpm-fashion-w4a8", device="cpu"), "ddim")
if engine == "openvino":
    prepare("ddpm-fashion-w4a8", learned.unet)
integers = run_on(learned, engine)
models = {"full precision": pipe, "W4A8,\nsimulated": learned, "W4A8,\nintegers": integers}
draw = dict(n=images, steps=steps, batch_size=batch, record=True, progress=True)
drawn = {label: sample(model, **draw) for label, model in models.items()}

# %%
from math import log10

from qdiff_lib.course.figures import lesson_06 as figures

show(figures.pictures({label: found.images for label, found in drawn.items()}))
truth, simulated, whole = (found.trajectory for found in drawn.values())
pairs = ((truth, simulated), (simulated, whole))
own, added = ((a[-1] - b[-1]).square().mean((1, 2, 3)).median().item() for a, b in pairs)  # the median image
distance = 10 * log10(own / added) if added else float("inf")
claim(
    distance > 10,
    f"in the median image the mean squared difference of integers and simulation is {added:.2g}: this is "
    f"{distance:.0f} dB below the error of quantization, {own:.2g}",
)

# %% [markdown]
# **Observe.** The last two rows are not bit for bit equal. Between two layers, each value is rounded to a code. If a
# value lies almost in the middle between two codes, the last bit of a floating-point number decides which code it gets.
# So a few codes differ. This changes the pictures far less than quantization itself does. The sums inside each layer are
# exact, as we show now.
#
# ## A toy: one neuron, three accumulators
#
# A *level* is a code minus its zero point, $q - z$. A weight of 4 bits has a level from $-15$ to $15$. An activation of 8
# bits has a level from $-255$ to $255$. A neuron adds many products of two levels. The register that holds the sum is the
# *accumulator*. If a sum is too large for it, the sum *wraps around* to another number. This is an *overflow*. There is
# no error message.
#
# **Predict:** the largest product is $15 \times 255 = 3825$. How many products of this size can be added in an
# accumulator of 16 bits before it overflows: 8, 128, or 32,767?

# %% tags=["nbval-check-output"]
import torch

generator = torch.Generator().manual_seed(0)
w_levels = torch.randint(2, 10, (64,), generator=generator)  # of a neuron with positive weights
x_levels = torch.randint(60, 243, (64,), generator=generator)
show(figures.running_sums(w_levels * x_levels))
largest, most = 15 * 255, 1152  # a product; how many of them one output of this course's model has at most
for bits in (8, 16, 32):
    print(
        f"int{bits}: up to {2 ** (bits - 1) - 1:,}: {(2 ** (bits - 1) - 1) // largest:,} of the largest products"
    )
claim((2**15 - 1) // largest == 8, "the sum of 8 products always fits into 16 bits, whatever their signs are")
claim(most * largest < 2**31, "in 32 bits, no sum of a layer with 8-bit inputs can overflow")

# %% [markdown]
# ## Zero points and padding
#
# The integer units of a chip multiply numbers of 8 bits. A code fits into 8 bits, but a level of an activation needs 9.
# So the engine multiplies the *codes* of the input by the levels of the weights, and corrects the result:
#
# $$\sum_i (q_{x,i} - z_x)(q_{w,i} - z_w) = \sum_i q_{x,i}\,(q_{w,i} - z_w)\ -\ z_x \sum_i (q_{w,i} - z_w)$$
#
# The last part does not depend on the input. So it is computed once, and becomes a part of the bias. There is one
# difficulty. A convolution adds *padding*: further inputs at the border, which stand for the number 0. The sum in the
# last part counts them, too.
#
# **Predict:** which code must a padded input have, so that the result is right: 0, 128, or $z_x$?

# %% tags=["nbval-check-output"]
z_x, z_w = 13, 7
q_x = torch.randint(256, (6,), generator=generator)
q_w = torch.randint(16, (8,), generator=generator)
exact = ((q_x - z_x) * (q_w[1:-1] - z_w)).sum().item()  # the two padded inputs at the ends add 0
correction = z_x * (q_w - z_w).sum().item()
results = {}
for code in (0, 128, z_x):
    padded = torch.nn.functional.pad(q_x, (1, 1), value=code)
    results[code] = (padded * (q_w - z_w)).sum().item() - correction
    print(f"padded with the code {code:3d}: {results[code]:6,}; the right result is {exact:,}")
claim(
    [code for code in results if results[code] == exact] == [z_x],
    "only the zero point is right: its level is 0",
)

# %% [markdown]
# ### Exercise: a bias that holds the zero points
#
# *Difficulty 2 of 5, importance 4 of 5, time: about 6 minutes.* A layer has the weight levels `w_levels` (O, C): each is
# a code minus the zero point of its row. The exact result is `(q_x - z_x) @ w_levels.T + bias`. The engine computes
# `q_x @ w_levels.T + new_bias`. Write the function that returns `new_bias`, so that both are equal for all `q_x`.


# %% tags=["exercise"] exercise="06.folded_bias"
import torch


def folded_bias(q_w: torch.Tensor, z_w: torch.Tensor, z_x: int, bias: torch.Tensor) -> torch.Tensor:
    """The new bias (O,): one whole number for each output channel, of any type that is exact.

    q_w: codes of the weights, uint8 (O, C). z_w: their zero points, uint8 (O,), one for each row. z_x: the zero
    point of the inputs, from 0 to 255. bias: the old one, int32 (O,). C can be several thousands.
    """
    # BEGIN SOLUTION
    w_levels = q_w.long() - z_w.long().unsqueeze(1)
    return bias.long() - z_x * w_levels.sum(dim=1)
    # END SOLUTION


# %% [markdown]
# ## A convolution of the model, by hand
#
# Here is a convolution of the real model, with a real input. Its kernel has 3 x 3 = 9 places. For each place we multiply
# two integer matrices, and we add the nine results. Then we compare the sum with the library's reference and with the
# simulated layer. The reference adds whole numbers without rounding.

# %% tags=["nbval-check-output"]
from qdiff_lib.course.integer_speed import input_of
from qdiff_lib.engines.reference import input_levels, integer_sums, weight_levels

layer = learned.unet.down_blocks[1].resnets[0].conv1
x = input_of(layer, learned.unet, truth[-5][:4], time=200)
levels, weight = input_levels(layer.inputs[0], x), weight_levels(layer)[0]
padded, (height, width) = torch.nn.functional.pad(levels, (1, 1, 1, 1)), levels.shape[2:]
total = torch.zeros(4, len(weight), height, width, dtype=torch.long)
for row in range(3):
    for column in range(3):
        window = padded[:, :, row : row + height, column : column + width]
        total += torch.einsum("nchw,oc->nohw", window, weight[:, :, row, column])
claim(
    torch.equal(total, integer_sums(layer, x)[0]),
    "each of our sums equals that of the library's reference",
)

# %%
scale = layer.inputs[0].scale.double() * layer.weight_scale.double()  # one for each output channel
output = layer(x).detach()
scaled = scale[:, :, None] * total + layer.bias.double()[:, None, None]
difference, size = (scaled - output).abs().max().item(), output.abs().max().item()
claim(
    difference < 1e-4 * size,
    f"sums times both scales, plus the bias, differ from the simulated output by at most {difference:.1g}; "
    f"outputs go up to {size:.1f}",
)
print(f"sums from {total.min():,} to {total.max():,}, of {weight[0].numel()} products each")

# %% [markdown]
# ## From sums back to codes
#
# The next layer needs codes again. A sum times $s_x s_w$ is the output as a real number. Divide it by the scale $s_y$ of
# the next layer, and round: this is a level. Add the zero point $z_y$: this is a code. So each sum is multiplied by
# $s_x s_w / s_y$. This factor is a small real number. To stay in integers, we replace it by $m / 2^k$, with a whole
# *multiplier* $m$ and a *shift* $k$. A chip divides by $2^k$ when it shifts all bits by $k$ places:
#
# $$q_y = \mathrm{clip}\left(\left\lfloor \frac{m \cdot \mathrm{sum} + 2^{k - 1}}{2^k} \right\rfloor + z_y,\ 0,\ 255\right)
# \qquad \frac{m}{2^k} \approx \frac{s_x s_w}{s_y}$$
#
# This is called *requantization*. A shift alone rounds down. With $2^{k-1}$ added before the shift, it rounds to nearest.
# (Engines for CPUs mostly use floating point for this one multiplication. Small chips cannot compute in floating point.)

# %%
factor = (scale[0, 0] / layer.inputs[0].scale).item()  # as if the next layer had the same scale
sums, wrong = total[:, 0].flatten(), {}
true_codes = (sums * factor + 0.5).floor()
for bits in (4, 8, 12, 16, 24, 31):
    k = bits - 1 - int(torch.tensor(factor).log2().floor())  # so that m fills its bits
    m = round(factor * 2**k)
    wrong[bits] = ((sums * m + 2 ** (k - 1) >> k) != true_codes).double().mean().item()
    print(f"multiplier of {bits:2d} bits: {m:13,} / 2^{k}, {wrong[bits]:.2%} of {len(sums)} codes differ")
claim(wrong[31] <= wrong[4], "the multiplier of 31 bits does not give more wrong codes than that of 4 bits")

# %% [markdown]
# ### Exercise: requantization
#
# *Difficulty 3 of 5, importance 3 of 5, time: about 7 minutes.* Write the equation above, with `multiplier` for $m$,
# `shift` for $k$ and `zero_point` for $z_y$. Note that the sums have 32 bits, and the multiplier has up to 31.


# %% tags=["exercise"] exercise="06.requantize"
def requantize(sums: torch.Tensor, multiplier: int, shift: int, zero_point: int) -> torch.Tensor:
    """The codes (n,), from 0 to 255, of the sums (n,), in integers of any type.

    sums: int32. multiplier: from 1 to 2^31 - 1. shift: at least 1. zero_point: from 0 to 255. Halves round up.
    """
    # BEGIN SOLUTION
    rounded = (sums.long() * multiplier + 2 ** (shift - 1)) >> shift
    return (rounded + zero_point).clamp(0, 255)
    # END SOLUTION


# %% [markdown]
# ## The whole network on your machine
#
# Which share of the network's products runs in integers? The engine has a list of all layers. It says whether a layer
# runs in integers or in floating point.
#
# Then we measure the time of one call of the network, in three ways: torch in floating point, OpenVINO in floating point,
# and OpenVINO in integers. The last two run the same graph. So only the arithmetic differs. The three calls are repeated
# in turns. We take the median of the times, because other programs can disturb single calls.

# %%
from qdiff_lib.cli.doctor import check_engines
from qdiff_lib.course.integer_speed import measure

speed = None
print(check_engines().detail)
if engine == "openvino":
    speed = measure(pipe.unet, integers.unet.forward.engine, batch, repeats)
    share = speed.integer_share
    claim(share > 0.9, f"{share:.1%} of the multiply-accumulates run in integers")
    print(f"{batch} images, {torch.get_num_threads()} thread(s): torch {speed.torch:.0f} ms")
else:
    print("Without OpenVINO there is nothing fast to measure. Read on: recorded results come below.")

# %% [markdown]
# ## A prediction from the roofline
#
# How fast can this machine multiply? We measure a wide convolution, in floats and in 8-bit integers. The two rates are
# the flat *roofs* of the figure. A point is one layer of the network. The further left it is, the fewer products the
# layer computes for each byte that it reads or writes. At the left the roofs slope down: there, the memory is too slow to
# bring the numbers. The slope is measured with a copy of a large array. The numbers of a small layer can stay in the
# processor's caches, which are faster. So a point can lie above the slope. No point should lie far above the flat part of
# its roof. (It can happen if other programs disturb the measurement of a roof.)
#
# Let $g$ be the ratio of the two roofs: integer products are $g$ times as fast as float products. Let $p$ be the share of
# the time that products take in floating point. *Amdahl's law* says how many times as fast the whole becomes:
#
# $$\frac{1}{1 - p + p / g}$$
#
# **Predict:** products become $g$ times as fast. And the whole network: more than $g$ times as fast, exactly $g$ times, or
# a number between 1 and $g$?

# %%
if speed:
    show(figures.roofline(speed))
    g, p = speed.rates["int8"] / speed.rates["float"], speed.floats.share
    predicted = figures.amdahl(p, g)
    measured = speed.floats.milliseconds / speed.integers.milliseconds
    claim(
        min(1, g) <= predicted <= max(1, g),
        f"between 1 and g = {g:.1f}: products take {p:.0%} of the time, so Amdahl's law gives {predicted:.2f}",
    )
    print(f"floats {speed.floats.milliseconds:.0f} ms, integers {speed.integers.milliseconds:.0f} ms")
    print(f"measured: {measured:.2f} times as fast; prediction / measurement {predicted / measured:.2f}")
else:
    print("not measured: OpenVINO is not installed here")

# %%
if speed:
    show(figures.time_by_kind({"floats": speed.floats, "integers": speed.integers}))
    kinds = {name: run.kinds for name, run in (("floats", speed.floats), ("integers", speed.integers))}
    gain = kinds["floats"]["products"] / kinds["integers"]["products"]
    rest = {name: sum(found.values()) - found["products"] for name, found in kinds.items()}
    claim(all(value > 0 for value in rest.values()), "in floats and in integers, not all time is in products")
    print(
        f"integers make the network's products {gain:.1f} times as fast, the wide convolution {g:.1f} times"
    )
    print(f"the rest: {rest['floats']:.1f} ms in floats, {rest['integers']:.1f} ms in integers")
    print(f"share of products: {speed.floats.share:.0%} in floats, {speed.integers.share:.0%} in integers")
else:
    print("not measured: OpenVINO is not installed here")

# %% [markdown]
# ## Why the prediction and the measurement differ
#
# **Observe.** The engine measures the time of each operation. The figure adds up these times, for one call. The cell
# before it gives the median time of several whole calls. So the two totals differ. In the figure, *means of norms* are
# the means that norms compute. *Element-wise* are operations on single numbers, such as activation functions. Both stay
# in floating point, so their time does not shrink. Amdahl's law already includes this. Two things are not in the
# prediction:
#
# 1. *Small layers do not reach the roof.* A product of few channels ends before all of the chip is busy. So compare the
#    two numbers above: how much faster the network's products become, and how much faster the wide convolution.
# 2. *Integers need extra work.* Each input is rounded to codes, and data may move to another order in memory. In the
#    times above this work is a part of the rest.
#
# Also, each measured time differs a little from run to run. On a CPU without fast instructions for 8-bit integers, $g$ is
# smaller. If it is near 1, integers save memory, but no time.

# %% [markdown]
# ### Exercise: what Amdahl's law allows
#
# *Difficulty 2 of 5, importance 5 of 5, time: about 5 minutes.* You get the time of each operation in floating point.
# Write the *speed-up*: the old time divided by the new time. The new time also includes the extra work for integers.


# %% tags=["exercise"] exercise="06.amdahl_speedup"
def amdahl_speedup(milliseconds: torch.Tensor, products: torch.Tensor, rate: float, added: float) -> float:
    """Old time / new time, one number. Products become ``rate`` times as fast, conversions add ``added`` ms.

    milliseconds: of each operation, float32 (n,). products: which of them are products, bool (n,).
    """
    # BEGIN SOLUTION
    rest = milliseconds[~products].sum()
    faster = milliseconds[products].sum() / rate
    return (milliseconds.sum() / (rest + faster + added)).item()
    # END SOLUTION


# %% [markdown]
# ## The limit
#
# Move the slider: it sets the share of the time that products take. The dashed line is the limit for infinitely fast
# products.

# %%
explore(figures.amdahl_curve, "share of products (%)", values=[50, 60, 70, 80, 90, 95], twin=[50, 80, 90, 95])
claim(
    figures.amdahl(0.5, 1e6) < 2 < figures.amdahl(0.9, 4),
    f"with a share of 90 % and products 4 times as fast, the network is {figures.amdahl(0.9, 4):.2f} times as "
    "fast; with a share of 50 % it always stays below 2 times",
)

# %% [markdown]
# ## A wider network, and a GPU
#
# With twice as many channels, a convolution has four times as many products. Norms and activation functions have only
# twice as many numbers to compute. So in a wide network, products take a larger share of the time, and integers gain
# more. The network of the paper for CIFAR-10 has four times the channels of this course's model. It is too slow for a
# lesson, so its times are recorded.

# %%
from qdiff_lib.course.recorded import recorded

on_cpu, on_gpu = recorded("engines"), recorded("gpu_engines")
print(f"CPU:\n{figures.speed_table(on_cpu.data['cases'])}\n{on_cpu.source()}\n")
print(f"GPU:\n{figures.gpu_table(on_gpu.data)}\n{on_gpu.source()}\n")
narrow, wide = figures.largest_gains(on_cpu.data["cases"]).values()
claim(
    wide > narrow, f"on the CPU, integers are at most {narrow:.1f} and {wide:.1f} times as fast as torch fp32"
)
for name, network in on_gpu.data.items():
    spent = figures.gpu_milliseconds(network["results"][0])
    ratio = spent["integers graph"] / spent["bf16 graph"]
    claim(
        ratio > 1,
        f"{name}: on this GPU integers take {ratio:.2f} times as long as bf16, each in one CUDA graph",
    )

# %% [markdown]
# **Observe.** On the CPU, the wide network gains more from integers than the narrow one. On this GPU, our engine gains
# nothing yet. It runs two programs for each layer: one quantizes the input, one multiplies. In bf16 one program is
# enough. A *CUDA graph* starts all programs at once, so the time that Python needs is not the reason. The weights stay
# packed, so the network needs less memory.
#
# ## Where it breaks
#
# The first and the last layer of this model keep 16 bits, for their weights and their inputs (lesson 5). The engine
# computes them in floating point. Why not in integers, too? We compute the sums of the last layer exactly, in 64 bits.
# Then we look at what an accumulator of 32 bits would hold.
#
# **Predict:** what does the accumulator of 32 bits hold: the right sums everywhere, slightly rounded sums, or completely
# different numbers where the sums are large?

# %%
last = learned.unet.conv_out
big = integer_sums(last, input_of(last, learned.unet, truth[0][:4], time=999))[0]
other = (figures.wrapped(big, 32) != big).double().mean().item()
show(figures.channel_pictures(figures.largest_channel(big), bits=32))
claim(
    other > 0.25,
    f"{other:.0%} of all sums wrap around: this layer needs a wider accumulator, or floating point",
)

# %% [markdown]
# ## Recap
#
# 1. On grids, an output is a whole number times two scales, plus the bias. An accumulator of 32 bits is enough for all
#    layers of this model with 8-bit inputs.
# 2. The zero point of the input goes into the bias. A padded input has the code of the number 0, which is $z_x$.
# 3. A multiplier and a shift turn the sums into codes again, without floating point.
# 4. The speed-up of the whole network depends on the share of the time that products take, and on how busy they keep the
#    chip.
# 5. So integers gain most in wide networks, on chips with fast instructions for them.
#
# **Not shown:** engines that keep the weights in 4 bits while they compute (OpenVINO multiplies 8-bit numbers), and how to
# tune an engine. On every machine, 4-bit weights need a quarter of the bytes of 16-bit weights, and an eighth of those of
# 32-bit weights.

# %%
quiz("06")
progress()

# %% [markdown]
# ## Read more
#
# - B. Jacob et al., [Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
#   Inference](https://arxiv.org/abs/1712.05877), CVPR 2018. Zero points, accumulators, multiplier and shift.
# - H. Wu et al., [Integer Quantization for Deep Learning Inference: Principles and Empirical
#   Evaluation](https://arxiv.org/abs/2004.09602), 2020. Which zero points cost time, and which do not.
# - S. Williams, A. Waterman and D. Patterson, [Roofline: an insightful visual performance model for multicore
#   architectures](https://doi.org/10.1145/1498765.1498785), Communications of the ACM, 2009. The figure with the roofs.
# - G. Amdahl, [Validity of the single processor approach to achieving large scale computing
#   capabilities](https://doi.org/10.1145/1465482.1465560), AFIPS, 1967. The law, in words.
#
# **Next:** in [lesson 7](07_build_adaround.ipynb) you write the learning loop of lesson 5 yourself. In the
# [capstone](capstone.ipynb) you quantize a model that you do not know, within a budget. You can also run your own
# quantized model: call `run_on(pipe, "openvino")`, and measure.
